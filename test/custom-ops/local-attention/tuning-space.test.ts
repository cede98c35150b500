import assert from 'node:assert/strict';
import { localTuningSpace } from '../../../custom-ops/local-attention/tuning-space.js';
import { multipoleTuningSpace } from '../../../custom-ops/multipole-attention/tuning-space.js';
import { tunableSite } from '../../cli/tune/tunable-site.js';

const LENGTH = 57;

describe('tuning space of local attention', () => {
  for (const [left, right] of [
    [10, 0],
    [4, 9],
    [null, 3],
    [1000, 1000],
  ] as const) {
    it(`counts the pairs of a window of ${left} before and ${right} after`, () => {
      const { site } = tunableSite('one', 4, right === 0);
      const { operator, exact, operations } = localTuningSpace;
      const count = operations(operator.resolve({ ...site, window: { left, right } }, exact!), 4, LENGTH);
      let pairs = 0;
      for (let i = 0; i < LENGTH; i++) {
        for (let j = 0; j < LENGTH; j++) if (i - j <= (left ?? LENGTH) && j - i <= right) pairs++;
      }
      assert.equal(count.chosen, 4 * 2 * pairs);
      const { operator: other, exact: settings } = multipoleTuningSpace;
      const standard = multipoleTuningSpace.operations(other.resolve(site, settings!), 4, LENGTH);
      assert.equal(count.exact, standard.exact);
    });
  }
});
