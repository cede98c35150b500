#pragma once

#include "platform.cuh"

namespace onnxrewrite::cuda {

/** Half-open run of rows, keys or clusters. */
struct Range {
  int begin, end;
  __host__ __device__ int size() const { return end > begin ? end - begin : 0; }
};

__host__ __device__ constexpr int ceilDiv(int a, int b) { return (a + b - 1) / b; }

}  // namespace onnxrewrite::cuda
