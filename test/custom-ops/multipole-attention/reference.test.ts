import assert from 'node:assert/strict';
import { caseInputs, MULTIPOLE_CASES } from '../../../custom-ops/multipole-attention/cases.js';
import {
  defaultParameters,
  type MultipoleParameters,
} from '../../../custom-ops/multipole-attention/parameters.js';
import {
  type MultipoleInputs,
  multipoleAttention,
} from '../../../custom-ops/multipole-attention/reference.js';
import type { Tensor } from '../../../custom-ops/operator.js';
import { SeededRandom } from '../../../custom-ops/seeded-random.js';
import { sequenceRows } from './sequence-rows.js';

const SMALL: Partial<MultipoleParameters> = {
  segment: 32,
  keyClusters: 4,
  keyGrouping: 'kmeans',
  queryClusters: 8,
  retrieve: [4],
  retrieveError: 0,
  group: 8,
};

function parameters(causal: boolean, changes: Partial<MultipoleParameters> = {}): MultipoleParameters {
  return { ...defaultParameters(causal), ...SMALL, ...changes };
}

function randomInputs(
  seed: number,
  heads: number,
  queries: number,
  keys: number,
  headDim = 8,
): MultipoleInputs {
  const random = new SeededRandom(seed);
  const tensor = (length: number): Tensor => ({
    dims: [1, heads, length, headDim],
    data: random.normals(heads * length * headDim),
  });
  return { query: tensor(queries), key: tensor(keys), value: tensor(keys) };
}

/** Exact attention by the textbook formula, float64, one head. */
function softmaxAttention(inputs: MultipoleInputs, causal: boolean): Float32Array {
  const [, , queries = 0, size = 0] = inputs.query.dims;
  const keys = inputs.key.dims[2]!;
  const result = new Float32Array(queries * size);
  for (let i = 0; i < queries; i++) {
    const weights = Array.from({ length: keys }, (_, n) => {
      if ((causal && n > i + keys - queries) || inputs.keyMask?.[n] === 0) return 0;
      let logit = 0;
      for (let d = 0; d < size; d++)
        logit += inputs.query.data[i * size + d]! * inputs.key.data[n * size + d]!;
      return Math.exp(logit / Math.sqrt(size));
    });
    const total = weights.reduce((sum, w) => sum + w, 0);
    for (let d = 0; d < size; d++) {
      const sum = weights.reduce((s, w, n) => s + w * inputs.value.data[n * size + d]!, 0);
      result[i * size + d] = total === 0 ? 0 : sum / total;
    }
  }
  return result;
}

function assertClose(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number): void {
  assert.equal(actual.length, expected.length);
  for (let n = 0; n < actual.length; n++) {
    const difference = Math.abs(actual[n]! - expected[n]!);
    assert.ok(difference <= tolerance, `element ${n}: ${actual[n]} instead of ${expected[n]}`);
  }
}

describe('MultipoleAttention reference', () => {
  for (const causal of [false, true]) {
    it(`is softmax attention when every cluster is retrieved (causal ${causal})`, () => {
      const inputs = { ...randomInputs(1, 1, 150, 150), keyMask: caseMask(150) };
      const expected = softmaxAttention(inputs, causal);
      for (const retrieve of [-1, 1000]) {
        const { output } = multipoleAttention(inputs, parameters(causal, { retrieve: [retrieve] }));
        assertClose(output.data, expected, 2e-7);
      }
      const mass = multipoleAttention(inputs, parameters(causal, { retrieveMass: 1e-300 }));
      assertClose(mass.output.data, expected, 2e-7);
    });
  }

  it('expects of summaries what they miss', () => {
    // Two clusters of one dimension with spreads 1 and 4, which weigh the same for queries around zero.
    const inputs: MultipoleInputs = {
      query: { dims: [1, 1, 2, 1], data: Float32Array.of(-0.5, 0.5) },
      key: { dims: [1, 1, 4, 1], data: Float32Array.of(-1, 1, -2, 2) },
      value: { dims: [1, 1, 4, 1], data: Float32Array.of(1, 2, 3, 4) },
    };
    const expected = [1, 4].map(spread => (0.5 * 0.5 ** 2 * spread) / 2);
    const chosen = (retrieveError: number) =>
      multipoleAttention(
        inputs,
        parameters(false, {
          segment: 0,
          keyClusters: 2,
          keyGrouping: 'contiguous',
          queryClusters: 1,
          selection: 'tile',
          group: 1,
          scale: 1,
          retrieveError,
        }),
      ).choices.retrieved;
    assert.deepEqual([...chosen(0.99 * expected[0]!)], [1, 0, 1, 0]);
    assert.deepEqual([...chosen(1.01 * expected[0]!)], [1, 1]);
    assert.deepEqual([...chosen(0.99 * expected[1]!)], [1, 1]);
    assert.deepEqual([...chosen(1.01 * expected[1]!)], []);
  });

  it('is softmax attention when each distinct key has a cluster of its own', () => {
    const inputs = randomInputs(2, 1, 40, 40);
    const { output } = multipoleAttention(
      inputs,
      parameters(false, { segment: 0, keyClusters: 40, retrieve: [0] }),
    );
    assertClose(output.data, softmaxAttention(inputs, false), 2e-7);
  });

  it('is softmax attention over few distinct keys, each repeated many times', () => {
    const inputs = randomInputs(3, 1, 60, 5);
    const copies = 12;
    const repeat = (tensor: Tensor): Tensor => ({
      dims: [1, 1, 5 * copies, 8],
      data: Float32Array.from(
        { length: 5 * copies * 8 },
        (_, n) => tensor.data[Math.floor(n / (8 * copies)) * 8 + (n % 8)]!,
      ),
    });
    const repeated = { query: inputs.query, key: repeat(inputs.key), value: repeat(inputs.value) };
    const { output, choices } = multipoleAttention(
      repeated,
      parameters(false, { segment: 0, keyClusters: 5, retrieve: [0] }),
    );
    assert.deepEqual(
      Array.from(choices.keyClusters[0]!),
      Array.from({ length: 60 }, (_, n) => Math.floor(n / copies)),
    );
    assertClose(output.data, softmaxAttention(repeated, false), 2e-7);
  });

  it('never estimates more than the true mass (Gibbs), and exactly it at the query centroid', () => {
    const inputs = randomInputs(4, 1, 200, 90);
    for (const order of [0, 1] as const) {
      const approximate = multipoleAttention(inputs, parameters(false, { retrieve: [0], order }));
      const exact = multipoleAttention(inputs, parameters(false, { retrieve: [-1] }));
      const gaps = approximate.lse.data.map((lse, i) => exact.lse.data[i]! - lse);
      assert.ok(gaps.every(gap => gap > -1e-5));
      assert.ok(gaps.some(gap => gap > 1e-3));
    }
    const centroid: MultipoleInputs = { ...inputs, query: sequenceRows(inputs.query, 0, 1) };
    const alone = multipoleAttention(centroid, parameters(false, { retrieve: [0] }));
    const exact = multipoleAttention(centroid, parameters(false, { retrieve: [-1] }));
    assertClose(alone.lse.data, exact.lse.data, 1e-6);
    assertClose(alone.output.data, exact.output.data, 2e-7);
  });

  it('is the whole when two halves of the keys are merged by lse', () => {
    const inputs = randomInputs(5, 1, 50, 128);
    const run = (from: number, to: number) =>
      multipoleAttention(
        {
          query: inputs.query,
          key: sequenceRows(inputs.key, from, to),
          value: sequenceRows(inputs.value, from, to),
        },
        parameters(false, { retrieve: [0] }),
      );
    const whole = run(0, 128);
    const [left, right] = [run(0, 64), run(64, 128)];
    for (let i = 0; i < 50; i++) {
      const [a, b] = [left.lse.data[i]!, right.lse.data[i]!];
      const lse = Math.max(a, b) + Math.log1p(Math.exp(-Math.abs(a - b)));
      assert.ok(Math.abs(lse - whole.lse.data[i]!) < 1e-6);
      for (let d = 0; d < 8; d++) {
        const merged =
          left.output.data[i * 8 + d]! * Math.exp(a - lse) +
          right.output.data[i * 8 + d]! * Math.exp(b - lse);
        assert.ok(Math.abs(merged - whole.output.data[i * 8 + d]!) < 1e-6);
      }
    }
  });

  it('gives the mean of the visible values when the visible keys are equal', () => {
    const { query, key, value } = randomInputs(6, 1, 150, 150);
    const keyMask = caseMask(150);
    const equal = { dims: key.dims, data: Float32Array.from(key.data, (_, n) => key.data[n % 8]!) };
    const { output, lse } = multipoleAttention({ query, key: equal, value, keyMask }, parameters(false));
    const mean = Array.from({ length: 8 }, (_, d) => {
      const visible = Array.from(keyMask.keys()).filter(n => keyMask[n] !== 0);
      return visible.reduce((sum, n) => sum + value.data[n * 8 + d]! / visible.length, 0);
    });
    for (let i = 0; i < 150; i++) assertClose(output.data.subarray(i * 8, i * 8 + 8), mean, 1e-6);
    assert.ok(lse.data.every(Number.isFinite));
  });

  it('does not depend on the order of keys when assignments move with them', () => {
    const inputs = randomInputs(7, 1, 60, 80);
    const options = parameters(false, { segment: 0, keyClusters: 8 });
    const direct = multipoleAttention(inputs, options);
    const order = Array.from({ length: 80 }, (_, n) => (n * 37 + 11) % 80);
    const permute = ({ dims, data }: Tensor): Tensor => ({
      dims,
      data: Float32Array.from(data, (_, at) => data[order[Math.floor(at / 8)]! * 8 + (at % 8)]!),
    });
    const permuted = multipoleAttention(
      { query: inputs.query, key: permute(inputs.key), value: permute(inputs.value) },
      options,
      { ...direct.choices, keyClusters: [Int32Array.from(order, n => direct.choices.keyClusters[0]![n]!)] },
    );
    assertClose(permuted.output.data, direct.output.data, 1e-6);
    assertClose(permuted.lse.data, direct.lse.data, 1e-6);
  });

  it('retrieves at most as many keys from a dyadic hierarchy as `retrieve` clusters of a segment hold', () => {
    const [segment, keyClusters, length] = [8, 2, 203];
    for (const retrieve of [1, 3, 6, 1000]) {
      const options = parameters(true, { segment, keyClusters, hierarchy: 'dyadic', retrieve: [retrieve] });
      const { choices } = multipoleAttention(randomInputs(10, 1, length, length), options);
      const ends: number[] = [];
      for (let units = Math.ceil(length / segment), end = 0; ; units = Math.ceil(units / 2)) {
        end += units * keyClusters;
        ends.push(end);
        if (units === 1) break;
      }
      const keysOf = (cluster: number) => (2 ** ends.findIndex(end => cluster < end) * segment) / keyClusters;
      const width = choices.retrieved.length / length;
      const counts = Array.from({ length }, (_, row) =>
        Array.from(choices.retrieved.subarray(row * width, (row + 1) * width))
          .filter(cluster => cluster >= 0)
          .reduce((sum, cluster) => sum + keysOf(cluster), 0),
      );
      const most = Math.max(...counts);
      const bound = (retrieve * segment) / keyClusters;
      assert.ok(most <= bound, `${most} keys with retrieve ${retrieve}`);
      if (retrieve < 1000) assert.equal(most, bound);
    }
  });

  for (const hierarchy of ['flat', 'dyadic'] as const) {
    it(`looks at nothing after a causal token (${hierarchy})`, () => {
      const options = parameters(true, { segment: 16, hierarchy });
      const inputs = randomInputs(8, 1, 150, 150);
      const before = multipoleAttention(inputs, options).output.data;
      for (const token of [15, 16, 70, 100, 127]) {
        const change = ({ dims, data }: Tensor): Tensor => ({
          dims,
          data: data.map((x, at) => (at < (token + 1) * 8 ? x : -x * 1.5)),
        });
        const changed = { query: change(inputs.query), key: change(inputs.key), value: change(inputs.value) };
        const after = multipoleAttention(changed, options).output.data;
        assert.deepEqual(after.subarray(0, (token + 1) * 8), before.subarray(0, (token + 1) * 8));
        assert.notDeepEqual(after, before);
      }
    });

    it(`gives the same causal rows in chunks as in one piece (${hierarchy})`, () => {
      const options = parameters(true, { segment: 16, hierarchy });
      const inputs = randomInputs(9, 1, 150, 150);
      const whole = multipoleAttention(inputs, options);
      for (const [from, to] of [
        [0, 20],
        [20, 77],
        [77, 78],
        [78, 150],
      ] as const) {
        const chunk = multipoleAttention(
          {
            query: sequenceRows(inputs.query, from, to),
            key: sequenceRows(inputs.key, 0, to),
            value: sequenceRows(inputs.value, 0, to),
            ...(from > 0 && { pastQuery: sequenceRows(inputs.query, 0, from) }),
          },
          options,
        );
        assert.deepEqual(chunk.output.data, sequenceRows(whole.output, from, to).data);
        assert.deepEqual(chunk.lse.data, whole.lse.data.subarray(from, to));
      }
    });

    it(`covers every key outside the window exactly once (${hierarchy})`, () => {
      // With equal keys each visible key weighs the same, however it is covered.
      const value = { dims: [1, 1, 300, 1], data: new Float32Array(300).fill(1) };
      const zeros = { dims: [1, 1, 300, 4], data: new Float32Array(1200) };
      for (const causal of [false, true]) {
        for (const window of [0, 1, 3]) {
          const { lse } = multipoleAttention(
            { query: zeros, key: zeros, value },
            parameters(causal, { segment: 16, window, hierarchy, keyGrouping: 'contiguous' }),
          );
          lse.data.forEach((sum, i) => {
            assert.ok(
              Math.abs(Math.exp(sum) - (causal ? i + 1 : 300)) < 1e-3,
              `row ${i} weighs ${Math.exp(sum)}`,
            );
          });
        }
      }
    });
  }

  it('gives zeros and lse -Infinity to rows that see no key', () => {
    const inputs = {
      ...randomInputs(10, 1, 60, 60),
      keyMask: Uint8Array.from({ length: 60 }, (_, n) => Number(n >= 10)),
    };
    for (const retrieve of [[4], [-1]]) {
      const { output, lse } = multipoleAttention(inputs, parameters(true, { retrieve }));
      assert.ok(output.data.subarray(0, 80).every(x => x === 0));
      assert.ok(lse.data.subarray(0, 10).every(x => x === Number.NEGATIVE_INFINITY));
      assert.ok(lse.data.subarray(10).every(Number.isFinite));
    }
  });

  it('lowers the error with each order of the expansion and with retrieval', () => {
    const inputs = randomInputs(11, 1, 200, 150);
    const exact = softmaxAttention(inputs, false);
    const error = (changes: Partial<MultipoleParameters>) => {
      const { output } = multipoleAttention(inputs, parameters(false, changes));
      return output.data.reduce((sum, x, n) => sum + (x - exact[n]!) ** 2, 0);
    };
    const monopole = error({ retrieve: [0] });
    assert.ok(error({ retrieve: [0], order: 1 }) < monopole * 0.8);
    assert.ok(error({ retrieve: [6] }) < monopole * 0.8);
    const global = { segment: 0, keyClusters: 16, retrieve: [0] };
    assert.ok(error({ ...global, order: 1, contracted: true }) < error(global) * 0.8);
  });

  it('returns choices that give its own result back', () => {
    for (const shared of MULTIPOLE_CASES.filter(({ large }) => !large)) {
      const inputs = caseInputs(shared);
      const first = multipoleAttention(inputs, shared.parameters);
      const again = multipoleAttention(inputs, shared.parameters, first.choices);
      assertClose(again.output.data, first.output.data, 1e-6);
      assert.deepEqual(again.choices.retrieved, first.choices.retrieved);
    }
  });
});

/** About two thirds visible. */
function caseMask(keys: number): Uint8Array {
  return Uint8Array.from({ length: keys }, (_, n) => Number((n * 7) % 3 !== 0));
}
