import assert from 'node:assert/strict';
import type { Tensor } from '../../../custom-ops/operator.js';
import { caseInputs, STRUCTURED_MATMUL_CASES } from '../../../custom-ops/structured-matmul/cases.js';
import {
  attributesOf,
  factorShapes,
  multiplyAdds,
  parameterCount,
  type Structure,
  structureOf,
  structureProblem,
} from '../../../custom-ops/structured-matmul/parameters.js';
import { denseMatrix, structuredMatMul } from '../../../custom-ops/structured-matmul/reference.js';
import {
  blockTensorTrain,
  butterfly,
  kronecker,
  lowRank,
  monarch,
  multiLevelLowRank,
} from '../../../custom-ops/structured-matmul/structures.js';

describe('structured matrices', () => {
  for (const { name, structure } of STRUCTURED_MATMUL_CASES) {
    it(`reads its attributes back: ${name}`, () => {
      assert.equal(structureProblem(structure), null);
      assert.deepEqual(structureOf(attributesOf(structure)), structure);
    });
  }

  it('have the parameters and multiply-adds of their formulas', () => {
    const check = (structure: Structure, parameters: number, operations = parameters) => {
      assert.equal(parameterCount(structure), parameters, structure.kind);
      assert.equal(multiplyAdds(structure), operations, structure.kind);
    };
    const size = 64;
    check(lowRank(size, size, 5), 2 * size * 5);
    check(multiLevelLowRank(size, size, [8, 4, 2, 2]), 2 * size * (8 + 4 + 2 + 2));
    check(blockTensorTrain(size, size, 8, 8, 3), 2 * 3 * size ** 1.5);
    check(blockTensorTrain(30, 42, 5, 7, 3), 3 * 7 * 5 * (42 / 7 + 30 / 5));
    check(monarch(size, size, 8, 8), 2 * size ** 1.5);
    check(kronecker(size, size, 8, 8), 2 * size, 2 * size ** 1.5);
    check(butterfly(size), 2 * size * Math.log2(size));
  });

  it('are what they are in terms of others', () => {
    const same = (a: Structure, b: Structure) => {
      const factors = caseInputs({ name: 'same', structure: a, leading: [1], float16: false }).factors;
      const [left, right] = [denseMatrix(a, factors), denseMatrix(b, factors)];
      assert.ok(left.some(x => x !== 0));
      assert.deepEqual(left, right);
    };
    same(monarch(30, 42, 5, 7), blockTensorTrain(30, 42, 5, 7, 1));
    same(multiLevelLowRank(12, 20, [4]), lowRank(12, 20, 4));
    same(blockTensorTrain(12, 20, 1, 1, 4), lowRank(12, 20, 4));
    same({ ...monarch(30, 42, 5, 7), kind: 'multi-level-block-tensor-contraction' }, monarch(30, 42, 5, 7));
  });

  it('a Kronecker product of 2 x 2 matrices is the one of textbooks', () => {
    const factors = [tensor([2, 2], [1, 2, 3, 4]), tensor([2, 2], [0, 5, 6, 7])];
    assert.deepEqual(
      [...denseMatrix(kronecker(4, 4, 2, 2), factors)],
      [0, 5, 0, 10, 6, 7, 12, 14, 0, 15, 0, 20, 18, 21, 24, 28],
    );
  });

  it('a Kronecker product is the Monarch matrix whose blocks are all the same', () => {
    const structure = kronecker(30, 28, 5, 4);
    const [a, b] = caseInputs({ name: 'tied', structure, leading: [1], float16: false }).factors as [
      Tensor,
      Tensor,
    ];
    const tied = monarch(30, 28, 5, 4);
    const [leftDims, rightDims] = factorShapes(tied) as [number[], number[]];
    const left = fill(leftDims, ([, gamma, alpha]) => a.data[alpha! * 5 + gamma!]!);
    const right = fill(rightDims, ([, delta, beta]) => b.data[beta! * 6 + delta!]!);
    assert.deepEqual(denseMatrix(tied, [left, right]), denseMatrix(structure, [a, b]));
  });

  it('a butterfly of sums and differences is the Walsh-Hadamard transform', () => {
    const size = 16;
    const factors = [fill([4, 8, 2, 2], ([, , out, from]) => (out === 1 && from === 1 ? -1 : 1))];
    const dense = denseMatrix(butterfly(size), factors);
    for (let row = 0; row < size; row++) {
      for (let column = 0; column < size; column++) {
        const ones = (row & column).toString(2).replaceAll('0', '').length;
        assert.equal(dense[row * size + column], ones % 2 === 0 ? 1 : -1);
      }
    }
  });

  it('multi-level low-rank matrices are zero where only finer levels could be', () => {
    const structure = multiLevelLowRank(8, 8, [1, 2]);
    const factors = caseInputs({ name: 'zero', structure, leading: [1], float16: false }).factors;
    const silent = [fill(factors[0]!.dims, () => 0), ...factors.slice(1)];
    denseMatrix(structure, silent).forEach((entry, n) => {
      const sameBlock = Math.floor(n / 8 / 4) === Math.floor((n % 8) / 4);
      assert.equal(entry !== 0, sameBlock);
    });
  });

  it('multiply the last axis', () => {
    const structure = lowRank(3, 2, 1);
    const factors = [tensor([1, 1, 2], [1, 2]), tensor([1, 3, 1], [1, 10, 100])];
    const y = structuredMatMul(tensor([1, 2, 3], [1, 2, 3, 4, 5, 6]), structure, factors);
    assert.deepEqual(y.dims, [1, 2, 2]);
    assert.deepEqual([...y.data], [321, 642, 654, 1308]);
  });

  it('refuses what is no structure, with the reason', () => {
    const level = { inputPieces: 4, outputPieces: 4, rank: 1, permuted: true, scale: 1 };
    const cases: [Structure, RegExp][] = [
      [butterfly(12), /power of two/],
      [{ ...butterfly(8), outFeatures: 4 }, /square/],
      [monarch(30, 28, 4, 4), /30 inputs do not fall into 4/],
      [monarch(28, 30, 4, 4), /30 outputs do not fall into 4/],
      [{ ...monarch(8, 8, 4, 4), levels: [{ ...level, rank: 2 }] }, /rank 1/],
      [{ ...monarch(8, 8, 4, 4), levels: [level, level] }, /1 to 1 levels/],
      [{ ...lowRank(8, 8, 2), levels: [] }, /levels/],
      [{ ...lowRank(8, 8, 2), levels: [{ ...level, permuted: false }] }, /one piece/],
      [{ ...multiLevelLowRank(8, 8, [2]), levels: [level] }, /not permuted/],
      [
        { ...multiLevelLowRank(8, 8, [2]), levels: [{ ...level, permuted: false, outputPieces: 2 }] },
        /as many output pieces/,
      ],
    ];
    for (const [structure, reason] of cases) assert.match(structureProblem(structure) ?? '', reason);
  });
});

function tensor(dims: readonly number[], data: readonly number[]): Tensor {
  return { dims, data: Float32Array.from(data) };
}

/** A tensor by index. */
function fill(dims: readonly number[], value: (index: readonly number[]) => number): Tensor {
  const size = dims.reduce((product, dim) => product * dim, 1);
  const data = Float32Array.from({ length: size }, (_, n) => {
    let rest = n;
    const index = dims.toReversed().map(dim => {
      const at = rest % dim;
      rest = Math.floor(rest / dim);
      return at;
    });
    return value(index.toReversed());
  });
  return { dims, data };
}
