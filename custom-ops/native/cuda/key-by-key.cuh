// One row of attention by one warp, key by key: what passes over tiles fall back to where sums are not finite. Their
// products let such a value into rows that do not see it, as zero times itself.
#pragma once

#include "mma.cuh"
#include "range.cuh"
#include "warp.cuh"

namespace onnxrewrite::cuda {

/** Largest value size: what a lane's registers are declared for. */
constexpr int kKeyByKeyValueDim = 128;

/**
 * Writes the mean of `values` (rows of valueDim numbers) under the softmax of logit(key), in base 2 and -infinity for a key
 * that is hidden, over a run of keys; zeros where it sees none. Called by whole warps; lanes ask for logits of different keys.
 */
template <class T, class Logit>
__device__ __noinline__ void attendKeyByKey(Range keys, const T* values, int valueDim, T* output, Logit logit) {
  constexpr int kValuesPerLane = kKeyByKeyValueDim / 32;
  const int lane = threadIdx.x % 32;
  float sum[kValuesPerLane] = {}, peak = -INFINITY, total = 0;
  for (int first = keys.begin; first < keys.end; first += 32) {
    const float own = first + lane < keys.end ? logit(first + lane) : -INFINITY;
    const float top = warpMax(fmaxf(peak, own));
    const float base = top == -INFINITY ? 0 : top, shrink = exp2Fast(peak - base), weight = exp2Fast(own - base);
    peak = top;
    total = total * shrink + weight;
    for (float& part : sum) part *= shrink;
    for (int k = 0; k < 32; k++) {
      const float other = __shfl_sync(kWholeWarp, weight, k);
      // Not a number passes: only hidden keys weigh nothing.
      if (other == 0) continue;
      const T* const numbers = values + static_cast<size_t>(first + k) * valueDim;
      for (int i = 0; i < kValuesPerLane; i++)
        if (lane + 32 * i < valueDim) sum[i] += other * static_cast<float>(numbers[lane + 32 * i]);
    }
  }
  total = warpSum(total);
  for (int i = 0; i < kValuesPerLane; i++)
    if (lane + 32 * i < valueDim) output[lane + 32 * i] = static_cast<T>(total == 0 ? 0.f : sum[i] / total);
}

}  // namespace onnxrewrite::cuda
