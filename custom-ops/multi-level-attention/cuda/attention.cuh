// One call of MultiLevelAttention on a stream, without waiting and in memory that the caller provides.
#pragma once

#include <cmath>
#include <type_traits>

#include "../../native/cuda/arena.h"
#include "cache.cuh"
#include "rows.cuh"
#include "tiles.cuh"

namespace onnxrewrite::multilevel::cuda {

/** The cache that a run leaves behind, as far as it is wanted. */
template <class T>
struct Present {
  T* value;
  T* keys[kMostLevels];
};

/** Positions stay within an int, blocks of longer ones hold all of them. */
constexpr int64_t kMostPosition = int64_t{1} << 30;

inline Geometry geometryOf(const Shape& shape, const Parameters& parameters) {
  const auto size = [](size_t n) { return static_cast<int>(n); };
  Geometry g{};
  g.batch = size(shape.batch);
  g.heads = size(shape.heads);
  g.kvHeads = size(shape.kvHeads);
  g.queries = size(shape.queries);
  g.keys = size(shape.keys());
  g.headDim = size(shape.headDim);
  g.valueDim = size(shape.valueDim);
  g.past = size(shape.past);
  g.offset = static_cast<int>(parameters.causalOffset.value_or(static_cast<int64_t>(g.keys) - g.queries));
  g.causal = parameters.causal;
  g.levels = size(parameters.levels());
  g.block = static_cast<int>(parameters.block < kMostPosition ? parameters.block : kMostPosition);
  // A negative scale goes to the queries: kernels look for the largest product before they scale it.
  const float scale = parameters.scale.value_or(1.f / std::sqrt(static_cast<float>(shape.headDim)));
  int end = 0;
  for (int level = 0; level < g.levels; level++) {
    end += static_cast<int>(parameters.ranks[level]);
    g.ends[level] = end;
    g.weights[level] = parameters.levelScale[level] * (scale > 0 ? 1.f : scale < 0 ? -1.f : 0.f);
    g.weighted = g.weighted || g.weights[level] != 1;
    const int divisor = parameters.divide == Divide::none ? 1 : parameters.divide == Divide::count ? g.levels : level + 1;
    g.factors[level] = (scale != 0 ? std::abs(scale) : 1.f) * kLog2E / static_cast<float>(divisor);
  }
  return g;
}

template <class T>
class MultiLevelAttention {
 public:
  /** `memory` has bytes() bytes; null where only these are asked for. */
  MultiLevelAttention(const Shape& shape, const Parameters& parameters, void* memory, bool hopper = hasHopper())
      : parameters_(parameters), g_(geometryOf(shape, parameters)), hopper_(hopper) {
    Arena arena(memory);
    if (byTiles()) {
      if (g_.past > 0) {
        joinedKeys_ = arena.take<T>(keyRows() * g_.headDim);
        joinedValues_ = arena.take<T>(keyRows() * g_.valueDim);
      }
    } else {
      chooseSplits();
      if (splits_ > 1) {
        const size_t rows = static_cast<size_t>(splits_) * g_.batch * g_.heads * g_.queries;
        partials_ = {arena.take<float>(rows * g_.valueDim), arena.take<float>(rows), arena.take<float>(rows)};
      }
    }
    bytes_ = arena.used();
  }

  size_t bytes() const { return bytes_; }

  cudaError_t run(const Operands<T>& in, const Results<T>& out, const Present<T>& present, cudaStream_t stream) const {
    CUDA_TRY(writePresent(in, present, stream));
    if constexpr (kSixteenBits) {
      if (byTiles()) return runTiles(in, out, stream);
    }
    if (g_.queries >= kFewRows && g_.valueDim <= kManyRowsValueDim) {
      return runRows<kFewRows, kManyRowsValueDim / 32>(in, out, stream);
    }
    if (g_.valueDim <= 64) return runRows<1, 2>(in, out, stream);
    if (g_.valueDim <= 128) return runRows<1, 4>(in, out, stream);
    return runRows<1, kMostValueDim / 32>(in, out, stream);
  }

 private:
  static constexpr bool kSixteenBits = !std::is_same_v<T, float>;
  /** Rows that attendRows takes together, for value sizes up to a limit, and below which tiles would be mostly empty. */
  static constexpr int kFewRows = 8, kManyRowsValueDim = 128;
  /** Blocks that splits of the keys are to make, and keys of a split. */
  static constexpr int kBlocksWanted = 512, kLeastSplit = 256;

  size_t keyRows() const { return static_cast<size_t>(g_.batch) * g_.kvHeads * g_.keys; }
  bool byTiles() const {
    return kSixteenBits && g_.queries >= kFewRows && g_.keys > 0 && g_.headDim % 8 == 0 && g_.valueDim % 8 == 0 &&
           g_.headDim <= 128 && g_.valueDim <= 128;
  }
  void chooseSplits() {
    const long long blocks = static_cast<long long>(g_.batch) * g_.heads * g_.queries;
    const long long wanted = blocks == 0 ? 1 : (kBlocksWanted + blocks - 1) / blocks;
    const int split = ceilDiv(ceilDiv(g_.keys, static_cast<int>(wanted)), kRowWarps * 32) * kRowWarps * 32;
    splitKeys_ = split > kLeastSplit ? split : kLeastSplit;
    splits_ = g_.keys > 0 ? ceilDiv(g_.keys, splitKeys_) : 1;
  }

  RowCopy<T> levelCopy(const Operands<T>& in, int level, T* target, int rows) const {
    const int first = level == 0 ? 0 : g_.ends[level - 1], size = g_.ends[level] - first, fresh = g_.keys - g_.past;
    return {target, in.pastKeys[level], in.key, rows, rows > fresh ? rows - fresh : 0, in.cached[level], fresh, size, g_.headDim,
            first,  size, 0, rows};
  }
  RowCopy<T> valueCopy(const Operands<T>& in, T* target) const {
    const int fresh = g_.keys - g_.past, size = g_.valueDim;
    return {target, in.pastValue, in.value, g_.keys, g_.past, g_.past, fresh, size, size, 0, size, 0, g_.keys};
  }

  cudaError_t writePresent(const Operands<T>& in, const Present<T>& present, cudaStream_t stream) const {
    RowCopies<T> all;
    all.add(valueCopy(in, present.value));
    for (int level = 0; level < g_.levels; level++) {
      const auto kept = static_cast<int>(parameters_.cachedKeys(static_cast<size_t>(level), static_cast<size_t>(g_.keys)));
      all.add(levelCopy(in, level, present.keys[level], kept));
    }
    return all.count == 0 ? cudaSuccess : launchCopies(all, g_.batch * g_.kvHeads, stream);
  }

  template <int Rows, int ValuesPerLane>
  cudaError_t runRows(const Operands<T>& in, const Results<T>& out, cudaStream_t stream) const {
    const dim3 grid(ceilDiv(g_.queries, Rows), g_.batch * g_.heads, splits_);
    CUDA_TRY(launch(attendRows<T, Rows, ValuesPerLane>, grid, kRowWarps * 32, rowsSharedBytes<Rows>(g_), stream, g_, in,
                    splitKeys_, out, partials_));
    if (splits_ == 1) return cudaSuccess;
    const dim3 joins(ceilDiv(g_.batch * g_.heads * g_.queries, 4));
    return launch(joinSplits<T>, joins, 128, 0, stream, g_, splits_, partials_, out);
  }

  cudaError_t runTiles(Operands<T> in, const Results<T>& out, cudaStream_t stream) const {
    if (g_.past > 0) CUDA_TRY(joinCache(in, stream));
    if (g_.headDim > 64 || g_.valueDim > 64) return launchTiles<MmaTiles<T, 128, 1>>(in, out, {}, stream);
    if (!hopper_) return launchTiles<MmaTiles<T, 64, 2>>(in, out, {}, stream);
    TileMaps maps;
    const bool bfloat16 = std::is_same_v<T, __nv_bfloat16>;
    const int parts = g_.batch * g_.kvHeads;
    CUDA_TRY(encodeTensorMap(maps.key, in.key, bfloat16, g_.headDim, g_.keys, parts));
    CUDA_TRY(encodeTensorMap(maps.value, in.value, bfloat16, g_.valueDim, g_.keys, parts));
    return launchTiles<WarpgroupTiles<T, 2>>(in, out, maps, stream);
  }
  template <class Tiles>
  cudaError_t launchTiles(const Operands<T>& in, const Results<T>& out, const TileMaps& maps, cudaStream_t stream) const {
    const dim3 grid(ceilDiv(rowsBeforeFirst(g_, Tiles::kRows) + g_.queries, Tiles::kRows), g_.batch * g_.heads);
    return launch(attendTiles<Tiles>, grid, Tiles::kThreads, sizeof(typename Tiles::Shared), stream, g_, in, maps, out);
  }

  /** Keys and values of cache and tokens in one piece each; levels that the cache has no more are zero. */
  cudaError_t joinCache(Operands<T>& in, cudaStream_t stream) const {
    CUDA_TRY(cudaMemsetAsync(joinedKeys_, 0, keyRows() * g_.headDim * sizeof(T), stream));
    RowCopies<T> all;
    all.add(valueCopy(in, joinedValues_));
    for (int level = 0; level < g_.levels; level++) {
      RowCopy<T> copy = levelCopy(in, level, joinedKeys_, in.cached[level] + g_.keys - g_.past);
      copy.targetStride = g_.headDim;
      copy.targetOffset = copy.freshOffset;
      copy.targetRows = g_.keys;
      all.add(copy);
    }
    in.key = joinedKeys_;
    in.value = joinedValues_;
    return launchCopies(all, g_.batch * g_.kvHeads, stream);
  }

  Parameters parameters_;
  Geometry g_;
  bool hopper_;
  int splits_ = 1, splitKeys_ = kLeastSplit;
  T* joinedKeys_ = nullptr;
  T* joinedValues_ = nullptr;
  Partials partials_{};
  size_t bytes_ = 0;
};

}  // namespace onnxrewrite::multilevel::cuda
