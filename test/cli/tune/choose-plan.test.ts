import assert from 'node:assert/strict';
import { choosePlan } from '../../../cli/tune/choose-plan.js';
import type { PlanEstimate } from '../../../cli/tune/search.js';

/** Plans from fast and costly to slow and cheap, and the exact one. */
const PLANS: readonly PlanEstimate[] = [
  ...[8, 6, 4, 3, 2, 1.5, 1, 0.5].map((cost, i) => ({
    sites: new Map(),
    ms: 10 * (i + 1),
    cost,
    exact: false,
  })),
  { sites: new Map(), ms: 100, cost: 0, exact: true },
];
const EXACT = PLANS.at(-1)!;

/** Chooses with plans that really cost what they are estimated at, times a factor for each half of the data. */
async function choose(budget: number, calibration: number, heldOut: number) {
  const checked: [cost: number, windows: string][] = [];
  const result = await choosePlan(PLANS, budget, async (plan, windows) => {
    assert.ok(!plan.exact, 'exact attention needs no check');
    checked.push([plan.cost, windows]);
    return { mean: plan.cost * (windows === 'calibration' ? calibration : heldOut), error: 0.1 };
  });
  return { ...result, checked };
}

describe('the choice of a plan', () => {
  it('is the fastest within the budget when estimates hold', async () => {
    const { plan, calibrated, heldOut, correction, rejected } = await choose(3.5, 1, 1);
    assert.equal(plan.cost, 3);
    assert.deepEqual([calibrated.mean, heldOut.mean, correction, rejected], [3, 3, 1, 0]);
  });

  it('corrects sums of costs that are too low, and too high', async () => {
    assert.equal((await choose(3.5, 2, 2)).plan.cost, 1.5);
    const { plan, correction } = await choose(3.5, 0.5, 0.5);
    assert.equal(plan.cost, 6);
    assert.equal(correction, 0.5);
  });

  it('backs off when held-out data disagrees, and never keeps a plan over the budget', async () => {
    for (const heldOut of [0.5, 1, 1.2, 2, 3, 7]) {
      const chosen = await choose(3.5, 1, heldOut);
      assert.ok(chosen.heldOut.mean <= 3.5, `${chosen.heldOut.mean} at ${heldOut}`);
      if (!chosen.plan.exact) assert.ok(Math.abs(chosen.heldOut.mean - heldOut * chosen.plan.cost) < 1e-12);
    }
    const { plan, rejected } = await choose(3.5, 1, 2);
    assert.equal(plan.cost, 1.5);
    assert.equal(rejected, 1);
  });

  it('is exact attention when nothing else keeps the budget', async () => {
    const { plan, calibrated, heldOut, checked } = await choose(0.1, 1, 1);
    assert.equal(plan, EXACT);
    assert.deepEqual([calibrated.mean, heldOut.mean, checked.length], [0, 0, 0]);
    assert.equal((await choose(0.5, 100, 100)).plan, EXACT);
  });

  it('runs a bounded number of plans, each at most once a half', async () => {
    for (const factor of [0.1, 0.3, 1, 3, 10]) {
      const { checked } = await choose(3.5, factor, 1.5 * factor);
      assert.ok(checked.length <= 16);
      const calibration = checked.filter(([, windows]) => windows === 'heldOut').map(([cost]) => cost);
      assert.equal(new Set(calibration).size, calibration.length);
    }
  });
});
