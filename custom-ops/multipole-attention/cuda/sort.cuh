// Points of each problem sorted by label, stable: counts by chunk, their scan, and the scatter.
#pragma once

#include "point-set.cuh"

namespace onnxrewrite::multipole::cuda {

/** Rows [from, to) of `order` hold one tile of rows of one query cluster; from == to in unused slots. */
struct RowTile {
  int problem, cluster, from, to;
};

/** Order of the points of a set by problem, label, row; points without label are left out. */
struct Sorted {
  /** [heads, rows]; a problem's points lie at its own member rows. */
  int* order;
  /** [heads, problems, clusters + 1] */
  int* begin;
  /** [heads, chunks of members, clusters]: counts, then where the chunk's first point of that label goes. */
  int* chunkOffsets;
  /** [heads, tileSlots()], or null. */
  RowTile* tiles;
  int tileRows;
};

/** Slots for the tiles of one head: enough however the points fall into clusters. */
__host__ __device__ inline int tileSlotsBefore(const PointSet& set, int problem, int tileRows) {
  return (problem == 0 ? 0 : set.range(problem - 1, Part::members).end) / tileRows + problem * (set.clusters() + 1);
}
__host__ __device__ inline int tileSlots(const PointSet& set, int tileRows) {
  return tileSlotsBefore(set, set.problems(), tileRows);
}

/** Points of each label in one chunk. */
__global__ void __launch_bounds__(256) countLabels(PointSet set, const uint16_t* labels, Sorted sorted) {
  const int head = blockIdx.y, clusters = set.clusters();
  int* counts = reinterpret_cast<int*>(dynamicShared());
  for (int c = threadIdx.x; c < clusters; c += 256) counts[c] = 0;
  __syncthreads();
  int problem;
  const Range rows = set.chunk(blockIdx.x, Part::members, problem);
  for (int row = rows.begin + threadIdx.x; row < rows.end; row += 256) {
    uint16_t label = labels[static_cast<size_t>(head) * set.rows() + row];
    if (label != kNoLabel) atomicAdd(&counts[label], 1);
  }
  __syncthreads();
  int* target = sorted.chunkOffsets + (static_cast<size_t>(head) * gridDim.x + blockIdx.x) * clusters;
  for (int c = threadIdx.x; c < clusters; c += 256) target[c] = counts[c];
}

/** Exclusive sum over the lanes of a warp; `total` over all of them. */
__device__ inline int warpScan(int value, int& total) {
  const int lane = threadIdx.x % 32;
  int sum = value;
  for (int distance = 1; distance < 32; distance *= 2) {
    int below = __shfl_up_sync(kWholeWarp, sum, distance);
    if (lane >= distance) sum += below;
  }
  total = __shfl_sync(kWholeWarp, sum, 31);
  return sum - value;
}

/** Where each label of a problem begins, where each chunk writes, and the tiles. */
__global__ void __launch_bounds__(256) scanLabels(PointSet set, Sorted sorted) {
  const int problem = blockIdx.x, head = blockIdx.y, clusters = set.clusters(), thread = threadIdx.x;
  const Range rows = set.range(problem, Part::members);
  const int chunks = set.chunksOf(problem, Part::members);
  int* offsets = sorted.chunkOffsets +
                 (static_cast<size_t>(head) * set.chunks(Part::members) + set.chunksBefore(problem, Part::members)) * clusters;
  int* begin = sorted.begin + (static_cast<size_t>(head) * set.problems() + problem) * (clusters + 1);
  for (int c = thread; c < clusters; c += 256) {
    int count = 0;
    for (int chunk = 0; chunk < chunks; chunk++) count += offsets[static_cast<size_t>(chunk) * clusters + c];
    begin[c] = count;
  }
  __syncthreads();
  if (thread < 32) {
    int at = rows.begin, slot = 0, total;
    RowTile* tiles =
        sorted.tiles ? sorted.tiles + static_cast<size_t>(head) * tileSlots(set, sorted.tileRows) : nullptr;
    if (tiles) {
      slot = tileSlotsBefore(set, problem, sorted.tileRows);
      for (int s = slot + thread; s < tileSlotsBefore(set, problem + 1, sorted.tileRows); s += 32) tiles[s] = {0, 0, 0, 0};
      __syncwarp();
    }
    for (int base = 0; base < clusters; base += 32) {
      int c = base + thread, count = c < clusters ? begin[c] : 0;
      int from = at + warpScan(count, total);
      at += total;
      if (c < clusters) begin[c] = from;
      if (!tiles) continue;
      int needed = ceilDiv(count, sorted.tileRows);
      int first = slot + warpScan(needed, total);
      slot += total;
      for (int i = 0; i < needed; i++)
        tiles[first + i] = {problem, c, from + i * sorted.tileRows, min(from + (i + 1) * sorted.tileRows, from + count)};
    }
    if (thread == 0) begin[clusters] = at;
  }
  __syncthreads();
  for (int c = thread; c < clusters; c += 256) {
    int at = begin[c];
    for (int chunk = 0; chunk < chunks; chunk++) {
      int& offset = offsets[static_cast<size_t>(chunk) * clusters + c];
      int count = offset;
      offset = at;
      at += count;
    }
  }
}

/** Writes the rows of one chunk to their places: ranks among equal labels by warp, each warp taking a run of rows. */
__global__ void __launch_bounds__(256) scatterRows(PointSet set, const uint16_t* labels, Sorted sorted) {
  constexpr int kWarps = 8, kRun = kMemberChunk / kWarps;
  const int head = blockIdx.y, clusters = set.clusters(), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int* next = reinterpret_cast<int*>(dynamicShared());
  for (int i = threadIdx.x; i < kWarps * clusters; i += 256) next[i] = 0;
  __syncthreads();
  int problem;
  const Range rows = set.chunk(blockIdx.x, Part::members, problem);
  const uint16_t* own = labels + static_cast<size_t>(head) * set.rows();
  int* order = sorted.order + static_cast<size_t>(head) * set.rows();
  // Twice over the same rows: first to count, then, with the places of equal labels known, to write.
  for (int pass = 0; pass < 2; pass++) {
    for (int base = 0; base < kRun; base += 32) {
      const int row = rows.begin + warp * kRun + base + lane;
      const int label = row < rows.end ? own[row] : kNoLabel;
      const unsigned equal = __match_any_sync(kWholeWarp, label);
      const bool first = lane == __ffs(static_cast<int>(equal)) - 1;
      if (label != kNoLabel) {
        int& at = next[warp * clusters + label];
        if (pass == 1) order[at + __popc(equal & ((1u << lane) - 1))] = row;
        __syncwarp(equal);
        if (first) at += __popc(equal);
      }
      __syncwarp();
    }
    __syncthreads();
    if (pass == 1) break;
    const int* offsets = sorted.chunkOffsets + (static_cast<size_t>(head) * gridDim.x + blockIdx.x) * clusters;
    for (int c = threadIdx.x; c < clusters; c += 256) {
      int at = offsets[c];
      for (int w = 0; w < kWarps; w++) {
        const int count = next[w * clusters + c];
        next[w * clusters + c] = at;
        at += count;
      }
    }
    __syncthreads();
  }
}

}  // namespace onnxrewrite::multipole::cuda
