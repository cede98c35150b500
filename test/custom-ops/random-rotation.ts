import { EigenvalueDecomposition, Matrix } from 'ml-matrix';
import type { HeadRotation } from '../../custom-ops/head-rotation.js';
import type { SeededRandom } from '../../custom-ops/seeded-random.js';

/** A random orthonormal matrix for each head: eigenvectors of a random symmetric one. */
export function randomRotation(heads: number, headDim: number, random: SeededRandom): HeadRotation {
  const size = headDim * headDim;
  const matrices = new Float32Array(heads * size);
  for (let head = 0; head < heads; head++) {
    const matrix = Matrix.from1DArray(headDim, headDim, random.normals(size));
    const { eigenvectorMatrix } = new EigenvalueDecomposition(Matrix.add(matrix, matrix.transpose()));
    matrices.set(eigenvectorMatrix.to1DArray(), head * size);
  }
  return { heads, headDim, matrices };
}
