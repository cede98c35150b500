import assert from 'node:assert/strict';
import { CostModel } from '../../../cli/tune/cost-model.js';

const near = (actual: number, expected: number) =>
  assert.ok(Math.abs(actual - expected) <= 1e-9 * Math.abs(expected) + 1e-12, `${actual} is not ${expected}`);
const total = (costs: readonly number[]) => costs.reduce((sum, cost) => sum + cost, 0);

describe('costs of errors', () => {
  it('are in proportion to the error when one form is known', () => {
    const model = new CostModel(2);
    model.learnWhole({ family: 'a', headErrors: [0.1, 0.3] }, 8);
    assert.deepEqual(model.headCosts({ family: 'a', headErrors: [0, 0] }), [0, 0]);
    const costs = model.headCosts({ family: 'b', headErrors: [0.05, 0.05] });
    near(costs[0]!, 1);
    near(costs[1]!, 1);
  });

  it('follow a power of the error between two forms, and meet both', () => {
    const model = new CostModel(1);
    model.learnWhole({ family: 'a', headErrors: [0.01] }, 1);
    model.learnWhole({ family: 'a', headErrors: [1] }, 10);
    const cost = (error: number) => total(model.headCosts({ family: 'a', headErrors: [error] }));
    near(cost(0.01), 1);
    near(cost(1), 10);
    near(cost(0.1), Math.sqrt(10));
    near(cost(0.001), 0.1);
  });

  it('tell heads apart, correct their sum by whole forms, and prefer those of the family', () => {
    const model = new CostModel(2);
    model.learnWhole({ family: 'a', headErrors: [0.2, 0.2] }, 3);
    model.learnWhole({ family: 'b', headErrors: [0.2, 0.1] }, 8);
    model.learnGroups([
      { heads: [0], seen: [{ headErrors: [0.2, 0.2], divergence: 2 }] },
      { heads: [1], seen: [{ headErrors: [0.2, 0.2], divergence: 4 }] },
    ]);
    // The sum is 6 where 3 was measured, and 4 where 8 was.
    const [first, second] = model.headCosts({ family: 'a', headErrors: [0.1, 0.2] });
    near(first!, 0.5);
    near(second!, 2);
    near(total(model.headCosts({ family: 'b', headErrors: [0.1, 0.1] })), 6);
    near(total(model.headCosts({ family: 'other', headErrors: [0.2, 0.19] })), 0.5 * 5.8);
  });
});
