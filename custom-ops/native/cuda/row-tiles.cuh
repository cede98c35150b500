// Tiles of rows in shared memory for mma: loads, stores, and the two products of attention.
#pragma once

#include "operands.cuh"

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
  constexpr int kPieces = SharedMatrix<T, Dim>::kPieces, kPiece = SharedMatrix<T, Dim>::kPiece;
#pragma unroll
  for (int i = first; i < count * kPieces; i += step) {
    const int row = i / kPieces, piece = i % kPieces, at = source(row);
    const bool valid = at >= 0 && piece * kPiece < dim;
    copyAsync(target.piece(row, piece), valid ? rowOf(matrix, at, dim) + piece * kPiece : matrix, valid);
  }
}

/** Writes the warp's rows to a matrix of `dim` columns; target(row) gives the matrix's row, negative to leave one out. */
template <class T, int Dim, class Target>
__device__ void storeRows(SharedMatrix<T, Dim> rows, int count, T* matrix, int dim, Target target) {
  constexpr int kPieces = SharedMatrix<T, Dim>::kPieces, kPiece = SharedMatrix<T, Dim>::kPiece;
  __syncwarp();
#pragma unroll
  for (int i = threadIdx.x % 32; i < count * kPieces; i += 32) {
    const int row = i / kPieces, piece = i % kPieces, at = target(row);
    if (at >= 0 && piece * kPiece < dim)
      *reinterpret_cast<uint4*>(rowOf(matrix, at, dim) + piece * kPiece) = *reinterpret_cast<const uint4*>(rows.piece(row, piece));
  }
}

/** Adds two accumulator tiles of each row tile to those from `n` on. */
template <int RowTiles, int Tiles>
__device__ void addTiles(float (&sum)[RowTiles][Tiles][4], int n, const float (&added)[RowTiles][2][4]) {
#pragma unroll
  for (int m = 0; m < RowTiles; m++)
#pragma unroll
    for (int tile = 0; tile < 2; tile++)
#pragma unroll
      for (int i = 0; i < 4; i++) sum[m][n + tile][i] += added[m][tile][i];
}

/** products = queries * keys (Columns of them, shared) transposed, with mma. */
template <class T, int Dim, int RowTiles, int Columns>
__device__ void multiplyKeys(float (&products)[RowTiles][Columns / 8][4], const OperandPart<T> (&query)[RowTiles][Dim / 16],
                             SharedMatrix<T, Dim> key) {
#pragma unroll
  for (int m = 0; m < RowTiles; m++)
#pragma unroll
    for (int n = 0; n < Columns / 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) products[m][n][i] = 0;
  if constexpr (kSingle<T>) {
#pragma unroll
    for (int n = 0; n < Columns / 8; n += 2) {
      float rest[RowTiles][2][4] = {};
#pragma unroll
      for (int k = 0; k < Dim / 16; k++) {
        OperandPart<T> b;
        loadKeys(b, key, n * 8, k);
#pragma unroll
        for (int m = 0; m < RowTiles; m++)
#pragma unroll
          for (int tile = 0; tile < 2; tile++) multiplyAddSingle(products[m][n + tile], rest[m][tile], query[m][k], b, tile);
      }
      addTiles(products, n, rest);
    }
  } else {
#pragma unroll
    for (int k = 0; k < Dim / 16; k++)
#pragma unroll
      for (int n = 0; n < Columns / 8; n += 2) {
        OperandPart<T> b;
        loadKeys(b, key, n * 8, k);
#pragma unroll
        for (int m = 0; m < RowTiles; m++) multiplyAddPart<T>(products[m][n], products[m][n + 1], query[m][k], b);
      }
  }
}

/** sum += weights * values (Columns of them, shared), with mma. */
template <class T, int Dim, int RowTiles, int Columns>
__device__ void multiplyValues(float (&sum)[RowTiles][Dim / 8][4], const OperandPart<T> (&weights)[RowTiles][Columns / 16],
                               SharedMatrix<T, Dim> value) {
  if constexpr (kSingle<T>) {
#pragma unroll
    for (int n = 0; n < Dim / 8; n += 2) {
      float added[RowTiles][2][4] = {}, rest[RowTiles][2][4] = {};
#pragma unroll
      for (int k = 0; k < Columns / 16; k++) {
        OperandPart<T> b;
        loadValues(b, value, k * 16, n);
#pragma unroll
        for (int m = 0; m < RowTiles; m++)
#pragma unroll
          for (int tile = 0; tile < 2; tile++) multiplyAddSingle(added[m][tile], rest[m][tile], weights[m][k], b, tile);
      }
      addTiles(added, 0, rest);
      addTiles(sum, n, added);
    }
  } else {
#pragma unroll
    for (int k = 0; k < Columns / 16; k++)
#pragma unroll
      for (int n = 0; n < Dim / 8; n += 2) {
        OperandPart<T> b;
        loadValues(b, value, k * 16, n);
#pragma unroll
        for (int m = 0; m < RowTiles; m++) multiplyAddPart<T>(sum[m][n], sum[m][n + 1], weights[m][k], b);
      }
  }
}

}  // namespace onnxrewrite::cuda
