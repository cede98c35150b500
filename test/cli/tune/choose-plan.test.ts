import assert from 'node:assert/strict';
import { choosePlan, MOST_REJECTED, MOST_TRIALS } from '../../../cli/tune/choose-plan.js';
import type { PlanEstimate } from '../../../cli/tune/search.js';

function plan(ms: number, cost: number): PlanEstimate {
  const exact = cost === 0;
  const form = { operator: 'some-operator', attributes: { ms } };
  return { sites: new Map([['site', { form, ms, cost, exact }]]), ms, cost, exact };
}

/** Plans from fast and costly to slow and cheap, and the exact one. */
const PLANS = [...[8, 6, 4, 3, 2, 1.5, 1, 0.5].map((cost, i) => plan(10 * (i + 1), cost)), plan(100, 0)];
const EXACT = PLANS.at(-1)!;

/** Chooses with plans that really cost what they are estimated at, times a factor for each half of the data. */
async function choose(budget: number, calibration: number, heldOut: number, error = 0.01) {
  const run = { calibration: [] as number[], heldOut: [] as number[] };
  const observed = (half: keyof typeof run, factor: number) => async (tried: PlanEstimate) => {
    assert.ok(!tried.exact, 'exact attention needs no run');
    run[half].push(tried.cost);
    return { mean: factor * tried.cost, error };
  };
  const chosen = await choosePlan(budget, 1, {
    fastestWithin: async cost => PLANS.find(one => one.cost <= cost)!,
    calibrate: observed('calibration', calibration),
    holdOut: async tried => {
      const seen = await observed('heldOut', heldOut)(tried);
      return { heldOut: seen, elsewhere: { mean: ((calibration + heldOut) / 2) * tried.cost, error } };
    },
  });
  return { ...chosen, run };
}

describe('the choice of a plan', () => {
  it('is the fastest within the budget when estimates hold', async () => {
    const { plan: chosen, expected, heldOut, correction, rejected } = await choose(3.5, 1, 1);
    assert.equal(chosen.cost, 3);
    assert.deepEqual([expected.mean, heldOut.mean, correction, rejected], [3, 3, 1, 0]);
  });

  it('corrects sums of costs that are too low, and too high', async () => {
    assert.equal((await choose(3.5, 2, 2)).plan.cost, 1.5);
    const { plan: chosen, correction, tried } = await choose(3.5, 0.5, 0.5);
    assert.equal(chosen.cost, 6);
    assert.equal(correction, 0.5);
    assert.ok(tried.length > 1 && tried.some(one => one.plan === chosen));
  });

  it('spares a standard error', async () => {
    assert.equal((await choose(3.5, 1, 1, 0.4)).plan.cost, 3);
    assert.equal((await choose(3.5, 1, 1, 0.6)).plan.cost, 2);
  });

  it('backs off when held-out data disagrees, and never keeps a plan that all data says is over the budget', async () => {
    for (const factor of [0.5, 1, 1.2, 2, 3, 7, 100]) {
      const { plan: chosen, heldOut, elsewhere, rejected } = await choose(3.5, 1, factor);
      assert.ok(elsewhere.mean + elsewhere.error <= 3.5, `${elsewhere.mean} at ${factor}`);
      assert.ok(rejected <= MOST_REJECTED);
      if (!chosen.exact) assert.ok(Math.abs(heldOut.mean - factor * chosen.cost) < 1e-12);
    }
    const { plan: chosen, rejected } = await choose(3.5, 1, 2);
    assert.equal(chosen.cost, 2);
    assert.equal(rejected, 1);
  });

  it('is exact attention when nothing else keeps the budget', async () => {
    const { plan: chosen, expected, heldOut, run } = await choose(0.1, 1, 1);
    assert.equal(chosen, EXACT);
    assert.deepEqual([expected.mean, heldOut.mean], [0, 0]);
    assert.deepEqual(run, { calibration: [], heldOut: [] });
    assert.equal((await choose(0.5, 100, 100)).plan, EXACT);
  });

  it('runs a bounded number of plans, each at most once a half', async () => {
    for (const factor of [0.1, 0.3, 1, 3, 10]) {
      const { run } = await choose(3.5, factor, 1.5 * factor);
      assert.ok(run.calibration.length <= MOST_TRIALS + MOST_REJECTED);
      assert.ok(run.heldOut.length <= MOST_REJECTED + 1);
      for (const costs of Object.values(run)) assert.equal(new Set(costs).size, costs.length);
    }
  });
});
