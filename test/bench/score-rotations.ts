import { EigenvalueDecomposition, Matrix, SingularValueDecomposition } from 'ml-matrix';
import type { HeadMoments } from '../../custom-ops/head-rotation.js';
import { scoreRotation } from '../../custom-ops/multi-level-attention/calibration.js';
import type { TrainedHeads } from './byte-model.js';

/** What queries and keys of each head are multiplied with: A and B with A B^T = I leave scores as they are. */
export interface Turn {
  readonly query: readonly Matrix[];
  readonly key: readonly Matrix[];
}

/**
 * Ways to bring the dimensions that matter to scores forward. `energy` is the operator's own; `product` has the
 * eigenvectors of Cq Ck + Ck Cq, the second moments of queries and keys; `balanced` is no rotation but the change of
 * basis that loses the least of E (q . k)^2 at every rank, where any query meets any key: with Cq = L L^T,
 * Ck = M M^T and L^T M = U S V^T, it has A = M V S^-1/2 and B = L U S^-1/2.
 */
export const ROTATIONS: Readonly<Record<string, (moments: HeadMoments) => Turn>> = {
  none: moments => orthonormal(moments, (_, __, size) => Matrix.eye(size)),
  product: moments =>
    orthonormal(moments, (query, key) => {
      const product = query.mmul(key);
      return leadingFirst(Matrix.add(product, product.transpose()));
    }),
  balanced: moments => byHead(moments, balanced),
  energy: moments => {
    const { heads, headDim, matrices } = scoreRotation(moments);
    const size = headDim * headDim;
    const rotations = Array.from({ length: heads }, (_, head) =>
      Matrix.from1DArray(headDim, headDim, matrices.subarray(head * size, (head + 1) * size)),
    );
    return { query: rotations, key: rotations };
  },
};

/** Heads with queries and keys multiplied. */
export function turned(heads: TrainedHeads, { query, key }: Turn): TrainedHeads {
  return { ...heads, query: multiplied(heads.query, heads, query), key: multiplied(heads.key, heads, key) };
}

function multiplied(data: Float32Array, { heads, size }: TrainedHeads, by: readonly Matrix[]): Float32Array {
  const result = new Float32Array(data.length);
  const rows = data.length / heads / size;
  for (let head = 0; head < heads; head++) {
    const part = data.subarray(head * rows * size, (head + 1) * rows * size);
    result.set(Matrix.from1DArray(rows, size, part).mmul(by[head]!).to1DArray(), head * rows * size);
  }
  return result;
}

function orthonormal(
  moments: HeadMoments,
  choose: (query: Matrix, key: Matrix, size: number) => Matrix,
): Turn {
  return byHead(moments, (query, key) => {
    const matrix = choose(query, key, moments.headDim);
    return { query: matrix, key: matrix };
  });
}

function byHead(
  { heads, headDim, query, key }: HeadMoments,
  choose: (query: Matrix, key: Matrix) => { readonly query: Matrix; readonly key: Matrix },
): Turn {
  const size = headDim * headDim;
  const part = (moments: Float64Array, head: number) =>
    Matrix.from1DArray(headDim, headDim, moments.subarray(head * size, (head + 1) * size));
  const chosen = Array.from({ length: heads }, (_, head) => choose(part(query, head), part(key, head)));
  return { query: chosen.map(({ query }) => query), key: chosen.map(({ key }) => key) };
}

function balanced(query: Matrix, key: Matrix) {
  const [left, right] = [factor(query), factor(key)];
  const { leftSingularVectors, rightSingularVectors, diagonal } = new SingularValueDecomposition(
    left.transpose().mmul(right),
  );
  const scale = Matrix.diag(diagonal.map(value => value ** -0.5));
  return {
    query: right.mmul(rightSingularVectors).mmul(scale),
    key: left.mmul(leftSingularVectors).mmul(scale),
  };
}

/** L with L L^T = the matrix, whose least eigenvalues are raised to a millionth of the largest. */
function factor(matrix: Matrix): Matrix {
  const { realEigenvalues, eigenvectorMatrix } = new EigenvalueDecomposition(matrix, {
    assumeSymmetric: true,
  });
  const least = 1e-6 * Math.max(...realEigenvalues);
  return eigenvectorMatrix.mmul(Matrix.diag(realEigenvalues.map(value => Math.sqrt(Math.max(value, least)))));
}

/** Eigenvectors of a symmetric matrix as columns, that of the largest eigenvalue first. */
function leadingFirst(matrix: Matrix): Matrix {
  const { realEigenvalues, eigenvectorMatrix } = new EigenvalueDecomposition(matrix, {
    assumeSymmetric: true,
  });
  const order = realEigenvalues.map((_, i) => i).sort((a, b) => realEigenvalues[b]! - realEigenvalues[a]!);
  return eigenvectorMatrix.subMatrixColumn(order);
}
