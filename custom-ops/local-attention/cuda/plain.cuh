// Attention for any type and size, in float32 without tensor cores: 8 rows to a warp, two keys or a few values to a lane.
#pragma once

#include "../../native/cuda/mma.cuh"
#include "../../native/cuda/warp.cuh"
#include "geometry.cuh"

namespace onnxrewrite::local::cuda {

constexpr int kPlainWarps = 4, kWarpRows = 8, kPlainRows = kPlainWarps * kWarpRows;
/** Keys met at a time, and dimensions of a key in shared memory at a time. */
constexpr int kPlainKeys = 64, kKeySlice = 32;
/** Floats between keys in shared memory: reads of 16 bytes by neighboring lanes fall into different banks. */
constexpr int kKeyStride = kKeySlice + 4;

/** Queries of the rows, weights by warp, and what all warps meet: a slice of the keys, then the values. */
template <int ValuesPerLane>
size_t plainSharedBytes(const Geometry& g) {
  const int slices = ceilDiv(g.headDim, kKeySlice) * kKeySlice;
  constexpr int kMet = kPlainKeys * (kKeyStride > ValuesPerLane * 32 ? kKeyStride : ValuesPerLane * 32);
  return sizeof(float) * (slices * kPlainRows + kPlainWarps * kPlainKeys * kWarpRows + kMet);
}

/** Calls visit(row, number) with the 8 numbers that lie from `at` on, which is 16-byte aligned. */
template <class Visit>
__device__ void eachRowNumber(const float* at, Visit visit) {
  const float4 low = reinterpret_cast<const float4*>(at)[0], high = reinterpret_cast<const float4*>(at)[1];
  visit(0, low.x), visit(1, low.y), visit(2, low.z), visit(3, low.w);
  visit(4, high.x), visit(5, high.y), visit(6, high.z), visit(7, high.w);
}

/** Adds to the logits of two keys of a lane, by row, the products over one slice of `queries` and `keys`. */
__device__ inline void addProducts(float (&logit)[kWarpRows][2], const float* queries, const float* keys) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int d = 0; d < kKeySlice; d += 4) {
    const float4 near = *reinterpret_cast<const float4*>(keys + lane * kKeyStride + d);
    const float4 far = *reinterpret_cast<const float4*>(keys + (lane + 32) * kKeyStride + d);
    const float own[2][4] = {{near.x, near.y, near.z, near.w}, {far.x, far.y, far.z, far.w}};
#pragma unroll
    for (int i = 0; i < 4; i++)
      eachRowNumber(queries + (d + i) * kWarpRows, [&](int row, float query) {
        logit[row][0] += query * own[0][i];
        logit[row][1] += query * own[1][i];
      });
  }
}

/** Partial softmax of a warp's rows, in base 2: each lane has sums of some values, and a part of the totals. */
template <int ValuesPerLane>
struct PlainRows {
  float sum[kWarpRows][ValuesPerLane], peak[kWarpRows], total[kWarpRows];
  /** Keys that each row sees but for a mask. */
  Range seen[kWarpRows];

  __device__ PlainRows(const Geometry& g, int firstRow) {
#pragma unroll
    for (int r = 0; r < kWarpRows; r++) {
#pragma unroll
      for (int i = 0; i < ValuesPerLane; i++) sum[r][i] = 0;
      peak[r] = -INFINITY;
      total[r] = 0;
      seen[r] = firstRow + r < g.queries ? g.keysOf(firstRow + r) : Range{0, 0};
    }
  }

  /**
   * Turns products with the keys from `from` on into `weights`, [key][row].
   * @returns whether every row of the warp sees all of these keys
   */
  __device__ bool weigh(float (&logit)[kWarpRows][2], int from, const bool* mask, float scale, float* weights) {
    const int lane = threadIdx.x % 32;
    bool whole = true;
#pragma unroll
    for (int r = 0; r < kWarpRows; r++) {
      float top = peak[r];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int key = from + lane + 32 * i;
        const bool shown = key >= seen[r].begin && key < seen[r].end && (!mask || mask[key]);
        logit[r][i] = shown ? logit[r][i] * scale : -INFINITY;
        whole = whole && shown;
        top = fmaxf(top, logit[r][i]);
      }
      top = warpMax(top);
      const float base = top == -INFINITY ? 0 : top, shrink = exp2Fast(peak[r] - base);
      peak[r] = top;
      total[r] *= shrink;
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const float weight = exp2Fast(logit[r][i] - base);
        total[r] += weight;
        weights[(lane + 32 * i) * kWarpRows + r] = weight;
      }
#pragma unroll
      for (int i = 0; i < ValuesPerLane; i++) sum[r][i] *= shrink;
    }
    return !__any_sync(kWholeWarp, !whole);
  }

  /** Adds `values`, [key][32 * ValuesPerLane], by `weights`; `whole` as weigh() tells. */
  __device__ void add(const float* weights, const float* values, bool whole) {
    for (int key = 0; key < kPlainKeys; key++) {
      float value[ValuesPerLane];
#pragma unroll
      for (int i = 0; i < ValuesPerLane; i++) value[i] = values[(key * ValuesPerLane + i) * 32 + threadIdx.x % 32];
      eachRowNumber(weights + key * kWarpRows, [&](int row, float weight) {
#pragma unroll
        for (int i = 0; i < ValuesPerLane; i++) {
          // A hidden key takes no part, whatever its value.
          if (whole || weight != 0) sum[row][i] += weight * value[i];
        }
      });
    }
  }

  /** Writes the means, and with the first values the log-sum-exps. */
  template <class T>
  __device__ void store(const Geometry& g, const Tensors<T>& tensors, int head, int firstRow, int firstValue) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < kWarpRows; r++) {
      total[r] = warpSum(total[r]);
      if (firstRow + r >= g.queries) continue;
      const size_t row = static_cast<size_t>(head) * g.queries + firstRow + r;
#pragma unroll
      for (int i = 0; i < ValuesPerLane; i++)
        if (const int e = firstValue + lane + 32 * i; e < g.valueDim)
          tensors.output[row * g.valueDim + e] = static_cast<T>(total[r] == 0 ? 0.f : sum[r][i] / total[r]);
      if (tensors.lse && lane == 0 && firstValue == 0)
        tensors.lse[row] = static_cast<T>(total[r] == 0 ? -INFINITY : (peak[r] + log2f(total[r])) * kLn2);
    }
  }
};

/** Block (32 rows, head, 32 * ValuesPerLane of the values). */
template <class T, int ValuesPerLane>
__global__ void __launch_bounds__(kPlainWarps * 32) attendPlain(const __grid_constant__ Geometry g, Tensors<T> tensors) {
  constexpr int kThreads = kPlainWarps * 32, kBlockValues = ValuesPerLane * 32;
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, head = blockIdx.y;
  const int blockRow = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kPlainRows, firstRow = blockRow + warp * kWarpRows;
  const int firstValue = blockIdx.z * kBlockValues, slices = ceilDiv(g.headDim, kKeySlice);
  const size_t firstKey = static_cast<size_t>(g.kvHeadOf(head)) * g.keys;
  const bool* const mask = tensors.mask ? tensors.mask + static_cast<size_t>(head / g.heads) * g.keys : nullptr;
  // By warp, [dimension][row] and [key][row].
  float* const queries = reinterpret_cast<float*>(dynamicShared()) + warp * slices * kKeySlice * kWarpRows;
  float* const weights =
      reinterpret_cast<float*>(dynamicShared()) + slices * kKeySlice * kPlainRows + warp * kPlainKeys * kWarpRows;
  float* const met = reinterpret_cast<float*>(dynamicShared()) + slices * kKeySlice * kPlainRows + kPlainWarps * kPlainKeys * kWarpRows;

  for (int row = 0; row < kWarpRows; row++)
    for (int d = lane; d < slices * kKeySlice; d += 32) {
      const bool there = firstRow + row < g.queries && d < g.headDim;
      queries[d * kWarpRows + row] =
          there ? static_cast<float>(tensors.query[(g.firstQuery(head) + firstRow + row) * g.headDim + d]) : 0.f;
    }

  PlainRows<ValuesPerLane> rows(g, firstRow);
  const Range all = g.keysOf(Range{blockRow, min(blockRow + kPlainRows, g.queries)});
  for (int from = all.begin; from < all.end; from += kPlainKeys) {
    float logit[kWarpRows][2] = {};
    for (int slice = 0; slice < slices; slice++) {
      __syncthreads();
      for (int i = thread; i < kPlainKeys * kKeySlice; i += kThreads) {
        const int key = from + i / kKeySlice, d = slice * kKeySlice + i % kKeySlice;
        met[i / kKeySlice * kKeyStride + i % kKeySlice] =
            key < all.end && d < g.headDim ? static_cast<float>(tensors.key[(firstKey + key) * g.headDim + d]) : 0.f;
      }
      __syncthreads();
      addProducts(logit, queries + slice * kKeySlice * kWarpRows, met);
    }
    __syncthreads();
    for (int i = thread; i < kPlainKeys * kBlockValues; i += kThreads) {
      const int key = from + i / kBlockValues, e = firstValue + i % kBlockValues;
      const bool there = key < all.end && e < g.valueDim && (!mask || mask[key]);
      met[i] = there ? static_cast<float>(tensors.value[(firstKey + key) * g.valueDim + e]) : 0.f;
    }
    const bool whole = rows.weigh(logit, from, mask, g.scale, weights);
    __syncthreads();
    rows.add(weights, met, whole);
  }
  rows.store(g, tensors, head, firstRow, firstValue);
}

}  // namespace onnxrewrite::local::cuda
