import assert from 'node:assert/strict';
import { type PlanEstimate, searchPlans } from '../../../cli/tune/search.js';
import type { FormMeasurement, SiteMeasurement } from '../../../cli/tune/site-bench.js';
import { KEPT, type SiteForm } from '../../../cli/tune/site-form.js';
import { multipoleTuningSpace } from '../../../custom-ops/multipole-attention/tuning-space.js';
import { SeededRandom } from '../../../custom-ops/seeded-random.js';
import { tunableSite } from './tunable-site.js';

const OPERATOR = multipoleTuningSpace.operator.id;
const EXACT: SiteForm = { operator: OPERATOR, attributes: { retrieve: -1 } };
const HEADS = 4;

const change = (mean: number) => ({ mean, error: 0 });

function measured(retrieve: number, ms: number, cost: number, heads: readonly number[] | null = null) {
  return {
    form: { operator: OPERATOR, attributes: { segment: 64, retrieve } },
    ms,
    error: 0.1,
    headErrors: [],
    change: change(cost),
    headChanges: heads?.map(change) ?? null,
  } satisfies FormMeasurement;
}

function site(id: string, exactMs: number, forms: readonly FormMeasurement[]): SiteMeasurement {
  return { site: tunableSite(id, HEADS), exactMs, forms };
}

const search = (sites: readonly SiteMeasurement[]) => searchPlans(sites, () => EXACT);
const bestWithin = (plans: readonly PlanEstimate[], budget: number) =>
  plans.find(({ cost }) => cost <= budget)!;

describe('search for plans', () => {
  it('finds what trying all combinations finds', () => {
    const random = new SeededRandom(5);
    const sites = Array.from({ length: 4 }, (_, s) =>
      site(
        `site ${s}`,
        100,
        Array.from({ length: 4 }, (_, f) => measured(f, 20 + 70 * random.uniform(), 3 * random.uniform())),
      ),
    );
    const plans = search(sites);
    let all = [{ ms: 0, cost: 0 }];
    for (const { forms } of sites) {
      const options = [
        { ms: 100, cost: 0 },
        ...forms.map(form => ({ ms: form.ms, cost: form.change!.mean })),
      ];
      all = all.flatMap(plan => options.map(o => ({ ms: plan.ms + o.ms, cost: plan.cost + o.cost })));
    }
    for (const budget of [0, 0.3, 1, 2, 4, 12]) {
      const fastest = Math.min(...all.filter(({ cost }) => cost <= budget).map(({ ms }) => ms));
      assert.ok(Math.abs(bestWithin(plans, budget).ms - fastest) < 1e-9, `budget ${budget}`);
    }
  });

  it('lists plans from fast to exact, none beaten by another', () => {
    const plans = search([
      site('a', 100, [measured(0, 20, 5), measured(8, 50, 1), measured(32, 60, 2)]),
      site('b', 100, [measured(0, 30, 0.5)]),
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

  it('takes a change for the better as chance, and still ends in exact attention', () => {
    const plans = search([site('a', 100, [measured(0, 20, -3)])]);
    assert.deepEqual(
      plans.map(({ ms, cost, exact }) => [ms, cost, exact]),
      [
        [20, 0, false],
        [100, 0, true],
      ],
    );
  });

  it('gives heads what they need', () => {
    const [cheap, costly] = [0.01, 2];
    const plans = search([
      site('a', 100, [
        measured(0, 20, 3, [cheap, costly, cheap, cheap]),
        measured(8, 40, 0.5, [0, 0.4, 0, 0]),
      ]),
    ]);
    const numbers = (budget: number) => bestWithin(plans, budget).sites.get('a')!.form.attributes;
    assert.deepEqual(numbers(0.05), { segment: 64, retrieve: [0, -1, 0, 0] });
    assert.deepEqual(numbers(0.45), { segment: 64, retrieve: [0, 8, 0, 0] });
    assert.deepEqual(numbers(5), { segment: 64, retrieve: 0 });
    assert.ok(Math.abs(bestWithin(plans, 0.05).ms - (3 * 5 + 25)) < 1e-9);
    assert.ok(Math.abs(bestWithin(plans, 0.05).cost - 3 * cheap) < 1e-9);
  });

  it('keeps what the model has where that is the fastest exact attention', () => {
    const kept = { ...measured(0, 70, 0), form: KEPT, change: null };
    const plans = search([site('a', 100, [kept, measured(0, 20, 1)])]);
    assert.deepEqual(plans.at(-1)!.sites.get('a')!.form, KEPT);
    assert.equal(plans.at(-1)!.ms, 70);
  });
});
