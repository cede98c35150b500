// Attention for any type, size and cache, in float32 without tensor cores: few rows by all keys, a key per lane. The
// form of decoding steps, of float32, and of sizes that tiles.cuh does not take.
#pragma once

#include "../../native/cuda/warp.cuh"
#include "geometry.cuh"

namespace onnxrewrite::multilevel::cuda {

constexpr int kRowWarps = 4;
/** Largest value size: what registers are declared for. */
constexpr int kMostValueDim = 512;

/** Softmax of a part of the keys: the unnormalized sum of values, the largest logit, and the sum of weights. */
struct Partials {
  /** [splits][B*H][N][E] */
  float* sum;
  /** [splits][B*H][N] */
  float* peak;
  float* total;
};

/** Runs of `count` numbers in device memory, 16 bytes at a time where they allow it: visit(index, number). */
template <class T, class Visit>
__device__ void eachNumber(const T* at, int count, Visit visit) {
  constexpr int kPiece = 16 / sizeof(T);
  if (reinterpret_cast<uintptr_t>(at) % 16 == 0 && count % kPiece == 0) {
    for (int from = 0; from < count; from += kPiece) {
      const uint4 bits = *reinterpret_cast<const uint4*>(at + from);
      T piece[kPiece];
      memcpy(static_cast<void*>(piece), &bits, sizeof bits);
#pragma unroll
      for (int i = 0; i < kPiece; i++) visit(from + i, static_cast<float>(piece[i]));
    }
  } else {
    for (int i = 0; i < count; i++) visit(i, static_cast<float>(at[i]));
  }
}

/** A row of a level's keys, in the cache or among the fresh ones. */
template <class T>
__device__ const T* levelKey(const Geometry& g, const Operands<T>& in, int kvHead, int key, int level) {
  const int first = level == 0 ? 0 : g.ends[level - 1];
  if (key >= g.past) return in.key + (static_cast<size_t>(kvHead) * (g.keys - g.past) + key - g.past) * g.headDim + first;
  const int row = key - (g.past - in.cached[level]);
  return in.pastKeys[level] + (static_cast<size_t>(kvHead) * in.cached[level] + row) * (g.ends[level] - first);
}

/** Bytes of shared memory: queries, and each warp's weights, or its sums at the end. */
template <int Rows>
size_t rowsSharedBytes(const Geometry& g) {
  const int part = Rows * (g.valueDim + 2), weights = Rows * 32;
  return sizeof(float) * (Rows * g.headDim + kRowWarps * (part > weights ? part : weights));
}

/** Block (rows, head, split); warps take every fourth run of 32 keys of the split. */
template <class T, int Rows, int ValuesPerLane>
__global__ void __launch_bounds__(kRowWarps * 32)
    attendRows(const __grid_constant__ Geometry g, const __grid_constant__ Operands<T> in, int splitKeys, Results<T> out,
               Partials partials) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int firstRow = blockIdx.x * Rows, head = blockIdx.y, split = blockIdx.z, kvHead = g.kvHeadOf(head);
  const int rows = min(Rows, g.queries - firstRow);
  float* const queries = reinterpret_cast<float*>(dynamicShared());
  const int workspace = Rows * max(g.valueDim + 2, 32);
  float* const own = queries + Rows * g.headDim + warp * workspace;

  for (int i = threadIdx.x; i < Rows * g.headDim; i += kRowWarps * 32) {
    const int row = i / g.headDim, dimension = i % g.headDim;
    queries[dimension * Rows + row] =
        row < rows ? static_cast<float>(in.query[(static_cast<size_t>(head) * g.queries + firstRow + row) * g.headDim + dimension]) *
                         g.weightOf(dimension)
                   : 0;
  }
  __syncthreads();

  float sum[Rows][ValuesPerLane] = {}, peak[Rows], total[Rows] = {};
  int rowBlock[Rows], end[Rows], furthest = 0;
#pragma unroll
  for (int r = 0; r < Rows; r++) {
    peak[r] = -INFINITY;
    rowBlock[r] = g.blockOf(g.position(firstRow + r));
    end[r] = r < rows ? g.visibleEnd(firstRow + r) : 0;
    furthest = max(furthest, end[r]);
  }
  const bool* const mask = in.visible ? in.visible + static_cast<size_t>(head / g.heads) * g.keys : nullptr;
  const int to = min(furthest, (split + 1) * splitKeys);
  for (int from = split * splitKeys + warp * 32; from < to; from += kRowWarps * 32) {
    const int key = from + lane;
    const bool there = key < to && (!mask || mask[key]);
    float logit[Rows] = {};
    int shared[Rows], most = 0;
    const int keyBlock = g.blockOf(key);
#pragma unroll
    for (int r = 0; r < Rows; r++) {
      shared[r] = there && key < end[r] ? g.shared(rowBlock[r], keyBlock) : 0;
      most = max(most, shared[r]);
    }
    for (int level = 0; level < most; level++) {
      const int first = level == 0 ? 0 : g.ends[level - 1];
      eachNumber(levelKey(g, in, kvHead, key, level), g.ends[level] - first, [&](int index, float number) {
        const float* const query = queries + (first + index) * Rows;
#pragma unroll
        for (int r = 0; r < Rows; r++)
          if (Rows == 1 || level < shared[r]) logit[r] += number * query[r];
      });
    }
    __syncwarp();
#pragma unroll
    for (int r = 0; r < Rows; r++) {
      logit[r] = shared[r] > 0 ? logit[r] * g.factors[shared[r] - 1] : -INFINITY;
      const float top = fmaxf(warpMax(logit[r]), peak[r]);
      const float base = top == -INFINITY ? 0 : top, shrink = exp2Fast(peak[r] - base), weight = exp2Fast(logit[r] - base);
      peak[r] = top;
      total[r] = total[r] * shrink + weight;
#pragma unroll
      for (int i = 0; i < ValuesPerLane; i++) sum[r][i] *= shrink;
      own[lane * Rows + r] = weight;
    }
    __syncwarp();
    // Values of the keys from + run, of which the first lies at `values`.
    const auto addValues = [&](const T* values, Range run) {
      constexpr int kTogether = ValuesPerLane <= 4 ? 8 : 1;
#pragma unroll kTogether
      for (int k = run.begin; k < run.end; k++, values += g.valueDim) {
#pragma unroll
        for (int i = 0; i < ValuesPerLane; i++) {
          const float number = lane + 32 * i < g.valueDim ? static_cast<float>(values[lane + 32 * i]) : 0;
#pragma unroll
          for (int r = 0; r < Rows; r++) {
            // A hidden key takes no part, whatever its value.
            const float weight = own[k * Rows + r];
            sum[r][i] = weight > 0 ? sum[r][i] + weight * number : sum[r][i];
          }
        }
      }
    };
    const int count = min(32, to - from), cached = min(max(g.past - from, 0), count);
    if (cached > 0) addValues(in.pastValue + (static_cast<size_t>(kvHead) * g.past + from) * g.valueDim, {0, cached});
    if (cached < count) {
      const size_t row = static_cast<size_t>(kvHead) * (g.keys - g.past) + from + cached - g.past;
      addValues(in.value + row * g.valueDim, {cached, count});
    }
  }

  // Warps leave their sums, and share the rows.
  __syncwarp();
#pragma unroll
  for (int r = 0; r < Rows; r++) {
    total[r] = warpSum(total[r]);
    float* const part = own + r * (g.valueDim + 2);
#pragma unroll
    for (int i = 0; i < ValuesPerLane; i++)
      if (lane + 32 * i < g.valueDim) part[lane + 32 * i] = sum[r][i];
    if (lane == 0) {
      part[g.valueDim] = peak[r];
      part[g.valueDim + 1] = total[r];
    }
  }
  __syncthreads();
  for (int r = warp; r < rows; r += kRowWarps) {
    const auto partOf = [&](int w) { return queries + Rows * g.headDim + w * workspace + r * (g.valueDim + 2); };
    float top = -INFINITY, all = 0, gain[kRowWarps];
    for (int w = 0; w < kRowWarps; w++) top = fmaxf(top, partOf(w)[g.valueDim]);
#pragma unroll
    for (int w = 0; w < kRowWarps; w++) {
      gain[w] = top == -INFINITY ? 0 : exp2Fast(partOf(w)[g.valueDim] - top);
      all += gain[w] * partOf(w)[g.valueDim + 1];
    }
    const size_t rowIndex = static_cast<size_t>(head) * g.queries + firstRow + r;
    const size_t at = gridDim.z == 1 ? rowIndex : static_cast<size_t>(split) * g.batch * g.heads * g.queries + rowIndex;
    for (int e = lane; e < g.valueDim; e += 32) {
      float value = 0;
#pragma unroll
      for (int w = 0; w < kRowWarps; w++) value += gain[w] * partOf(w)[e];
      if (gridDim.z == 1)
        out.output[at * g.valueDim + e] = static_cast<T>(all > 0 ? value / all : 0.f);
      else
        partials.sum[at * g.valueDim + e] = value;
    }
    if (lane > 0) continue;
    if (gridDim.z > 1) {
      partials.peak[at] = top;
      partials.total[at] = all;
    } else if (out.lse) {
      out.lse[at] = static_cast<T>(all > 0 ? (top + log2f(all)) * kLn2 : -INFINITY);
    }
  }
}

/** Joins the parts of the keys; a warp per row. */
template <class T>
__global__ void __launch_bounds__(128) joinSplits(const __grid_constant__ Geometry g, int splits, Partials partials, Results<T> out) {
  const size_t rows = static_cast<size_t>(g.batch) * g.heads * g.queries;
  const size_t row = static_cast<size_t>(blockIdx.x) * 4 + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (row >= rows) return;
  float top = -INFINITY, all = 0;
  for (int split = 0; split < splits; split++) top = fmaxf(top, partials.peak[split * rows + row]);
  const auto gain = [&](int split) { return top == -INFINITY ? 0 : exp2Fast(partials.peak[split * rows + row] - top); };
  for (int split = 0; split < splits; split++) all += gain(split) * partials.total[split * rows + row];
  for (int e = lane; e < g.valueDim; e += 32) {
    float value = 0;
    for (int split = 0; split < splits; split++) value += gain(split) * partials.sum[(split * rows + row) * g.valueDim + e];
    out.output[row * g.valueDim + e] = static_cast<T>(all > 0 ? value / all : 0.f);
  }
  if (out.lse && lane == 0) out.lse[row] = static_cast<T>(all > 0 ? (top + log2f(all)) * kLn2 : -INFINITY);
}

}  // namespace onnxrewrite::multilevel::cuda
