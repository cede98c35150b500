// Partial softmax of the rows of one warp, as every attention pass on tensor cores keeps it.
#pragma once

#include "operands.cuh"

namespace onnxrewrite::cuda {

/** Columns that a pass over neighboring columns takes at a time. */
constexpr int kColumns = 64;

/** Row of a warp's rows that this thread holds parts of: half 0 or 1 of row tile m. */
__device__ inline int warpRow(int m, int half) { return m * 16 + half * 8 + threadIdx.x % 32 / 4; }

/** A bit for each of the lowest `count` ones of 32 columns. */
__device__ inline uint32_t firstColumns(int count) { return count >= 32 ? ~0u : (1u << max(count, 0)) - 1; }

/** Which of a tile's 64 columns each of a thread's rows sees. */
template <int RowTiles>
struct VisibleColumns {
  /** Bits of 32 columns, shifted by the thread's first one: which bit belongs to which product is known when compiling. */
  uint32_t words[RowTiles][2][2];

  /** The columns [begin, end) of the tile whose bits in `among` are set. */
  __device__ void set(int m, int half, int begin, int end, uint2 among) {
    const int shift = threadIdx.x % 4 * 2;
    words[m][half][0] = (firstColumns(end) & ~firstColumns(begin) & among.x) >> shift;
    words[m][half][1] = (firstColumns(end - 32) & ~firstColumns(begin - 32) & among.y) >> shift;
  }
  __device__ bool at(int m, int half, int column) const {
    return words[m][half][column / 32] >> (column % 32 - threadIdx.x % 4 * 2) & 1;
  }
};

/**
 * In the base-2 domain: weights are 2^(logit - peak), `sum` and `total` their sums. The peak only follows a logit that is
 * higher by more than the logit object's kHeadroom: 0 for weights up to 1, more for sums that are seldom rescaled. A logit
 * object also tells plain(tile): whether logits of that tile are product * scale, scale above 0, for all rows and columns;
 * biased(tile): whether they are product * scale + bias(tile, column); and operator()(tile, m, half, column, product): the
 * logit, -infinity = not seen. Engines also call its prepare(tile) before the products of a tile are there, keep(tile,
 * weights, peak) after they became weights, and ask with leadingPlain() how many tiles are plain from the first on.
 */
template <class T, int Dim, int RowTiles, int Columns = kColumns>
struct SoftmaxRows {
  using Products = float[RowTiles][Columns / 8][4];
  using Weights = OperandPart<T>[RowTiles][Columns / 16];
  using PerRow = float[RowTiles][2];

  float sum[RowTiles][Dim / 8][4];
  PerRow peak, total;

  __device__ void begin() {
#pragma unroll
    for (int m = 0; m < RowTiles; m++) {
#pragma unroll
      for (int n = 0; n < Dim / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) sum[m][n][i] = 0;
      peak[m][0] = peak[m][1] = -INFINITY;
      total[m][0] = total[m][1] = 0;
    }
  }

  /** Calls visit(m, half) for each row that this thread holds parts of. */
  template <class Visit>
  __device__ static void eachRow(Visit visit) {
#pragma unroll
    for (int m = 0; m < RowTiles; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) visit(m, half);
  }

  /** Turns products with a tile of columns into weights, adds them to the totals, and tells how far `sum` shrinks. */
  template <class Logit>
  __device__ void exponentiate(Products& s, PerRow& shrink, int tile, const Logit& logit) {
    if (logit.plain(tile)) {
      exponentiatePlain(s, shrink, logit);
    } else if (logit.biased(tile)) {
      exponentiateRows<Logit::kHeadroom>(
          s, shrink,
          [&](int, int, int column, float product) { return product * logit.scale + logit.bias(tile, column); }, 1.f);
    } else {
      exponentiateRows<Logit::kHeadroom>(
          s, shrink, [&](int m, int half, int column, float product) { return logit(tile, m, half, column, product); }, 1.f);
    }
  }

  /** The same of a tile whose logits are plain. */
  template <class Logit>
  __device__ void exponentiatePlain(Products& s, PerRow& shrink, const Logit& logit) {
    exponentiateRows<Logit::kHeadroom>(
        s, shrink, [](int, int, int, float product) { return product; }, logit.scale);
  }

  /** Weights as the left operand of the product with the values. */
  __device__ static void pack(const Products& s, Weights& weights) {
#pragma unroll
    for (int m = 0; m < RowTiles; m++)
#pragma unroll
      for (int k = 0; k < Columns / 16; k++) packLeft<T>(weights[m][k], s[m][2 * k], s[m][2 * k + 1]);
  }

  template <int Headroom>
  __device__ void rescale(const PerRow& shrink) {
    if constexpr (Headroom > 0) {
      bool needed = false;
      eachRow([&](int m, int half) { needed = needed || shrink[m][half] != 1; });
      if (!__any_sync(kWholeWarp, needed)) return;
    }
    eachRow([&](int m, int half) {
#pragma unroll
      for (int n = 0; n < Dim / 8; n++) {
        sum[m][n][2 * half] *= shrink[m][half];
        sum[m][n][2 * half + 1] *= shrink[m][half];
      }
    });
  }

  /** Whether all sums that this thread holds are finite. */
  __device__ bool finite() const {
    float zero = 0;
#pragma unroll
    for (int m = 0; m < RowTiles; m++)
#pragma unroll
      for (int n = 0; n < Dim / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) zero += sum[m][n][i] * 0;
    return zero == 0;
  }

  /** Completes the totals, of which each of the four threads of a row holds a part until then. */
  __device__ void finishTotals() {
    eachRow([&](int m, int half) {
      total[m][half] += __shfl_xor_sync(kWholeWarp, total[m][half], 1);
      total[m][half] += __shfl_xor_sync(kWholeWarp, total[m][half], 2);
    });
  }

  /** log2 of the sum of 2^logit; -infinity of nothing. */
  __device__ float lse(int m, int half) const {
    return total[m][half] == 0 ? -INFINITY : peak[m][half] + log2f(total[m][half]);
  }

  /** Joins a finished softmax, given by its mean (the warp's rows of shared memory) and lse(m, half). */
  template <class Lse>
  __device__ void join(SharedMatrix<T, Dim> mean, Lse lse) {
    eachRow([&](int m, int half) {
      const float other = lse(m, half), top = fmaxf(peak[m][half], other);
      if (other == -INFINITY) return;
      const float shrink = exp2Fast(peak[m][half] - top), weight = exp2Fast(other - top);
      peak[m][half] = top;
      total[m][half] = total[m][half] * shrink + weight;
#pragma unroll
      for (int n = 0; n < Dim / 8; n += 2) {
        const RowPart part = loadPart(mean, warpRow(m, half), n);
        float *low = &sum[m][n][2 * half], *high = &sum[m][n + 1][2 * half];
        low[0] = low[0] * shrink + weight * part.low.x;
        low[1] = low[1] * shrink + weight * part.low.y;
        high[0] = high[0] * shrink + weight * part.high.x;
        high[1] = high[1] * shrink + weight * part.high.y;
      }
    });
  }

  /** Writes the means to the warp's rows of shared memory; zeros for a row without weight. */
  __device__ void store(SharedMatrix<T, Dim> mean) const {
    eachRow([&](int m, int half) {
      const float inverse = total[m][half] > 0 ? 1 / total[m][half] : 0;
#pragma unroll
      for (int n = 0; n < Dim / 8; n += 2) {
        const float *low = &sum[m][n][2 * half], *high = &sum[m][n + 1][2 * half];
        storePart(mean, warpRow(m, half), n,
                  {{low[0] * inverse, low[1] * inverse}, {high[0] * inverse, high[1] * inverse}});
      }
    });
  }

 private:
  /** Logits are `scale` times what `raw` gives. */
  template <int Headroom, class Raw>
  __device__ void exponentiateRows(Products& s, PerRow& shrink, Raw raw, float scale) {
    const int t = threadIdx.x % 4;
    eachRow([&](int m, int half) {
      float top = -INFINITY;
#pragma unroll
      for (int n = 0; n < Columns / 8; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
          float& value = s[m][n][2 * half + i];
          value = raw(m, half, n * 8 + 2 * t + i, value);
          top = fmaxf(top, value);
        }
      top = fmaxf(top, __shfl_xor_sync(kWholeWarp, top, 1));
      top = fmaxf(top, __shfl_xor_sync(kWholeWarp, top, 2));
      top *= scale;
      const float next = top > peak[m][half] + Headroom ? top : peak[m][half];
      const float base = next == -INFINITY ? 0 : next;
      shrink[m][half] = exp2Fast(peak[m][half] - base);
      peak[m][half] = next;
      float added = 0;
#pragma unroll
      for (int n = 0; n < Columns / 8; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
          float& value = s[m][n][2 * half + i];
          value = exp2Fast(value * scale - base);
          added += value;
        }
      total[m][half] = total[m][half] * shrink[m][half] + added;
    });
  }
};

}  // namespace onnxrewrite::cuda
