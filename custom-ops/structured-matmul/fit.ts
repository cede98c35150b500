import { Matrix, SingularValueDecomposition } from 'ml-matrix';
import type { Tensor } from '../operator.js';
import { factorShapes, type Level, type Structure } from './parameters.js';
import { denseMatrix } from './reference.js';

/** The best factors that were found for a dense matrix. */
export interface Fit {
  /** In the order and shapes of `factorShapes`. */
  readonly factors: readonly Tensor[];
  /** ||M - dense||^2 / ||dense||^2 in the Frobenius norm, of the factors in float32. */
  readonly relativeSquaredError: number;
}

/** Sweeps over the levels of a sum of several; each lowers the error or leaves it. */
const SWEEPS = 30;
/** A sweep that lowers the squared error by less than this share is the last one. */
const LEAST_GAIN = 1e-5;

/**
 * Factors of a given structure for a dense matrix [outFeatures, inFeatures], row by row. One level is optimal (a
 * truncated singular value decomposition of every block, or of the rearranged matrix); several are found by
 * turns, each optimal given the others; a butterfly stage by stage from the last, exact where the matrix is one.
 * @throws RangeError when the size does not fit the structure
 */
export function fitStructure(dense: ArrayLike<number>, structure: Structure): Fit {
  const { kind, inFeatures, outFeatures, levels } = structure;
  if (dense.length !== inFeatures * outFeatures) {
    throw new RangeError(`${dense.length} numbers are no matrix of ${outFeatures} x ${inFeatures}`);
  }
  const target = Float64Array.from(dense);
  if (kind === 'butterfly') return measured(target, structure, [fitButterfly(target, inFeatures)]);
  const fitLevel = kind === 'kronecker' ? fitKronecker : fitBlocks;
  const factors: Tensor[] = factorShapes(structure).map(zeros);
  let error = 1;
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    for (const [n, level] of levels.entries()) {
      if (level.scale === 0) continue;
      const others = factors.map((factor, f) => (f >> 1 === n ? zeros(factor.dims) : factor));
      const approximation = denseMatrix(structure, others);
      const residual = target.map((x, i) => (x - approximation[i]!) / level.scale);
      factors.splice(2 * n, 2, ...fitLevel(residual, structure, level));
    }
    const before = error;
    error = measured(target, structure, factors).relativeSquaredError;
    if (levels.length === 1 || before - error <= LEAST_GAIN * before) break;
  }
  return measured(target, structure, factors);
}

function zeros(dims: readonly number[]): Tensor {
  return { dims, data: new Float32Array(dims.reduce((product, dim) => product * dim, 1)) };
}

function measured(target: Float64Array, structure: Structure, factors: readonly Tensor[]): Fit {
  const approximation = denseMatrix(structure, factors);
  let [squares, norm] = [0, 0];
  for (const [i, x] of target.entries()) {
    squares += (x - approximation[i]!) ** 2;
    norm += x ** 2;
  }
  return { factors, relativeSquaredError: norm === 0 ? squares : squares / norm };
}

/** The leading singular vectors of a matrix, both times the square root of their singular value. */
function leading(matrix: Matrix, rank: number): { readonly left: Matrix; readonly right: Matrix } {
  const svd = new SingularValueDecomposition(matrix, { autoTranspose: true });
  const count = Math.min(rank, svd.diagonal.length);
  const part = (vectors: Matrix) => {
    const kept = Matrix.zeros(vectors.rows, rank);
    for (let sigma = 0; sigma < count; sigma++) {
      const root = Math.sqrt(svd.diagonal[sigma]!);
      for (let row = 0; row < vectors.rows; row++) kept.set(row, sigma, vectors.get(row, sigma) * root);
    }
    return kept;
  };
  return { left: part(svd.leftSingularVectors), right: part(svd.rightSingularVectors) };
}

type FitLevel = (residual: Float64Array, structure: Structure, level: Level) => readonly [Tensor, Tensor];

/** Every block that joins an input piece and an output piece has factors of its own. */
const fitBlocks: FitLevel = (residual, { inFeatures, outFeatures }, level) => {
  const { inputPieces, outputPieces, rank, permuted } = level;
  const [piece, outputPiece] = [inFeatures / inputPieces, outFeatures / outputPieces];
  const [inner, middle] = permuted ? [inputPieces * rank, outputPieces * rank] : [rank, rank];
  const left = zeros([outputPieces, inner, outputPiece]);
  const right = zeros([inputPieces, piece, middle]);
  for (let beta = 0; beta < outputPieces; beta++) {
    for (let gamma = 0; gamma < inputPieces; gamma++) {
      if (!permuted && beta !== gamma) continue;
      const block = Matrix.zeros(outputPiece, piece);
      for (let alpha = 0; alpha < outputPiece; alpha++) {
        const row = permuted ? alpha * outputPieces + beta : beta * outputPiece + alpha;
        for (let delta = 0; delta < piece; delta++) {
          block.set(alpha, delta, residual[row * inFeatures + gamma * piece + delta]!);
        }
      }
      const vectors = leading(block, rank);
      for (let sigma = 0; sigma < rank; sigma++) {
        const [innerAt, middleAt] = permuted ? [gamma * rank + sigma, beta * rank + sigma] : [sigma, sigma];
        for (let alpha = 0; alpha < outputPiece; alpha++) {
          left.data[(beta * inner + innerAt) * outputPiece + alpha] = vectors.left.get(alpha, sigma);
        }
        for (let delta = 0; delta < piece; delta++) {
          right.data[(gamma * piece + delta) * middle + middleAt] = vectors.right.get(delta, sigma);
        }
      }
    }
  }
  return [left, right];
};

/** A (x) B is of rank 1 once rearranged to [(alpha, gamma), (beta, delta)]. */
const fitKronecker: FitLevel = (residual, { inFeatures, outFeatures }, { inputPieces, outputPieces }) => {
  const [piece, outputPiece] = [inFeatures / inputPieces, outFeatures / outputPieces];
  const rearranged = Matrix.zeros(outputPiece * inputPieces, outputPieces * piece);
  for (let row = 0; row < outFeatures; row++) {
    const [alpha, beta] = [Math.floor(row / outputPieces), row % outputPieces];
    for (let column = 0; column < inFeatures; column++) {
      const [gamma, delta] = [Math.floor(column / piece), column % piece];
      rearranged.set(alpha * inputPieces + gamma, beta * piece + delta, residual[row * inFeatures + column]!);
    }
  }
  const vectors = leading(rearranged, 1);
  return [
    { dims: [outputPiece, inputPieces], data: Float32Array.from(vectors.left.getColumn(0)) },
    { dims: [outputPieces, piece], data: Float32Array.from(vectors.right.getColumn(0)) },
  ];
};

/**
 * The last stage joins the halves of the output: M = [D00 N0, D01 N1; D10 N0, D11 N1] with diagonal D. So rows i
 * of both halves, over the columns of one half, are of rank 1; what they share is row i of N0 or N1, butterflies
 * of half the size.
 */
function fitButterfly(dense: Float64Array, size: number): Tensor {
  const factors = zeros([Math.log2(size), size / 2, 2, 2]);
  const half = size / 2;
  const last = Math.log2(size) - 1;
  for (const side of [0, 1]) {
    const shared = new Float64Array(half * half);
    for (let i = 0; i < half; i++) {
      const row = (upper: number) => {
        const start = (upper * half + i) * size + side * half;
        return Array.from(dense.subarray(start, start + half));
      };
      const { left, right } = leading(new Matrix([row(0), row(1)]), 1);
      for (const upper of [0, 1]) factors.data[(last * half + i) * 4 + upper * 2 + side] = left.get(upper, 0);
      shared.set(right.getColumn(0), i * half);
    }
    if (half === 1) {
      // A butterfly of size 1 is the number itself: it moves into the stage.
      for (const upper of [0, 1]) factors.data[upper * 2 + side]! *= shared[0]!;
      continue;
    }
    const inner = fitButterfly(shared, half);
    for (let stage = 0; stage < last; stage++) {
      const from = inner.data.subarray(stage * half * 2, (stage + 1) * half * 2);
      factors.data.set(from, (stage * half + (side * half) / 2) * 4);
    }
  }
  return factors;
}
