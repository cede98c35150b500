// Orders 2 to 16 by a scan over chunks of rows. A warp works on one chunk and 32 channels; a block on kWarps neighboring
// chunks, a group.
//
//   sumGroups    sums each chunk, joins the chunks of a group in order, and keeps the total of the group and, under
//                causality, what is before each chunk in its group
//   attendGroups joins the totals of the groups before (causal) or of all, and gives the outputs of its rows; causal
//                ones add their keys once more, row by row
//
// Keys and values are read once, or twice under causality. Everything is joined in an order that depends on shapes
// alone, and what a causal row gives depends on no later row, bit for bit.
#pragma once

#include "sums.cuh"

namespace onnxrewrite::elementwise::cuda {

constexpr int kWarps = 8;
/** Channels of a block, one per thread of a warp. */
constexpr int kBlockChannels = 32;
/** Rows that a thread loads together, one such batch ahead of its use. */
constexpr int kBatch = 4;

struct SeriesGeometry {
  int batch, rows, keys, channels;
  bool causal;
  int order;
  /** Rows of a chunk, chunks in use, and groups of kWarps of them. */
  int chunk, chunks, groups;

  /** Rows of a chunk of a sequence of `length`. */
  __device__ Range chunkRows(int index, int length) const {
    return {min(index * chunk, length), min((index + 1) * chunk, length)};
  }
};

/** States in device memory: [parts][floats of a state][channels]. */
struct States {
  float* data;
  int channels;

  template <int Order>
  __device__ float* at(size_t part, int channel) const {
    return data + part * Sums<Order>::kSize * channels + channel;
  }
};

template <class T>
struct SeriesTensors {
  const T* query;
  const T* key;
  const T* value;
  /** [batch, keys], or null where all are visible. */
  const bool* visible;
  T* output;
  /** The states before and after, in the layout of the operator; null where there are none. */
  const float* pastSums;
  const float* pastOffsets;
  float* presentSums;
  float* presentOffsets;

  /** Calls visit(sum, index) for the sums of order up to `order` and where the operator keeps them. */
  template <int Order, class Visit>
  __device__ static void eachSum(Sums<Order>& sums, const SeriesGeometry& g, int channel, Visit visit) {
    const size_t first = static_cast<size_t>(blockIdx.z) * 2 * (g.order + 1);
#pragma unroll
    for (int n = 0; n <= Order; n++) {
      if (n > g.order) break;
      visit(sums.numerators[n], (first + n) * g.channels + channel);
      visit(sums.denominators[n], (first + g.order + 1 + n) * g.channels + channel);
    }
    visit(sums.offset, static_cast<size_t>(blockIdx.z) * g.channels + channel);
  }
};

/** States of a block's warps in shared memory. */
template <int Order>
struct SharedStates {
  static constexpr size_t kBytes = sizeof(float) * kWarps * Sums<Order>::kSize * kBlockChannels;

  float* data;

  __device__ float* of(int warp) const { return data + warp * Sums<Order>::kSize * kBlockChannels + threadIdx.x % 32; }
  __device__ void store(int warp, const Sums<Order>& sums) const { sums.store(of(warp), kBlockChannels); }
  /** Joins what the first `count` warps stored, in order. */
  __device__ void joinTo(Sums<Order>& sums, int count) const {
    for (int warp = 0; warp < count; warp++) {
      Sums<Order> other;
      other.load(of(warp), kBlockChannels);
      sums.join(other);
    }
  }
};

/** Loads rows [row, row + kBatch) below `end` of one channel; `at` is that channel of row 0. */
template <class T>
__device__ void loadBatch(const T* at, int channels, int row, int end, T (&numbers)[kBatch]) {
  at += static_cast<size_t>(row) * channels;
#pragma unroll
  for (int i = 0; i < kBatch; i++)
    if (row + i < end) numbers[i] = at[static_cast<size_t>(i) * channels];
}

/** Only here are loaded numbers converted: that waits for them. */
template <class T>
__device__ void convertBatch(const T (&from)[kBatch], float (&to)[kBatch]) {
#pragma unroll
  for (int i = 0; i < kBatch; i++) to[i] = static_cast<float>(from[i]);
}

/** Threads of channels past the last work on the last one, and write nothing. */
struct OwnChannel {
  int channel;
  bool inside;

  __device__ explicit OwnChannel(int channels) {
    const int index = blockIdx.x * kBlockChannels + threadIdx.x % 32;
    inside = index < channels;
    channel = inside ? index : channels - 1;
  }
};

template <class T, int Order>
__global__ void __launch_bounds__(kWarps * 32) sumGroups(SeriesGeometry g, SeriesTensors<T> in, States groups, States chunks) {
  const OwnChannel own(g.channels);
  const int warp = threadIdx.x / 32, group = blockIdx.y, chunk = group * kWarps + warp;
  const size_t batch = blockIdx.z, firstKey = batch * g.keys;
  const T* keys = in.key + firstKey * g.channels + own.channel;
  const T* values = in.value + firstKey * g.channels + own.channel;
  const bool* visible = in.visible ? in.visible + firstKey : nullptr;

  Sums<Order> sums;
  sums.clear();
  const Range rows = g.chunkRows(chunk, g.keys);
  T nextKey[kBatch], nextValue[kBatch];
  const auto prefetch = [&](int row) {
    loadBatch(keys, g.channels, row, rows.end, nextKey);
    loadBatch(values, g.channels, row, rows.end, nextValue);
  };
  prefetch(rows.begin);
  for (int row = rows.begin; row < rows.end; row += kBatch) {
    float key[kBatch], value[kBatch];
    convertBatch(nextKey, key);
    convertBatch(nextValue, value);
    prefetch(row + kBatch);
    bool use[kBatch];
    float least = kEmptyOffset;
#pragma unroll
    for (int i = 0; i < kBatch; i++) {
      use[i] = row + i < rows.end && (!visible || visible[row + i]);
      if (use[i]) least = fminf(least, fabsf(key[i]));
    }
    sums.lower(least);
#pragma unroll
    for (int i = 0; i < kBatch; i++)
      if (use[i]) sums.add(key[i], value[i]);
  }

  const SharedStates<Order> shared{reinterpret_cast<float*>(dynamicShared())};
  shared.store(warp, sums);
  __syncthreads();
  const bool last = warp == kWarps - 1;
  if (!own.inside || !(last || g.causal)) return;
  Sums<Order> before;
  before.clear();
  shared.joinTo(before, warp);
  if (g.causal) before.store(chunks.at<Order>(batch * g.groups * kWarps + chunk, own.channel), g.channels);
  before.join(sums);
  if (last) before.store(groups.at<Order>(batch * g.groups + group, own.channel), g.channels);
}

template <class T, int Order, bool Causal>
__global__ void __launch_bounds__(kWarps * 32)
    attendGroups(SeriesGeometry g, SeriesTensors<T> in, States groups, States chunks) {
  const OwnChannel own(g.channels);
  const int warp = threadIdx.x / 32, group = blockIdx.y, chunk = group * kWarps + warp;
  const size_t batch = blockIdx.z;

  // The first rows are on their way while the state before them is put together.
  const Range rows = g.chunkRows(chunk, g.rows);
  const size_t first = batch * g.rows * g.channels + own.channel;
  T nextQuery[kBatch], nextKey[kBatch], nextValue[kBatch];
  const auto prefetch = [&](int row) {
    loadBatch(in.query + first, g.channels, row, rows.end, nextQuery);
    if constexpr (Causal) {
      loadBatch(in.key + first, g.channels, row, rows.end, nextKey);
      loadBatch(in.value + first, g.channels, row, rows.end, nextValue);
    }
  };
  prefetch(rows.begin);

  Sums<Order> sums, part;
  sums.clear();
  const int before = Causal ? group : g.groups;
  for (int other = warp; other < before; other += kWarps) {
    part.load(groups.at<Order>(batch * g.groups + other, own.channel), g.channels);
    sums.join(part);
  }
  const SharedStates<Order> shared{reinterpret_cast<float*>(dynamicShared())};
  shared.store(warp, sums);
  __syncthreads();

  sums.clear();
  if (in.pastSums) {
    in.eachSum(sums, g, own.channel, [&](float& sum, size_t at) {
      const bool offset = &sum == &sums.offset;
      sum = offset ? fminf(in.pastOffsets[at], kEmptyOffset) : in.pastSums[at];
    });
  }
  shared.joinTo(sums, min(before, kWarps));
  if (Causal && warp > 0 && chunk < g.chunks) {
    part.load(chunks.at<Order>(batch * g.groups * kWarps + chunk, own.channel), g.channels);
    sums.join(part);
  }

  const bool* visible = Causal && in.visible ? in.visible + batch * g.keys : nullptr;
  for (int row = rows.begin; row < rows.end; row += kBatch) {
    float query[kBatch], key[kBatch], value[kBatch];
    convertBatch(nextQuery, query);
    if constexpr (Causal) {
      convertBatch(nextKey, key);
      convertBatch(nextValue, value);
    }
    prefetch(row + kBatch);
#pragma unroll
    for (int i = 0; i < kBatch; i++) {
      if (row + i >= rows.end) break;
      if (Causal && (!visible || visible[row + i])) {
        sums.lower(fabsf(key[i]));
        sums.add(key[i], value[i]);
      }
      if (own.inside)
        in.output[first + static_cast<size_t>(row + i) * g.channels] = static_cast<T>(sums.mean(query[i], g.order));
    }
  }

  // The warp with the last rows has seen everything; without causality all have.
  if (!own.inside || chunk != (Causal ? max(g.chunks - 1, 0) : 0)) return;
  in.eachSum(sums, g, own.channel, [&](float& sum, size_t at) {
    float* const state = &sum == &sums.offset ? in.presentOffsets : in.presentSums;
    if (state) state[at] = sum;
  });
}

}  // namespace onnxrewrite::elementwise::cuda
