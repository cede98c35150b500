// Tiles of rows in shared memory for mma: loads, stores, and the two products of attention.
#pragma once

#include "mma.cuh"

namespace onnxrewrite::cuda {

/** Row of a matrix of `dim` columns; one multiplication of 32 bits. */
template <class T>
__device__ T* rowOf(T* matrix, int row, int dim) {
  return matrix + static_cast<size_t>(static_cast<unsigned>(row)) * static_cast<unsigned>(dim);
}

/**
 * Loads `count` rows of up to Dim columns from a matrix of `dim` columns; source(row) gives the matrix's row, or a negative
 * number for a row of zeros.
 */
template <class T, int Dim, class Source>
__device__ void loadRows(SharedMatrix<T, Dim> target, int count, const T* matrix, int dim, int first, int step, Source source) {
  constexpr int kPieces = Dim / 8;
#pragma unroll
  for (int i = first; i < count * kPieces; i += step) {
    const int row = i / kPieces, piece = i % kPieces, at = source(row);
    const bool valid = at >= 0 && piece * 8 < dim;
    copyAsync(target.piece(row, piece), valid ? rowOf(matrix, at, dim) + piece * 8 : matrix, valid);
  }
}

/** Writes the warp's rows to a matrix of `dim` columns; target(row) gives the matrix's row, negative to leave one out. */
template <class T, int Dim, class Target>
__device__ void storeRows(SharedMatrix<T, Dim> rows, int count, T* matrix, int dim, Target target) {
  constexpr int kPieces = Dim / 8;
  __syncwarp();
#pragma unroll
  for (int i = threadIdx.x % 32; i < count * kPieces; i += 32) {
    const int row = i / kPieces, piece = i % kPieces, at = target(row);
    if (at >= 0 && piece * 8 < dim)
      *reinterpret_cast<uint4*>(rowOf(matrix, at, dim) + piece * 8) = *reinterpret_cast<const uint4*>(rows.piece(row, piece));
  }
}

/** products = queries * keys (Columns of them, shared) transposed, with mma. */
template <class T, int Dim, int RowTiles, int Columns>
__device__ void multiplyKeys(float (&products)[RowTiles][Columns / 8][4], const uint32_t (&query)[RowTiles][Dim / 16][4],
                             SharedMatrix<T, Dim> key) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int m = 0; m < RowTiles; m++)
#pragma unroll
    for (int n = 0; n < Columns / 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) products[m][n][i] = 0;
#pragma unroll
  for (int k = 0; k < Dim / 16; k++)
#pragma unroll
    for (int n = 0; n < Columns / 8; n += 2) {
      uint32_t b[4];
      loadMatrices(b, key.piece(n * 8 + (lane & 7) + lane / 16 * 8, 2 * k + (lane / 8 & 1)));
#pragma unroll
      for (int m = 0; m < RowTiles; m++) {
        multiplyAdd<T>(products[m][n], query[m][k], b[0], b[1]);
        multiplyAdd<T>(products[m][n + 1], query[m][k], b[2], b[3]);
      }
    }
}

/** sum += weights * values (Columns of them, shared), with mma. */
template <class T, int Dim, int RowTiles, int Columns>
__device__ void multiplyValues(float (&sum)[RowTiles][Dim / 8][4], const uint32_t (&weights)[RowTiles][Columns / 16][4],
                               SharedMatrix<T, Dim> value) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < Columns / 16; k++)
#pragma unroll
    for (int n = 0; n < Dim / 8; n += 2) {
      uint32_t b[4];
      loadMatricesTransposed(b, value.piece(k * 16 + (lane & 7) + (lane & 8), n + lane / 16));
#pragma unroll
      for (int m = 0; m < RowTiles; m++) {
        multiplyAdd<T>(sum[m][n], weights[m][k], b[0], b[1]);
        multiplyAdd<T>(sum[m][n + 1], weights[m][k], b[2], b[3]);
      }
    }
}

}  // namespace onnxrewrite::cuda
