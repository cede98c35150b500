// Which rows share a choice of retrieved clusters (README, step 8), and the sets that the choices are kept in.
#pragma once

#include "../parameters.h"
#include "sort.cuh"

namespace onnxrewrite::multipole::cuda {

struct Pools {
  Geometry g;
  Selection selection;
  int group;
  /** Rows by query cluster; used by `cluster` alone. */
  const int* order;
  const int* begin;

  __host__ __device__ int tilesPerSegment() const { return ceilDiv(g.local ? g.segment : max(1, g.rows), group); }
  __host__ __device__ int firstSegment() const { return g.local && g.firstRow < g.rows ? g.segmentOf(g.firstRow) : 0; }
  /** Pools of one head. */
  __host__ __device__ int count() const {
    if (selection != Selection::tile || g.firstRow >= g.rows) return g.rows;
    int segments = g.local ? g.segmentOf(g.rows - 1) - firstSegment() + 1 : 1;
    return segments * tilesPerSegment();
  }

  /** Pool of a row that has a far field; `at` is the row's place in `order`. */
  __device__ int of(int head, int row, int at) const {
    if (selection == Selection::sliding) return row;
    if (selection == Selection::tile) {
      int own = g.local ? g.segmentOf(row) : 0;
      return (own - firstSegment()) * tilesPerSegment() + (g.position(row) - own * g.segment) / group;
    }
    int from = runBegin(head, row, at);
    return from + (at - from) / group * group;
  }

  /** Neighboring rows whose masses a pool averages; not for `cluster`. */
  __host__ __device__ Range rows(int pool) const {
    if (selection == Selection::sliding)
      return {pool < g.firstRow ? pool + 1 : max(g.firstRow, pool - group + 1), min(pool + 1, g.rows)};
    const int own = pool / tilesPerSegment() + firstSegment(), tile = pool % tilesPerSegment();
    const long long start = (g.local ? static_cast<long long>(own) * g.segment : 0) - g.offset;
    const int limit = g.local ? clamped(start + g.segment, 0, g.rows) : g.rows;
    return {clamped(start + static_cast<long long>(tile) * group, g.firstRow, limit),
            clamped(start + static_cast<long long>(tile + 1) * group, 0, limit)};
  }

  /** Calls visit(row) for the rows whose masses the pool averages, and returns their number. */
  template <class Visit>
  __device__ int eachMember(int head, int pool, Visit visit) const {
    if (selection == Selection::cluster) {
      const int* headOrder = order + static_cast<size_t>(head) * g.rows;
      const int row = headOrder[pool], end = clusterEnd(head, row, pool);
      int count = 0;
      for (int at = pool; at < min(pool + group, end) && sameRun(headOrder[at], row); at++, count++) visit(headOrder[at]);
      return count;
    }
    const Range members = rows(pool);
    for (int row = members.begin; row < members.end; row++) visit(row);
    return members.size();
  }

 private:
  __device__ bool sameRun(int a, int b) const { return !g.causal || g.segmentOf(a) == g.segmentOf(b); }
  __device__ const int* clusterBegin(int head, int row) const {
    return begin + (static_cast<size_t>(head) * g.blocks + g.blockOf(row)) * (g.queryClusters + 1);
  }
  __device__ int clusterEnd(int head, int row, int at) const {
    const int* start = clusterBegin(head, row);
    int c = 1;
    while (start[c] <= at) c++;
    return start[c];
  }
  /** First place of the rows of the same query cluster, and segment when causal. */
  __device__ int runBegin(int head, int row, int at) const {
    const int* start = clusterBegin(head, row);
    int c = 0;
    while (start[c + 1] <= at) c++;
    if (!g.causal) return start[c];
    int from = at;
    const int* headOrder = order + static_cast<size_t>(head) * g.rows;
    while (from > start[c] && sameRun(headOrder[from - 1], row)) from--;
    return from;
  }
};

/** Chosen clusters of every pool, one bit each: [B*H, pools, words]. */
struct ChosenClusters {
  uint32_t* bits;
  int words;

  __device__ uint32_t* of(const Pools& pools, int head, int pool) const {
    return bits + (static_cast<size_t>(head) * pools.count() + pool) * words;
  }
  __device__ static bool has(const uint32_t* set, int cluster) { return set[cluster / 32] >> cluster % 32 & 1; }
};

}  // namespace onnxrewrite::multipole::cuda
