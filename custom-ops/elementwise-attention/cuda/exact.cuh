// Order 0: the exponential itself, every row by every key.
#pragma once

#include "sums.cuh"

namespace onnxrewrite::elementwise::cuda {

constexpr int kExactWarps = 8;
/** Rows of a thread, and of a block. */
constexpr int kThreadRows = 4, kExactRows = kExactWarps * kThreadRows;
/** Keys in shared memory, and those whose nearest is found before any is added. */
constexpr int kExactKeys = 32, kNearestOf = 8;

struct ExactGeometry {
  int batch, rows, keys, channels;
  bool causal;
};

/** A warp has 32 channels and kThreadRows rows. The sums are times exp(nearest^2), nearest the least |q - k| so far. */
template <class T>
__global__ void __launch_bounds__(kExactWarps * 32)
    attendExact(ExactGeometry g, const T* queries, const T* keys, const T* values, const bool* visible, T* output) {
  __shared__ float sharedKeys[kExactKeys][32], sharedValues[kExactKeys][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, batch = blockIdx.z;
  const int channel = blockIdx.x * 32 + lane, blockRow = blockIdx.y * kExactRows, firstRow = blockRow + warp * kThreadRows;
  const bool inside = channel < g.channels;
  const size_t firstKey = static_cast<size_t>(batch) * g.keys;
  const auto rowAt = [&](int row) { return (static_cast<size_t>(batch) * g.rows + row) * g.channels + channel; };

  float query[kThreadRows], nearest[kThreadRows], numerator[kThreadRows] = {}, denominator[kThreadRows] = {};
#pragma unroll
  for (int r = 0; r < kThreadRows; r++) {
    query[r] = inside && firstRow + r < g.rows ? static_cast<float>(queries[rowAt(firstRow + r)]) : 0.f;
    nearest[r] = kEmptyOffset;
  }
  const int seen = g.causal ? min(g.keys, blockRow + kExactRows) : g.keys;
  for (int from = 0; from < seen; from += kExactKeys) {
    __syncthreads();
    for (int i = warp; i < kExactKeys; i += kExactWarps) {
      const int key = from + i;
      const bool there = key < seen && (!visible || visible[firstKey + key]);
      const size_t at = (firstKey + key) * g.channels + channel;
      // A key that is not there is infinitely far.
      sharedKeys[i][lane] = there && inside ? static_cast<float>(keys[at]) : INFINITY;
      sharedValues[i][lane] = there && inside ? static_cast<float>(values[at]) : 0.f;
    }
    __syncthreads();
    for (int first = 0; first < kExactKeys; first += kNearestOf) {
      float key[kNearestOf], value[kNearestOf];
#pragma unroll
      for (int i = 0; i < kNearestOf; i++) {
        key[i] = sharedKeys[first + i][lane];
        value[i] = sharedValues[first + i][lane];
      }
#pragma unroll
      for (int r = 0; r < kThreadRows; r++) {
        float distance[kNearestOf], least = nearest[r];
#pragma unroll
        for (int i = 0; i < kNearestOf; i++) {
          const bool later = g.causal && from + first + i > firstRow + r;
          distance[i] = later ? INFINITY : fabsf(query[r] - key[i]);
          least = fminf(least, distance[i]);
        }
        const float gain = ratio(least, nearest[r]);
        nearest[r] = least;
        numerator[r] *= gain;
        denominator[r] *= gain;
#pragma unroll
        for (int i = 0; i < kNearestOf; i++) {
          const float weight = ratio(least, distance[i]);
          numerator[r] += weight * value[i];
          denominator[r] += weight;
        }
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kThreadRows; r++)
    if (inside && firstRow + r < g.rows)
      output[rowAt(firstRow + r)] = static_cast<T>(denominator[r] > 0 ? numerator[r] / denominator[r] : 0.f);
}

}  // namespace onnxrewrite::elementwise::cuda
