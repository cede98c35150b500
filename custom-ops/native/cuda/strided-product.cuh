// Products of many small matrices whose rows, inner dimension and columns may lie apart: those of structured matrices,
// which cut vectors into pieces and put them together in another order.
#pragma once

#include "range.cuh"
#include "row-tiles.cuh"

namespace onnxrewrite::cuda {

/** Numbers in runs of neighbors or of equal steps: number n lies at n / run * outer + n % run * inner. */
struct Runs {
  int run, outer, inner;
  __host__ __device__ size_t at(int n) const {
    return static_cast<size_t>(n / run) * static_cast<size_t>(outer) + static_cast<size_t>(n % run) * static_cast<size_t>(inner);
  }
};

/** result[row, column] = sum over k of left[row, k] * right[k, column], for each matrix of a batch. */
template <class T, class Result>
struct StridedProduct {
  const T* left;
  /** [batch][inner][columns] */
  const T* right;
  Result* result;
  int rows, inner, columns, batch;
  size_t leftRow;
  Runs leftBatch, leftInner;
  size_t resultRow;
  Runs resultBatch, resultColumn;
};

constexpr int kProductThreads = 128, kProductRows = 64, kProductColumns = 64, kProductInner = 64;

template <class T>
struct ProductShared {
  T left[kProductRows * kProductInner];
  T right[kProductInner * kProductColumns];
};

/** Block (64 rows, 64 columns, matrix); a warp has 16 rows. */
template <class T, class Result>
__global__ void __launch_bounds__(kProductThreads) multiplyStrided(const __grid_constant__ StridedProduct<T, Result> p) {
  auto& shared = *reinterpret_cast<ProductShared<T>*>(dynamicShared());
  const SharedMatrix<T, kProductInner> left{shared.left};
  /** Transposed. */
  const SharedMatrix<T, kProductInner> right{shared.right};
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int firstRow = blockIdx.x * kProductRows, firstColumn = blockIdx.y * kProductColumns, matrix = blockIdx.z;
  const T* const leftNumbers = p.left + p.leftBatch.at(matrix);
  const T* const rightNumbers = p.right + static_cast<size_t>(matrix) * p.inner * p.columns;

  float sum[kProductColumns / 8][4] = {};
  for (int from = 0; from < p.inner; from += kProductInner) {
    __syncthreads();
    for (int i = thread; i < kProductRows * kProductInner; i += kProductThreads) {
      const int row = i / kProductInner, k = i % kProductInner;
      const bool there = firstRow + row < p.rows && from + k < p.inner;
      left.at(row, k) = there ? leftNumbers[(firstRow + row) * p.leftRow + p.leftInner.at(from + k)] : static_cast<T>(0.f);
    }
    for (int i = thread; i < kProductInner * kProductColumns; i += kProductThreads) {
      const int k = i / kProductColumns, column = firstColumn + i % kProductColumns;
      const bool there = from + k < p.inner && column < p.columns;
      right.at(i % kProductColumns, k) =
          there ? rightNumbers[static_cast<size_t>(from + k) * p.columns + column] : static_cast<T>(0.f);
    }
    __syncthreads();
    OperandPart<T> own[1][kProductInner / 16];
#pragma unroll
    for (int k = 0; k < kProductInner / 16; k++) loadLeft(own[0][k], left, warp * 16, k);
    float products[1][kProductColumns / 8][4];
    multiplyKeys<T, kProductInner, 1, kProductColumns>(products, own, right);
#pragma unroll
    for (int n = 0; n < kProductColumns / 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) sum[n][i] += products[0][n][i];
  }
  Result* const result = p.result + p.resultBatch.at(matrix);
#pragma unroll
  for (int n = 0; n < kProductColumns / 8; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int row = firstRow + warp * 16 + lane / 4 + i / 2 * 8, column = firstColumn + n * 8 + lane % 4 * 2 + i % 2;
      if (row < p.rows && column < p.columns)
        result[row * p.resultRow + p.resultColumn.at(column)] = static_cast<Result>(sum[n][i]);
    }
}

template <class T, class Result>
cudaError_t launchProduct(const StridedProduct<T, Result>& product, cudaStream_t stream) {
  const dim3 grid(ceilDiv(product.rows, kProductRows), ceilDiv(product.columns, kProductColumns), product.batch);
  return launch(multiplyStrided<T, Result>, grid, kProductThreads, sizeof(ProductShared<T>), stream, product);
}

}  // namespace onnxrewrite::cuda
