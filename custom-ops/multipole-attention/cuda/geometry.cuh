// Sizes, positions and visibility of one MultipoleAttention call (README, "Semantics"), the same for all kernels.
#pragma once

#include "../../native/cuda/range.cuh"

namespace onnxrewrite::multipole::cuda {

using namespace onnxrewrite::cuda;

__host__ __device__ constexpr int clamped(long long value, int low, int high) {
  return value < low ? low : value > high ? high : static_cast<int>(value);
}

struct Geometry {
  int batch, heads, kvHeads;
  /** Rows of past_query and query together, and of past_query alone. */
  int rows, past;
  int keys, headDim, valueDim;
  /** Keys per segment (at least 1), segments, clusters per segment. */
  int segment, segments, keyClusters;
  int queryClusters;
  /** Sets of query centroids: one when acausal, one per doubling prefix when causal. */
  int blocks;
  /** Position of row 0, and the first row whose position is not negative. */
  int offset, firstRow;
  /** At most `segments`. */
  int window;
  bool causal;
  /** Whether rows have a segment of their own, and with it keys that they see exactly. */
  bool local;
  float scale;

  __host__ __device__ int kvHeadOf(int head) const {
    return head / heads * kvHeads + head % heads / (heads / kvHeads);
  }
  __host__ __device__ int clusters() const { return segments * keyClusters; }
  __host__ __device__ int position(int row) const { return row + offset; }
  __host__ __device__ int segmentOf(int row) const { return position(row) / segment; }

  /** Set of query centroids that a row uses; -1 when it has no far field or no position. */
  __device__ int blockOf(int row) const {
    if (row < firstRow) return -1;
    if (!causal) return 0;
    int own = segmentOf(row);
    return own == 0 ? -1 : 31 - __clz(own);
  }

  /** First row at or after segment 2^block. */
  __host__ __device__ int blockBegin(int block) const {
    return clamped((static_cast<long long>(segment) << block) - offset, firstRow, rows);
  }
  /** Rows that use the centroids of `block`. */
  __host__ __device__ Range blockRows(int block) const {
    return causal ? Range{blockBegin(block), blockBegin(block + 1)} : Range{0, rows};
  }
  /** Rows whose queries make the centroids of `block`. */
  __host__ __device__ Range centroidRows(int block) const {
    return causal ? Range{firstRow, blockBegin(block)} : Range{0, rows};
  }

  /** Clusters that some row of `block` may use by summary: a run from cluster 0. */
  __host__ __device__ int blockClusters(int block) const {
    return causal ? clamped((2LL << block) - 1 - window, 0, segments) * keyClusters : clusters();
  }
  /** Summaries lie by [block][head, query cluster][cluster of the block]: where a query cluster of a block begins. */
  __host__ __device__ size_t summaryIndex(int block, int head, int queryCluster) const {
    size_t before = 0;
    for (int e = 0; e < block; e++) before += blockClusters(e);
    return before * batch * heads * queryClusters +
           (static_cast<size_t>(head) * queryClusters + queryCluster) * blockClusters(block);
  }
  __host__ __device__ size_t summaries() const { return summaryIndex(blocks, 0, 0); }

  /** Keys that a row attends exactly by position. */
  __host__ __device__ Range nearKeys(int row, bool exact) const {
    if (row < firstRow) return {0, 0};
    const int seen = causal && position(row) < keys ? position(row) + 1 : keys;
    if (exact) return {0, seen};
    if (!local) return {0, 0};
    const int own = segmentOf(row);
    const auto begin = [&](int number) { return number <= 0 ? 0 : number >= segments ? keys : number * segment; };
    return {begin(own - window), causal ? seen : begin(own + window + 1)};
  }

  /** Clusters that are no part of a row's far field: a run; everything else is. */
  __host__ __device__ Range nearClusters(int row) const {
    const int all = clusters();
    if (!local) return {all, all};
    const int own = segmentOf(row);
    const auto begin = [&](int number) { return number <= 0 ? 0 : number >= segments ? all : number * keyClusters; };
    return {begin(own - window), causal ? all : begin(own + window + 1)};
  }
};

/** Which keys belong to which cluster, per key head. */
struct KeyClusters {
  /** [B*G, S]: keys by segment, then cluster, then position; null when clusters are runs of neighbors. */
  const int* order;
  /** [B*G, segments, keyClusters + 1]: where each cluster begins in `order`. */
  const int* begin;
  /** Keys per cluster when `order` is null. */
  int run;

  __device__ Range members(const Geometry& g, int kvHead, int cluster) const {
    int segment = cluster / g.keyClusters, c = cluster % g.keyClusters;
    if (order) {
      const int* at = begin + (static_cast<size_t>(kvHead) * g.segments + segment) * (g.keyClusters + 1) + c;
      return {at[0], at[1]};
    }
    int end = clamped(static_cast<long long>(segment + 1) * g.segment, 0, g.keys);
    long long first = static_cast<long long>(segment) * g.segment + static_cast<long long>(c) * run;
    return {clamped(first, 0, end), clamped(first + run, 0, end)};
  }
  __device__ int key(const Geometry& g, int kvHead, int at) const {
    return order ? order[static_cast<size_t>(kvHead) * g.keys + at] : at;
  }
};

}  // namespace onnxrewrite::multipole::cuda
