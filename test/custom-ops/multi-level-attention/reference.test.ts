import assert from 'node:assert/strict';
import { plainParameters } from '../../../custom-ops/multi-level-attention/parameters.js';
import { multiLevelAttention } from '../../../custom-ops/multi-level-attention/reference.js';
import { defaultParameters } from '../../../custom-ops/multipole-attention/parameters.js';
import { multipoleAttention } from '../../../custom-ops/multipole-attention/reference.js';
import { relativeError } from '../../comparison.js';
import { sequenceRows } from '../multipole-attention/sequence-rows.js';
import { assertSame, assertSameCache, keyNumbers } from './comparison.js';
import { randomSequence, runInPieces } from './decoding.js';

const EXACT = 1e-6;

describe('MultiLevelAttention reference', () => {
  for (const causal of [false, true]) {
    const kind = causal ? 'causal' : 'acausal';

    it(`is standard attention with one level (${kind})`, () => {
      const inputs = randomSequence(1, 50, 12);
      const exact = multipoleAttention(inputs, { ...defaultParameters(causal), retrieve: [-1] });
      assertSame(multiLevelAttention(inputs, plainParameters([12], 7, { causal })), exact, EXACT);
    });

    it(`is standard attention where one block holds everything (${kind})`, () => {
      const inputs = randomSequence(2, 50, 12);
      const exact = multipoleAttention(inputs, { ...defaultParameters(causal), retrieve: [-1] });
      for (const divide of ['none', 'count', 'shared'] as const) {
        const scale = divide === 'none' ? null : 3 / Math.sqrt(12);
        const parameters = plainParameters([5, 4, 3], 50, { causal, divide, scale });
        assertSame(multiLevelAttention(inputs, parameters), exact, EXACT);
      }
    });

    it(`is standard attention of the global dimensions where blocks hold one token (${kind})`, () => {
      const inputs = randomSequence(3, 40, 6);
      // A token alone in its block: only its score with itself has all dimensions, which zeros leave alone.
      const global = (data: Float32Array) => data.map((x, n) => (n % 6 < 4 ? x : 0));
      const cut = (tensor: { dims: readonly number[]; data: Float32Array }) => ({
        dims: tensor.dims,
        data: global(tensor.data),
      });
      const zeroed = { ...inputs, query: cut(inputs.query), key: cut(inputs.key) };
      const exact = multipoleAttention(zeroed, { ...defaultParameters(causal), retrieve: [-1] });
      const parameters = plainParameters([4, 2], 1, { causal });
      assertSame(multiLevelAttention(zeroed, parameters), exact, EXACT);
    });
  }

  it('scores by the sum over levels of masked products', () => {
    const [length, size] = [24, 6];
    const inputs = randomSequence(4, length, size, 1);
    const parameters = plainParameters([3, 2, 1], 6, {
      levelScale: [1, 2, 0.5],
      divide: 'shared',
      scale: 0.4,
    });
    const { data: q } = inputs.query;
    const { data: k } = inputs.key;
    const expected = new Float32Array(length * size);
    for (let i = 0; i < length; i++) {
      const weights = Array.from({ length }, (_, j) => {
        const product = (from: number, to: number) => {
          let sum = 0;
          for (let d = from; d < to; d++) sum += q[i * size + d]! * k[j * size + d]!;
          return sum;
        };
        const half = Math.floor(i / 12) === Math.floor(j / 12);
        const quarter = Math.floor(i / 6) === Math.floor(j / 6);
        const sum = product(0, 3) + (half ? 2 * product(3, 5) : 0) + (quarter ? 0.5 * product(5, 6) : 0);
        return Math.exp((0.4 * sum) / (1 + Number(half) + Number(quarter)));
      });
      const total = weights.reduce((a, b) => a + b, 0);
      for (let e = 0; e < size; e++) {
        expected[i * size + e] =
          weights.reduce((sum, weight, j) => sum + weight * inputs.value.data[j * size + e]!, 0) / total;
      }
    }
    assert.ok(relativeError(multiLevelAttention(inputs, parameters).output.data, expected) < EXACT);
  });

  it('computes a causal sequence in pieces as in one', async () => {
    const inputs = randomSequence(5, 90, 8, 4, 2);
    const parameters = plainParameters([3, 2, 2, 1], 8, { causal: true, divide: 'shared' });
    const whole = multiLevelAttention(inputs, parameters);
    const lengths = [1, 7, 1, 23, 32, 26];
    await runInPieces(
      inputs,
      lengths,
      parameters,
      async (...call) => multiLevelAttention(...call),
      ({ output, present }, from, to) => {
        assert.ok(relativeError(output.data, sequenceRows(whole.output, from, to).data) < EXACT);
        if (to === 90) assertSameCache(present, whole.present);
      },
    );
  });

  it('keeps a key cache of T * sum r_l / 2^(l-1) numbers at its peak', () => {
    const ranks = [8, 8, 8, 8, 8, 8, 8, 8];
    const parameters = plainParameters(ranks, 2, { causal: true });
    const tokens = 256;
    const peak = tokens * ranks.reduce((sum, rank, l) => sum + rank / 2 ** l, 0);
    let largest = 0;
    for (let position = 1; position <= tokens; position++) {
      const inputs = {
        ...randomSequence(6, position, 64, 1),
        query: { dims: [1, 1, 0, 64], data: new Float32Array() },
      };
      const numbers = keyNumbers(multiLevelAttention(inputs, parameters).present);
      largest = Math.max(largest, numbers);
      if (position === tokens) assert.equal(numbers, tokens * ranks[0]!);
    }
    // The last token of a block is never in the cache together with those before it: one key less per level.
    const missing = ranks.reduce((sum, rank) => sum + rank, 0);
    assert.equal(largest, peak - missing);
    assert.ok(largest / (tokens * 64) < 0.26);
  });
});
