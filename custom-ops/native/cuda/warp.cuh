// Reductions over the lanes of a warp; every lane gets the result, in the same order of operations.
#pragma once

#include "platform.cuh"

namespace onnxrewrite::cuda {

__device__ inline float warpSum(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(kWholeWarp, value, distance);
  return value;
}

__device__ inline float warpMax(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value = fmaxf(value, __shfl_xor_sync(kWholeWarp, value, distance));
  return value;
}

}  // namespace onnxrewrite::cuda
