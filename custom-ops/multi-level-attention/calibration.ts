import { EigenvalueDecomposition, Matrix } from 'ml-matrix';
import type { HeadMoments, HeadRotation } from '../head-rotation.js';

/**
 * The rotation of each head in which the leading dimensions stand for most of a score: far tokens of softmax
 * attention are then compared by these alone (README, "In place of softmax attention").
 *
 * With P the projection onto the leading r dimensions, a far score loses q (I - P) k^T, which is at most
 * |q (I - P)| |k (I - P)|, whatever query meets whatever key. The eigenvectors of E[q^T q] / E|q|^2 + E[k^T k] / E|k|^2,
 * largest eigenvalue first, leave the least of both lengths, each as a share of its own, for every r at once.
 */
export function scoreRotation({ heads, headDim, query, key }: HeadMoments): HeadRotation {
  const size = headDim * headDim;
  const matrices = new Float32Array(heads * size);
  for (let head = 0; head < heads; head++) {
    const part = (moments: Float64Array) => share(moments.subarray(head * size, (head + 1) * size), headDim);
    const energy = Matrix.add(part(query), part(key));
    const { realEigenvalues, eigenvectorMatrix } = new EigenvalueDecomposition(energy, {
      assumeSymmetric: true,
    });
    const order = realEigenvalues.map((_, i) => i).sort((a, b) => realEigenvalues[b]! - realEigenvalues[a]!);
    for (const [to, from] of order.entries()) {
      for (let row = 0; row < headDim; row++) {
        matrices[head * size + row * headDim + to] = eigenvectorMatrix.get(row, from);
      }
    }
  }
  return { heads, headDim, matrices };
}

/** Moments by the energy that they hold: their trace becomes 1, or stays 0. */
function share(moments: Float64Array, headDim: number): Matrix {
  const matrix = Matrix.from1DArray(headDim, headDim, moments);
  return matrix.div(matrix.trace() || 1);
}
