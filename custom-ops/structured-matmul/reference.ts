import type { Tensor } from '../operator.js';
import { type Level, type Structure, stages } from './parameters.js';

/**
 * StructuredMatMul by its definition (README, "Semantics"): the dense matrix entry by entry in float64, and a
 * plain product with it. The oracle for the function body, for every kernel and for `fit.ts`.
 */

/** M [outFeatures, inFeatures] row by row. `factors` are dimensioned as `factorShapes` says. */
export function denseMatrix(structure: Structure, factors: readonly Tensor[]): Float64Array {
  const { kind, inFeatures, outFeatures, levels } = structure;
  if (kind === 'butterfly') return butterflyMatrix(structure, factors[0]!);
  const dense = new Float64Array(outFeatures * inFeatures);
  for (const [n, level] of levels.entries()) {
    const [left, right] = [factors[2 * n]!, factors[2 * n + 1]!];
    const entry =
      kind === 'kronecker'
        ? kroneckerEntry(level, structure, left, right)
        : level.permuted
          ? permutedEntry(level, structure, left, right)
          : blockDiagonalEntry(level, structure, left, right);
    for (let row = 0; row < outFeatures; row++) {
      for (let column = 0; column < inFeatures; column++) {
        dense[row * inFeatures + column]! += level.scale * entry(row, column);
      }
    }
  }
  return dense;
}

/** y [..., outFeatures] = x M^T for x [..., inFeatures]. */
export function structuredMatMul(x: Tensor, structure: Structure, factors: readonly Tensor[]): Tensor {
  const { inFeatures, outFeatures } = structure;
  const dense = denseMatrix(structure, factors);
  const rows = x.data.length / inFeatures;
  const data = new Float32Array(rows * outFeatures);
  for (let row = 0; row < rows; row++) {
    for (let out = 0; out < outFeatures; out++) {
      let sum = 0;
      for (let column = 0; column < inFeatures; column++) {
        sum += dense[out * inFeatures + column]! * x.data[row * inFeatures + column]!;
      }
      data[row * outFeatures + out] = sum;
    }
  }
  return { dims: [...x.dims.slice(0, -1), outFeatures], data };
}

type Entry = (row: number, column: number) => number;

/** M[(alpha, beta), (gamma, delta)] = sum over sigma of L[beta, (gamma, sigma), alpha] R[gamma, delta, (beta, sigma)]. */
function permutedEntry(
  { inputPieces, outputPieces, rank }: Level,
  { inFeatures, outFeatures }: Structure,
  left: Tensor,
  right: Tensor,
): Entry {
  const [piece, outputPiece] = [inFeatures / inputPieces, outFeatures / outputPieces];
  return (row, column) => {
    const [alpha, beta] = [Math.floor(row / outputPieces), row % outputPieces];
    const [gamma, delta] = [Math.floor(column / piece), column % piece];
    let sum = 0;
    for (let sigma = 0; sigma < rank; sigma++) {
      sum +=
        left.data[(beta * inputPieces * rank + gamma * rank + sigma) * outputPiece + alpha]! *
        right.data[(gamma * piece + delta) * outputPieces * rank + beta * rank + sigma]!;
    }
    return sum;
  };
}

/** Zero outside the diagonal blocks; in block k the sum over sigma of L[k, sigma, alpha] R[k, delta, sigma]. */
function blockDiagonalEntry(
  { inputPieces, rank }: Level,
  { inFeatures, outFeatures }: Structure,
  left: Tensor,
  right: Tensor,
): Entry {
  const [piece, outputPiece] = [inFeatures / inputPieces, outFeatures / inputPieces];
  return (row, column) => {
    const block = Math.floor(row / outputPiece);
    if (block !== Math.floor(column / piece)) return 0;
    let sum = 0;
    for (let sigma = 0; sigma < rank; sigma++) {
      sum +=
        left.data[(block * rank + sigma) * outputPiece + (row % outputPiece)]! *
        right.data[column * rank + sigma]!;
    }
    return sum;
  };
}

/** A[alpha, gamma] B[beta, delta]. */
function kroneckerEntry(
  { inputPieces, outputPieces }: Level,
  { inFeatures }: Structure,
  left: Tensor,
  right: Tensor,
): Entry {
  const piece = inFeatures / inputPieces;
  return (row, column) =>
    left.data[Math.floor(row / outputPieces) * inputPieces + Math.floor(column / piece)]! *
    right.data[(row % outputPieces) * piece + (column % piece)]!;
}

/** The product of the stages, stage 0 applied first, column by column. */
function butterflyMatrix(structure: Structure, { data }: Tensor): Float64Array {
  const size = structure.inFeatures;
  const dense = new Float64Array(size * size);
  for (let column = 0; column < size; column++) {
    let vector = new Float64Array(size);
    vector[column] = 1;
    for (let stage = 0; stage < stages(structure); stage++) {
      const stride = 2 ** stage;
      const next = new Float64Array(size);
      for (let pair = 0; pair < size / 2; pair++) {
        const low = Math.floor(pair / stride) * 2 * stride + (pair % stride);
        const high = low + stride;
        const at = (stage * (size / 2) + pair) * 4;
        next[low] = data[at]! * vector[low]! + data[at + 1]! * vector[high]!;
        next[high] = data[at + 2]! * vector[low]! + data[at + 3]! * vector[high]!;
      }
      vector = next;
    }
    for (let row = 0; row < size; row++) dense[row * size + column] = vector[row]!;
  }
  return dense;
}
