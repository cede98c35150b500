import assert from 'node:assert/strict';
import { multipoleTuningSpace } from '../../../custom-ops/multipole-attention/tuning-space.js';
import { perHeadNumbers } from '../../../custom-ops/tuning-space.js';
import { tunableSite } from '../../cli/tune/tunable-site.js';

const { operator, exact, candidates, operations, perHead } = multipoleTuningSpace;
const HEADS = 4;

describe('forms of multipole attention for tuning', () => {
  for (const causal of [false, true]) {
    const { site } = tunableSite('site', HEADS, causal);

    it(`are different, and valid on ${causal ? 'causal' : 'bidirectional'} sites`, () => {
      const resolved = [exact!, ...candidates(site)].map(settings => operator.resolve(site, settings));
      assert.equal(new Set(resolved.map(attributes => JSON.stringify(attributes))).size, resolved.length);
      // Choices that look ahead would flatter the loss.
      if (causal) for (const { selection } of resolved) assert.equal(selection, 'sliding');
    });

    it(`are counted head by head, ${causal ? 'causal' : 'bidirectional'}`, () => {
      const length = 2048;
      const count = (retrieve: number | readonly number[]) =>
        operations(operator.resolve(site, { [perHead!.name]: retrieve }), HEADS, length);
      const all = count(-1);
      assert.deepEqual([all.chosen, all.least], [all.exact, all.exact]);
      const [none, some] = [count(0).chosen!, count(3).chosen!];
      assert.ok(none < some && some < all.exact);
      const mixed = count([-1, 0, 3, 3]).chosen!;
      assert.ok(Math.abs(mixed - (all.exact + none + 2 * some) / HEADS) < 1e-6 * mixed);
      assert.equal(count(3).least, none);
      const fixed = operations(operator.resolve(site, { retrieve: 3, retrieve_error: 0 }), HEADS, length);
      assert.deepEqual([fixed.chosen, fixed.least], [some, some]);
    });
  }

  it('spell a number for all heads out', () => {
    assert.deepEqual(perHeadNumbers([8], 3), [8, 8, 8]);
    assert.deepEqual(perHeadNumbers(8, 2), [8, 8]);
    assert.deepEqual(perHeadNumbers([1, 2], 2), [1, 2]);
  });
});
