// Sizes, positions and windows of one LocalAttention call (README, "Semantics"), the same for all kernels.
#pragma once

#include "../../native/cuda/range.cuh"
#include "../parameters.h"

namespace onnxrewrite::local::cuda {

using namespace onnxrewrite::cuda;

struct Geometry {
  int batch, heads, kvHeads;
  /** Neighboring heads that have the same queries. */
  int sharing;
  int queries, keys, headDim, valueDim;
  /** How far a row sees to either side of its position; row 0 stands at `offset`. */
  int left, right, offset;
  /** Factor that makes products logits in base 2. */
  float scale;

  __host__ __device__ int kvHeadOf(int head) const {
    return head / heads * kvHeads + head % heads / (heads / kvHeads);
  }
  /** Where the first query of a head lies, in rows. */
  __device__ size_t firstQuery(int head) const { return static_cast<size_t>(head / sharing) * queries; }

  /** Keys that a row sees but for a mask; both ends rise with the row. */
  __host__ __device__ Range keysOf(int row) const {
    const long long position = static_cast<long long>(row) + offset;
    return {within(position - left), within(position + right + 1)};
  }
  /** Keys that some row of a run sees, which is not empty. */
  __host__ __device__ Range keysOf(Range rows) const { return {keysOf(rows.begin).begin, keysOf(rows.end - 1).end}; }

 private:
  __host__ __device__ int within(long long key) const { return key < 0 ? 0 : key > keys ? keys : static_cast<int>(key); }
};

/** All on the device, row-major; mask ([batch, keys]) and lse may be null. */
template <class T>
struct Tensors {
  const T* query;
  const T* key;
  const T* value;
  const bool* mask;
  T* output;
  T* lse;
};

}  // namespace onnxrewrite::local::cuda
