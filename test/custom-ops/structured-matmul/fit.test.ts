import assert from 'node:assert/strict';
import { EigenvalueDecomposition, Matrix } from 'ml-matrix';
import { SeededRandom } from '../../../custom-ops/seeded-random.js';
import { caseInputs, STRUCTURED_MATMUL_CASES } from '../../../custom-ops/structured-matmul/cases.js';
import { fitStructure } from '../../../custom-ops/structured-matmul/fit.js';
import { factorShapes } from '../../../custom-ops/structured-matmul/parameters.js';
import { denseMatrix } from '../../../custom-ops/structured-matmul/reference.js';
import {
  blockTensorTrain,
  butterfly,
  kronecker,
  lowRank,
  monarch,
  multiLevelLowRank,
} from '../../../custom-ops/structured-matmul/structures.js';

/** Squared error that float32 factors leave. */
const ROUNDING = 1e-11;

describe('fitting structured matrices', () => {
  const exact = STRUCTURED_MATMUL_CASES.filter(
    ({ structure, float16 }) => structure.levels.length <= 1 && !float16,
  );
  for (const shared of exact) {
    it(`finds the factors of a matrix that has them: ${shared.name}`, () => {
      const { structure } = shared;
      const dense = denseMatrix(structure, caseInputs(shared).factors);
      const { factors, relativeSquaredError } = fitStructure(dense, structure);
      assert.deepEqual(
        factors.map(({ dims }) => dims),
        factorShapes(structure),
      );
      assert.ok(relativeSquaredError < ROUNDING, `${relativeSquaredError}`);
    });
  }

  it('is as good as the singular values allow for low rank', () => {
    const [rows, columns, rank] = [12, 9, 3];
    const dense = random(1, rows * columns);
    const { relativeSquaredError } = fitStructure(dense, lowRank(columns, rows, rank));
    const matrix = Matrix.from1DArray(rows, columns, [...dense]);
    const squares = new EigenvalueDecomposition(matrix.transpose().mmul(matrix)).realEigenvalues;
    const sorted = squares.toSorted((a, b) => b - a);
    const sum = (values: readonly number[]) => values.reduce((total, x) => total + x, 0);
    assert.ok(Math.abs(relativeSquaredError - sum(sorted.slice(rank)) / sum(sorted)) < 1e-6);
  });

  it('gets better with the rank, and is exact at full rank', () => {
    const dense = random(2, 64 * 64);
    const errors = [1, 2, 4, 8].map(rank => {
      return fitStructure(dense, blockTensorTrain(64, 64, 8, 8, rank)).relativeSquaredError;
    });
    errors.forEach((error, n) => {
      assert.ok(n === 0 || error < errors[n - 1]!, `${errors}`);
    });
    assert.ok(errors.at(-1)! < ROUNDING, `${errors}`);
  });

  it('comes close to a sum of levels, closer than the coarsest alone', () => {
    const structure = multiLevelLowRank(32, 32, [4, 2, 2]);
    const shared = { name: 'levels', structure, leading: [1], float16: false };
    const dense = denseMatrix(structure, caseInputs(shared).factors);
    const { relativeSquaredError } = fitStructure(dense, structure);
    const alone = fitStructure(dense, lowRank(32, 32, 8)).relativeSquaredError;
    assert.ok(relativeSquaredError < alone / 2, `${relativeSquaredError} against ${alone}`);
  });

  it('never makes a matrix worse than none', () => {
    const dense = random(3, 64 * 64);
    for (const structure of [
      monarch(64, 64, 8, 8),
      kronecker(64, 64, 8, 8),
      multiLevelLowRank(64, 64, [4, 2, 1, 1]),
    ]) {
      const { relativeSquaredError } = fitStructure(dense, structure);
      assert.ok(relativeSquaredError < 1 && relativeSquaredError > 0.2, `${relativeSquaredError}`);
    }
  });

  it('refuses a matrix of another size', () => {
    assert.throws(() => fitStructure(new Float32Array(10), butterfly(4)), RangeError);
  });
});

function random(seed: number, count: number): Float32Array {
  return new SeededRandom(seed).normals(count);
}
