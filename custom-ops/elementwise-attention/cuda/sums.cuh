// The sums of one channel, in registers.
#pragma once

#include "../../native/cuda/mma.cuh"
#include "../../native/cuda/range.cuh"
#include "../parameters.h"

namespace onnxrewrite::elementwise::cuda {

using namespace onnxrewrite::cuda;

/** exp(a^2 - b^2), without squares that would swallow the difference. */
__device__ inline float ratio(float a, float b) { return exp2Fast((a - b) * (a + b) * kLog2E); }

/** S_n, Z_n and the offset of one channel (README, "Semantics"), up to n = Order. */
template <int Order>
struct Sums {
  /** Floats of a state per channel: S_0 ... S_t, Z_0 ... Z_t, offset. */
  static constexpr int kSize = 2 * (Order + 1) + 1;

  float numerators[Order + 1], denominators[Order + 1], offset;

  __device__ void clear() {
#pragma unroll
    for (int n = 0; n <= Order; n++) numerators[n] = denominators[n] = 0;
    offset = kEmptyOffset;
  }

  /** Keeps the state's floats at `state`, `stride` apart. */
  __device__ void store(float* state, size_t stride) const {
#pragma unroll
    for (int n = 0; n <= Order; n++) {
      state[n * stride] = numerators[n];
      state[(Order + 1 + n) * stride] = denominators[n];
    }
    state[2 * (Order + 1) * stride] = offset;
  }
  __device__ void load(const float* state, size_t stride) {
#pragma unroll
    for (int n = 0; n <= Order; n++) {
      numerators[n] = state[n * stride];
      denominators[n] = state[(Order + 1 + n) * stride];
    }
    offset = state[2 * (Order + 1) * stride];
  }

  __device__ void join(const Sums& other) {
    const float least = fminf(offset, other.offset);
    const float gain = ratio(least, offset), otherGain = ratio(least, other.offset);
#pragma unroll
    for (int n = 0; n <= Order; n++) {
      numerators[n] = numerators[n] * gain + other.numerators[n] * otherGain;
      denominators[n] = denominators[n] * gain + other.denominators[n] * otherGain;
    }
    offset = least;
  }

  /** Lets keys of up to this size follow: rare, but for the first ones. */
  __device__ void lower(float size) {
    if (size >= offset) return;
    const float factor = ratio(size, offset);
#pragma unroll
    for (int n = 0; n <= Order; n++) {
      numerators[n] *= factor;
      denominators[n] *= factor;
    }
    offset = size;
  }

  /** Adds a key of at least the offset in size. */
  __device__ void add(float key, float value) {
    float term = ratio(offset, fabsf(key));
#pragma unroll
    for (int n = 0; n <= Order; n++) {
      denominators[n] += term;
      numerators[n] += term * value;
      term *= key;
    }
  }

  /** Of the polynomial of degree `order`: with n-th coefficient 2^n / n!, by Horner's rule in 2 q. */
  __device__ float mean(float query, int order) const {
    float numerator = numerators[Order], denominator = denominators[Order];
#pragma unroll
    for (int n = Order; n > 0; n--) {
      // Begins at n = order.
      const float factor = n > order ? 0 : query * (2.f / n);
      numerator = numerator * factor + numerators[n - 1];
      denominator = denominator * factor + denominators[n - 1];
    }
    return denominators[0] > 0 ? numerator / denominator : 0;
  }
};

}  // namespace onnxrewrite::elementwise::cuda
