import assert from 'node:assert/strict';
import type { HeadMoments, HeadRotation } from '../../../custom-ops/head-rotation.js';
import { scoreRotation } from '../../../custom-ops/multi-level-attention/calibration.js';
import { plainParameters } from '../../../custom-ops/multi-level-attention/parameters.js';
import { multiLevelAttention } from '../../../custom-ops/multi-level-attention/reference.js';
import type { Tensor } from '../../../custom-ops/operator.js';
import { SeededRandom } from '../../../custom-ops/seeded-random.js';
import { relativeError } from '../../comparison.js';
import { trainedHead } from '../../fixtures/trained-attention.js';
import { randomRotation } from '../random-rotation.js';

describe('rotation of heads by their scores', () => {
  it('is orthonormal, and leaves scores as they are', () => {
    const random = new SeededRandom(5);
    const [query, key] = [tensor(random, 3, 40, 12), tensor(random, 3, 50, 12)];
    const rotation = scoreRotation(moments(query, key));
    for (let head = 0; head < 3; head++) {
      const column = (d: number) =>
        Float64Array.from({ length: 12 }, (_, row) => entry(rotation, head, row, d));
      for (let i = 0; i < 12; i++) {
        for (let j = 0; j < 12; j++) {
          assert.ok(Math.abs(dot(column(i), column(j)) - Number(i === j)) < 1e-6);
        }
      }
    }
    const [q, k] = [rotated(query, rotation), rotated(key, rotation)];
    for (let head = 0; head < 3; head++) {
      const [before, after] = [score(query, key, head, 7, 11), score(q, k, head, 7, 11)];
      assert.ok(Math.abs(before - after) < 1e-5 * Math.abs(before) + 1e-5);
    }
  });

  it('brings forward the dimensions that scores live in, whatever they are mixed with', () => {
    const random = new SeededRandom(6);
    const [size, rank] = [16, 5];
    const hidden = randomRotation(2, size, random);
    // Beyond the first dimensions, queries and keys have next to nothing; a rotation hides which ones these are.
    const low = (rows: number) => {
      const { dims, data } = tensor(random, 2, rows, size);
      return { dims, data: data.map((x, i) => (i % size < rank ? x : 1e-4 * x)) };
    };
    const [query, key] = [rotated(low(60), hidden), rotated(low(60), hidden)];
    const rotation = scoreRotation(moments(query, key));
    const value = tensor(random, 2, 60, 4);
    const far = plainParameters([rank, size - rank], 1);
    const exact = output(query, key, value, plainParameters([size], 1));
    assert.ok(
      relativeError(output(rotated(query, rotation), rotated(key, rotation), value, far), exact) < 1e-5,
    );
    assert.ok(relativeError(output(query, key, value, far), exact) > 0.1);
  });

  it('depends on the shares of directions, and not on how much there is of queries or keys', () => {
    const random = new SeededRandom(7);
    const [query, key] = [tensor(random, 1, 30, 6), tensor(random, 1, 30, 6)];
    const once = moments(query, key);
    const twice = { ...once, query: once.query.map(x => 2 * x) };
    assert.deepEqual(
      scoreRotation(twice),
      scoreRotation(once),
      'how much there is of either does not matter',
    );
  });

  it('gives an orthonormal matrix for heads that are all zero', () => {
    const zeros = new Float64Array(16);
    const { matrices } = scoreRotation({ heads: 1, headDim: 4, query: zeros, key: zeros });
    assert.deepEqual(
      [...matrices].map(x => Math.abs(x)).sort(),
      [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1],
    );
  });

  for (const model of ['encoder', 'causal'] as const) {
    it(`keeps most of far attention in few dimensions of a trained ${model} head`, () => {
      const { scale, ...head } = trainedHead(model);
      const [query, key, value] = [firstRows(head.query), firstRows(head.key), firstRows(head.value)];
      const changes = { scale, causal: model === 'causal' };
      const rotation = scoreRotation(moments(query, key));
      const errorOf = (ranks: readonly number[], by: HeadRotation | null) => {
        const [q, k] = by === null ? [query, key] : [rotated(query, by), rotated(key, by)];
        const far = output(q, k, value, plainParameters(ranks, 32, changes));
        return relativeError(far, output(query, key, value, plainParameters([64], 1, changes))) ** 2;
      };
      const quarter = errorOf([16, 48], rotation);
      assert.ok(errorOf([32, 32], rotation) < quarter);
      for (const other of [null, randomRotation(1, 64, new SeededRandom(8))]) {
        assert.ok(errorOf([16, 48], other) > 2 * quarter, `${errorOf([16, 48], other)} against ${quarter}`);
      }
    });
  }
});

/** The first 256 tokens. */
function firstRows({ dims, data }: Tensor): Tensor {
  const size = dims[3]!;
  return { dims: [1, 1, 256, size], data: data.slice(0, 256 * size) };
}

function tensor(random: SeededRandom, heads: number, rows: number, size: number): Tensor {
  return { dims: [1, heads, rows, size], data: random.normals(heads * rows * size) };
}

function output(query: Tensor, key: Tensor, value: Tensor, parameters: ReturnType<typeof plainParameters>) {
  return multiLevelAttention({ query, key, value }, parameters).output.data;
}

function moments(query: Tensor, key: Tensor): HeadMoments {
  const [, heads = 0, , headDim = 0] = query.dims;
  const of = ({ dims, data }: Tensor) => {
    const sums = new Float64Array(heads * headDim * headDim);
    const rows = dims[2]!;
    for (let row = 0; row < heads * rows; row++) {
      const target = Math.floor(row / rows) * headDim * headDim;
      for (let i = 0; i < headDim; i++) {
        for (let j = 0; j < headDim; j++) {
          sums[target + i * headDim + j]! += data[row * headDim + i]! * data[row * headDim + j]!;
        }
      }
    }
    return sums;
  };
  return { heads, headDim, query: of(query), key: of(key) };
}

function rotated({ dims, data }: Tensor, rotation: HeadRotation): Tensor {
  const [, heads = 0, rows = 0, size = 0] = dims;
  const result = new Float32Array(data.length);
  for (let row = 0; row < heads * rows; row++) {
    const head = Math.floor(row / rows);
    for (let to = 0; to < size; to++) {
      let sum = 0;
      for (let from = 0; from < size; from++)
        sum += data[row * size + from]! * entry(rotation, head, from, to);
      result[row * size + to] = sum;
    }
  }
  return { dims, data: result };
}

function entry({ headDim, matrices }: HeadRotation, head: number, row: number, column: number): number {
  return matrices[(head * headDim + row) * headDim + column]!;
}

function score(query: Tensor, key: Tensor, head: number, i: number, j: number): number {
  const row = ({ dims, data }: Tensor, n: number) => {
    const [, , rows = 0, size = 0] = dims;
    return Float64Array.from(data.subarray((head * rows + n) * size, (head * rows + n + 1) * size));
  };
  return dot(row(query, i), row(key, j));
}

function dot(a: Float64Array, b: Float64Array): number {
  return a.reduce((sum, x, i) => sum + x * b[i]!, 0);
}
