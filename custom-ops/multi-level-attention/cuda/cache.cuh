// Copies between cache and tokens: the cache that a run leaves behind, and keys and values of both as one sequence.
#pragma once

#include "geometry.cuh"

namespace onnxrewrite::multilevel::cuda {

/** Rows of one tensor per key head: the last `fromPast` of those in the cache, then the last ones of the fresh. */
template <class T>
struct RowCopy {
  T* target;
  const T* past;
  const T* fresh;
  int rows, fromPast;
  /** Rows of `past`, all `size` long. */
  int cached;
  int freshRows;
  int size;
  /** Length of a row of the fresh tensor and where in it copying begins; the same of the target, which has its own rows. */
  int freshStride, freshOffset, targetStride, targetOffset, targetRows;
};

template <class T>
struct RowCopies {
  static constexpr int kMost = kMostLevels + 1;
  RowCopy<T> copies[kMost];
  int count = 0;

  void add(const RowCopy<T>& copy) {
    if (copy.target && copy.rows > 0) copies[count++] = copy;
  }
};

/** Block (share of the rows, key head, copy). The rows go to the end of the target's. */
template <class T>
__global__ void __launch_bounds__(256) copyRows(const __grid_constant__ RowCopies<T> all) {
  const RowCopy<T>& copy = all.copies[blockIdx.z];
  const size_t head = blockIdx.y;
  const auto source = [&](int row) {
    return row < copy.fromPast
               ? copy.past + (head * copy.cached + copy.cached - copy.fromPast + row) * copy.size
               : copy.fresh + (head * copy.freshRows + copy.freshRows - copy.rows + row) * copy.freshStride + copy.freshOffset;
  };
  const auto target = [&](int row) {
    return copy.target + (head * copy.targetRows + copy.targetRows - copy.rows + row) * copy.targetStride + copy.targetOffset;
  };
  constexpr int kPiece = 16 / sizeof(T);
  const auto aligned = [](const T* at) { return reinterpret_cast<uintptr_t>(at) % 16 == 0; };
  const bool whole = copy.size % kPiece == 0 && copy.freshStride % kPiece == 0 && copy.freshOffset % kPiece == 0 &&
                     copy.targetStride % kPiece == 0 && copy.targetOffset % kPiece == 0 && aligned(copy.target) &&
                     aligned(copy.past) && aligned(copy.fresh);
  const int pieces = whole ? copy.size / kPiece : copy.size;
  const size_t count = static_cast<size_t>(copy.rows) * pieces;
  for (size_t i = static_cast<size_t>(blockIdx.x) * 256 + threadIdx.x; i < count; i += static_cast<size_t>(gridDim.x) * 256) {
    const int row = static_cast<int>(i / pieces), piece = static_cast<int>(i % pieces);
    if (whole)
      reinterpret_cast<uint4*>(target(row))[piece] = reinterpret_cast<const uint4*>(source(row))[piece];
    else
      target(row)[piece] = source(row)[piece];
  }
}

template <class T>
cudaError_t launchCopies(const RowCopies<T>& all, int kvHeads, cudaStream_t stream) {
  constexpr int kMostBlocks = 256;
  size_t most = 0;
  for (int i = 0; i < all.count; i++) {
    const size_t numbers = static_cast<size_t>(all.copies[i].rows) * all.copies[i].size;
    most = numbers > most ? numbers : most;
  }
  // A thread copies some 16 numbers.
  const size_t blocks = (most + 4095) / 4096;
  return launch(copyRows<T>, dim3(blocks < kMostBlocks ? static_cast<int>(blocks) : kMostBlocks, kvHeads, all.count), 256, 0,
                stream, all);
}

}  // namespace onnxrewrite::multilevel::cuda
