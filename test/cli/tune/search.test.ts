import assert from 'node:assert/strict';
import { isSamePlan, type PlanEstimate, type SiteOptions, searchPlans } from '../../../cli/tune/search.js';
import { SeededRandom } from '../../../custom-ops/seeded-random.js';

const OPERATOR = 'multipole-attention';

function option(retrieve: number, ms: number, cost: number) {
  return { form: { operator: OPERATOR, attributes: { retrieve } }, ms, cost, exact: retrieve === -1 };
}

function site(id: string, exactMs: number, approximations: SiteOptions['approximations']): SiteOptions {
  return { id, exact: option(-1, exactMs, 0), approximations };
}

const bestWithin = (plans: readonly PlanEstimate[], budget: number) =>
  plans.find(({ cost }) => cost <= budget)!;

describe('search for plans', () => {
  it('finds what trying all combinations finds', () => {
    const random = new SeededRandom(5);
    const sites = Array.from({ length: 4 }, (_, s) =>
      site(
        `site ${s}`,
        100,
        Array.from({ length: 4 }, (_, f) => option(f, 20 + 70 * random.uniform(), 3 * random.uniform())),
      ),
    );
    const plans = searchPlans(sites);
    let all = [{ ms: 0, cost: 0 }];
    for (const { exact, approximations } of sites) {
      const options = [exact, ...approximations];
      all = all.flatMap(plan => options.map(o => ({ ms: plan.ms + o.ms, cost: plan.cost + o.cost })));
    }
    for (const budget of [0, 0.3, 1, 2, 4, 12]) {
      const fastest = Math.min(...all.filter(({ cost }) => cost <= budget).map(({ ms }) => ms));
      assert.ok(Math.abs(bestWithin(plans, budget).ms - fastest) < 1e-9, `budget ${budget}`);
    }
  });

  it('lists plans from fast to exact, none beaten by another', () => {
    const plans = searchPlans([
      site('a', 100, [option(0, 20, 5), option(8, 50, 1), option(32, 60, 2)]),
      site('b', 100, [option(0, 30, 0.5)]),
    ]);
    for (const [i, plan] of plans.slice(1).entries()) {
      assert.ok(plan.ms > plans[i]!.ms && plan.cost <= plans[i]!.cost);
      assert.ok(![...plan.sites.values()].some(({ form }) => form.attributes.retrieve === 32));
    }
    const exact = plans.at(-1)!;
    assert.deepEqual(
      plans.map(plan => plan.exact),
      plans.map(plan => plan === exact),
    );
    assert.deepEqual([exact.ms, exact.cost], [200, 0]);
  });

  it('ends in exact attention, even where an approximation seems to cost nothing', () => {
    const plans = searchPlans([site('a', 100, [option(0, 20, 0)])]);
    assert.deepEqual(
      plans.map(({ ms, cost, exact }) => [ms, cost, exact]),
      [
        [20, 0, false],
        [100, 0, true],
      ],
    );
  });

  it('knows the same plan again', () => {
    const search = (ms: number) => searchPlans([site('a', 100, [option(0, ms, 1)])]);
    assert.ok(isSamePlan(search(20)[0]!, search(30)[0]!));
    assert.ok(!isSamePlan(search(20)[0]!, search(20)[1]!));
  });
});
