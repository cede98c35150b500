// The core of every attention pass on tensor cores: rows of one warp against tiles of 64 columns, one softmax.
#pragma once

#include "geometry.cuh"
#include "../../native/cuda/mma.cuh"

namespace onnxrewrite::multipole::cuda {

/** A partial softmax in the base-2 domain: weights are 2^(logit - peak), `sum` and `total` their sums. */
template <class T, int Dim, int RowTiles>
struct SoftmaxTile {
  static constexpr int kColumns = 64;

  uint32_t query[RowTiles][Dim / 16][4];
  float sum[RowTiles][Dim / 8][4];
  float peak[RowTiles][2], total[RowTiles][2];

  /** `rows` holds the warp's own RowTiles * 16 queries. */
  __device__ void begin(SharedMatrix<T, Dim> rows) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < RowTiles; m++) {
#pragma unroll
      for (int k = 0; k < Dim / 16; k++)
        loadMatrices(query[m][k], rows.piece(m * 16 + (lane & 7) + (lane & 8), 2 * k + lane / 16));
#pragma unroll
      for (int n = 0; n < Dim / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) sum[m][n][i] = 0;
      peak[m][0] = peak[m][1] = -INFINITY;
      total[m][0] = total[m][1] = 0;
    }
  }

  /** Calls visit(m, half) for each of the rows m * 16 + half * 8 + lane / 4 that this thread holds parts of. */
  template <class Visit>
  __device__ static void eachRow(Visit visit) {
#pragma unroll
    for (int m = 0; m < RowTiles; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) visit(m, half);
  }

  /** Products of the queries with 64 keys. */
  __device__ void products(float (&s)[RowTiles][kColumns / 8][4], SharedMatrix<T, Dim> key) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < RowTiles; m++)
#pragma unroll
      for (int n = 0; n < kColumns / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) s[m][n][i] = 0;
#pragma unroll
    for (int k = 0; k < Dim / 16; k++)
#pragma unroll
      for (int n = 0; n < kColumns / 8; n += 2) {
        uint32_t b[4];
        loadMatrices(b, key.piece(n * 8 + (lane & 7) + lane / 16 * 8, 2 * k + (lane / 8 & 1)));
#pragma unroll
        for (int m = 0; m < RowTiles; m++) {
          multiplyAdd<T>(s[m][n], query[m][k], b[0], b[1]);
          multiplyAdd<T>(s[m][n + 1], query[m][k], b[2], b[3]);
        }
      }
  }

  /** Replaces products by logits and raises the peaks: logit(m, half, column, product), -infinity = not seen. */
  template <class Logit>
  __device__ void logits(float (&s)[RowTiles][kColumns / 8][4], float (&before)[RowTiles][2], Logit logit) {
    const int t = threadIdx.x % 4;
    eachRow([&](int m, int half) {
      float top = peak[m][half];
      before[m][half] = top;
#pragma unroll
      for (int n = 0; n < kColumns / 8; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
          float& value = s[m][n][2 * half + i];
          value = logit(m, half, n * 8 + 2 * t + i, value);
          top = fmaxf(top, value);
        }
      top = fmaxf(top, __shfl_xor_sync(kWholeWarp, top, 1));
      peak[m][half] = fmaxf(top, __shfl_xor_sync(kWholeWarp, top, 2));
    });
  }

  /** Adds 64 columns: their logits come from `logit` (see logits). */
  template <class Logit>
  __device__ void add(SharedMatrix<T, Dim> key, SharedMatrix<T, Dim> value, Logit logit) {
    const int lane = threadIdx.x % 32;
    float s[RowTiles][kColumns / 8][4], before[RowTiles][2];
    products(s, key);
    logits(s, before, logit);
    float base[RowTiles][2];
    eachRow([&](int m, int half) {
      base[m][half] = peak[m][half] == -INFINITY ? 0 : peak[m][half];
      float shrink = exp2Fast(before[m][half] - base[m][half]);
      total[m][half] *= shrink;
#pragma unroll
      for (int n = 0; n < Dim / 8; n++) {
        sum[m][n][2 * half] *= shrink;
        sum[m][n][2 * half + 1] *= shrink;
      }
    });
#pragma unroll
    for (int k = 0; k < kColumns / 16; k++) {
      uint32_t p[RowTiles][4];
#pragma unroll
      for (int m = 0; m < RowTiles; m++)
#pragma unroll
        for (int word = 0; word < 4; word++) {
          const float* pair = &s[m][2 * k + word / 2][word % 2 * 2];
          float low = exp2Fast(pair[0] - base[m][word % 2]), high = exp2Fast(pair[1] - base[m][word % 2]);
          total[m][word % 2] += low + high;
          p[m][word] = Pair<T>::pack(low, high);
        }
#pragma unroll
      for (int n = 0; n < Dim / 8; n += 2) {
        uint32_t b[4];
        loadMatricesTransposed(b, value.piece(k * 16 + (lane & 7) + (lane & 8), n + lane / 16));
#pragma unroll
        for (int m = 0; m < RowTiles; m++) {
          multiplyAdd<T>(sum[m][n], p[m], b[0], b[1]);
          multiplyAdd<T>(sum[m][n + 1], p[m], b[2], b[3]);
        }
      }
    }
  }

  /** Completes the totals, which each thread of a row's four holds a quarter of until then. */
  __device__ void finishTotals() {
    eachRow([&](int m, int half) {
      total[m][half] += __shfl_xor_sync(kWholeWarp, total[m][half], 1);
      total[m][half] += __shfl_xor_sync(kWholeWarp, total[m][half], 2);
    });
  }

  /** log2 of the sum of 2^logit; -infinity of nothing. */
  __device__ float lse(int m, int half) const {
    return total[m][half] > 0 ? peak[m][half] + log2f(total[m][half]) : -INFINITY;
  }

  /** Joins a finished softmax, given by its mean (the warp's rows of shared memory) and lse(m, half). */
  template <class Lse>
  __device__ void join(SharedMatrix<T, Dim> mean, Lse lse) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    eachRow([&](int m, int half) {
      float other = lse(m, half), top = fmaxf(peak[m][half], other);
      if (other == -INFINITY) return;
      float shrink = exp2Fast(peak[m][half] - top), weight = exp2Fast(other - top);
      peak[m][half] = top;
      total[m][half] = total[m][half] * shrink + weight;
#pragma unroll
      for (int n = 0; n < Dim / 8; n++) {
        float2 pair = Pair<T>::unpack(*reinterpret_cast<const uint32_t*>(&mean.at(m * 16 + half * 8 + g, n * 8 + 2 * t)));
        sum[m][n][2 * half] = sum[m][n][2 * half] * shrink + weight * pair.x;
        sum[m][n][2 * half + 1] = sum[m][n][2 * half + 1] * shrink + weight * pair.y;
      }
    });
  }

  /** Writes the means to the warp's rows of shared memory; zeros for a row without weight. */
  __device__ void store(SharedMatrix<T, Dim> mean) const {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    eachRow([&](int m, int half) {
      float inverse = total[m][half] > 0 ? 1 / total[m][half] : 0;
#pragma unroll
      for (int n = 0; n < Dim / 8; n++)
        *reinterpret_cast<uint32_t*>(&mean.at(m * 16 + half * 8 + g, n * 8 + 2 * t)) =
            Pair<T>::pack(sum[m][n][2 * half] * inverse, sum[m][n][2 * half + 1] * inverse);
    });
  }
};

}  // namespace onnxrewrite::multipole::cuda
