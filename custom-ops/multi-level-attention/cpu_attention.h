// MultiLevelAttention on the CPU, independent of the host.
//
// Rows are taken in tiles that lie within one block of the tile level, the finest level whose blocks hold a
// whole tile. Seen from a tile, the blocks around it nest like shells: between the block of level l and that of
// level l + 1, all pairs share exactly the first l + 1 levels, so one product over the dimensions of those
// levels is the whole score. Levels finer than the tile level concern only keys beside the tile, and are added
// pair by pair.
//
// Keys are attended in the order of their positions, and every row is summed in an order that depends on its
// position alone: results are the same for any number of threads, and a causal row is bit for bit the same
// whatever follows it.
#pragma once

#include "../native/attention_output.h"
#include "../native/visible_keys.h"
#include "parameters.h"

namespace onnxrewrite::multilevel {

// Row-major, in float32.
struct Operands {
  const float* query;  // [batch][heads][queries][headDim padded to kLanes]
  // [batch][kvHeads][keys][keyStride]. Of a key of the past only the levels whose block is not yet full are
  // there; no row asks for others.
  const float* key;
  size_t keyStride;
  const float* value;   // [batch][kvHeads][keys][valueDim padded to kLanes]
  const bool* keyMask;  // [batch][keys], or null
};

class Attention {
 public:
  Attention(const Environment& environment, const Parameters& parameters, const Shape& shape,
            const Operands& operands, const AttentionOutput& output)
      : environment_(environment),
        parameters_(parameters),
        shape_(shape),
        keys_(static_cast<int64_t>(shape.keys())),
        offset_(parameters.causalOffset.value_or(keys_ - static_cast<int64_t>(shape.queries))),
        depth_(roundUpToLanes(shape.headDim)),
        size_(roundUpToLanes(shape.valueDim)),
        operands_(operands),
        output_(output),
        visible_(operands.keyMask, shape.batch, shape.keys()) {
    const float divisor = parameters.divide == Divide::count ? static_cast<float>(parameters.levels()) : 1.f;
    const float scale = parameters.scale.value_or(1.f / std::sqrt(static_cast<float>(shape.headDim)));
    for (size_t level = 0; level < parameters.levels(); level++) {
      const size_t end = ends_.empty() ? 0 : ends_.back();
      ends_.push_back(end + static_cast<size_t>(parameters.ranks[level]));
      factors_.resize(ends_.back(), scale * kLog2E * parameters.levelScale[level] / divisor);
      if (level > 0 && parameters.blockLength(level) >= static_cast<int64_t>(kTile)) tileLevel_ = level;
    }
    factors_.resize(depth_, 0.f);
  }

  void run() const {
    const std::vector<Span> tiles = tilesOfRows();
    const size_t heads = shape_.batch * shape_.heads;
    const std::vector<char> finite = finiteValues();
    PerRunner<TileSoftmax> workspaces(heads * tiles.size());
    environment_.parallel.forEach(heads * tiles.size(), [&](size_t item, size_t runner) {
      const size_t head = item / tiles.size();
      // Late tiles see most keys where attention is causal: they come first.
      const Span rows = tiles[tiles.size() - 1 - item % tiles.size()];
      TileSoftmax& tile = workspaces.get(runner, environment_, depth_, size_);
      const size_t kvHead = head / shape_.heads * shape_.kvHeads + head % shape_.heads / (shape_.heads / shape_.kvHeads);
      const KeyValue kv{operands_.key + kvHead * shape_.keys() * operands_.keyStride,
                        operands_.value + kvHead * shape_.keys() * size_, operands_.keyStride, size_,
                        !finite.empty() && !finite[kvHead]};
      attendTile(tile, head, rows, kv);
    });
  }

 private:
  // Rows cut at the blocks of the tile level, each part into tiles of kTile.
  std::vector<Span> tilesOfRows() const {
    std::vector<Span> tiles;
    const int64_t queries = static_cast<int64_t>(shape_.queries), whole = static_cast<int64_t>(kTile);
    for (int64_t row = 0; row < queries;) {
      const int64_t inside = tileLevel_ > 0 ? position(row) - blockStart(tileLevel_, position(row)) : position(row);
      const int64_t left = whole - floorMod(inside, whole);
      int64_t end = std::min(queries, row + left);
      if (tileLevel_ > 0) end = std::min(end, row + parameters_.blockLength(tileLevel_) - inside);
      tiles.push_back({row, end});
      row = end;
    }
    return tiles;
  }

  // By key head, whether all values are; empty where it does not matter. Only under causality do rows of one
  // tile see different keys, so that a value that is not finite could leak through a weight of zero.
  std::vector<char> finiteValues() const {
    if (!parameters_.causal) return {};
    std::vector<char> finite(shape_.batch * shape_.kvHeads);
    environment_.parallel.forEach(finite.size(), [&](size_t head, size_t) {
      const size_t count = shape_.keys() * size_;
      finite[head] = environment_.simd.allFinite(operands_.value + head * count, count);
    });
    return finite;
  }

  static int64_t floorMod(int64_t a, int64_t b) { return a >= 0 ? a % b : b - 1 - (-a - 1) % b; }
  int64_t position(int64_t row) const { return row + offset_; }
  int64_t blockStart(size_t level, int64_t position) const {
    return position - floorMod(position, parameters_.blockLength(level));
  }
  // Keys of the block of a level that holds a position, as far as there are keys up to `end`.
  Span blockOf(size_t level, int64_t position, int64_t end) const {
    if (level == 0) return {0, end};
    const int64_t start = blockStart(level, position);
    return {std::clamp<int64_t>(start, 0, end), std::clamp<int64_t>(start + parameters_.blockLength(level), 0, end)};
  }

  void attendTile(TileSoftmax& tile, size_t head, Span rows, const KeyValue& kv) const {
    const size_t at = head * shape_.queries + static_cast<size_t>(rows.begin);
    const size_t count = static_cast<size_t>(rows.end - rows.begin);
    tile.start(Rows{operands_.query + at * depth_, depth_}, count, 1.f);
    tile.scaleDimensions(factors_.data());
    const Span positions{position(rows.begin), position(rows.end)};
    const int64_t end = parameters_.causal ? std::clamp<int64_t>(positions.end, 0, keys_) : keys_;

    std::vector<Span> shells;
    for (size_t level = 0; level <= tileLevel_; level++) shells.push_back(blockOf(level, positions.begin, end));
    for (size_t level = 0; level < tileLevel_; level++) {
      attendShell(tile, head, kv, {shells[level].begin, shells[level + 1].begin}, positions, level);
    }
    attendOwnBlock(tile, head, kv, shells[tileLevel_], positions, count);
    for (size_t level = tileLevel_; level-- > 0;) {
      attendShell(tile, head, kv, {shells[level + 1].end, shells[level].end}, positions, level);
    }

    output_.writeTile(environment_.simd, tile, at, count, shape_.valueDim);
  }

  // Keys that share the levels up to `level` with all rows of the tile, and no finer one.
  void attendShell(TileSoftmax& tile, size_t head, const KeyValue& kv, Span keys, Span rows, size_t level) const {
    float factor[kTile];
    std::fill_n(factor, kTile, 1.f / static_cast<float>(level + 1));
    attend(tile, head, kv, keys, rows, level, [&](float* scores, const int32_t*, int64_t, size_t n) {
      if (level > 0 && parameters_.divide == Divide::shared) {
        environment_.simd.scaleTile(scores, tile.width(), n, factor);
      }
    });
  }

  // Keys that share the tile level, and may share finer ones with some of the rows.
  void attendOwnBlock(TileSoftmax& tile, size_t head, const KeyValue& kv, Span keys, Span rows, size_t count) const {
    if (tileLevel_ + 1 == parameters_.levels()) {
      attendShell(tile, head, kv, keys, rows, tileLevel_);
      return;
    }
    attend(tile, head, kv, keys, rows, tileLevel_, [&](float* scores, const int32_t* list, int64_t from, size_t n) {
      for (size_t i = 0; i < n; i++) {
        const int64_t key = list ? list[i] : from + static_cast<int64_t>(i);
        addFinerLevels(scores + i * tile.width(), tile, kv.key + static_cast<size_t>(key) * kv.depth, key, rows, count);
      }
    });
  }

  // Adds to the scores of one key what the levels finer than the tile level contribute.
  void addFinerLevels(float* scores, const TileSoftmax& tile, const float* keyRow, int64_t key, Span rows,
                      size_t count) const {
    const bool shared = parameters_.divide == Divide::shared;
    Span lanes{0, static_cast<int64_t>(count)};
    for (size_t level = tileLevel_;;) {
      Span finer{0, 0};
      if (level + 1 < parameters_.levels()) {
        const int64_t start = blockStart(level + 1, key) - rows.begin;
        finer = {std::max(lanes.begin, start), std::min(lanes.end, start + parameters_.blockLength(level + 1))};
      }
      if (finer.empty()) finer = {lanes.end, lanes.end};
      if (shared) {
        const float factor = 1.f / static_cast<float>(level + 1);
        for (int64_t lane = lanes.begin; lane < finer.begin; lane++) scores[lane] *= factor;
        for (int64_t lane = finer.end; lane < lanes.end; lane++) scores[lane] *= factor;
      }
      if (finer.empty()) return;
      lanes = finer;
      level++;
      for (size_t d = ends_[level - 1]; d < ends_[level]; d++) {
        const float* column = tile.tile() + d * tile.width();
        for (int64_t lane = lanes.begin; lane < lanes.end; lane++) scores[lane] += keyRow[d] * column[lane];
      }
    }
  }

  template <class Adjust>
  void attend(TileSoftmax& tile, size_t head, const KeyValue& kv, Span keys, Span rows, size_t level,
              const Adjust& adjust) const {
    const VisibleKeys::Part part = visible_.in(head / shape_.heads, keys);
    tile.attend(kv, part.index, part.first, part.count, ends_[level],
                [&](float* scores, const int32_t* list, int64_t from, size_t n) {
                  adjust(scores, list, from, n);
                  if (parameters_.causal) tile.hideLaterKeys(list, from, n, rows.begin);
                });
  }

  const Environment& environment_;
  const Parameters& parameters_;
  const Shape& shape_;
  const int64_t keys_;
  // Position of row 0.
  const int64_t offset_;
  // Row lengths of queries and values.
  const size_t depth_, size_;
  const Operands operands_;
  const AttentionOutput output_;
  const VisibleKeys visible_;
  // By level, the dimension after its last.
  std::vector<size_t> ends_;
  // By dimension, the factor on a query that gives scores in base 2.
  std::vector<float> factors_;
  size_t tileLevel_ = 0;
};

}  // namespace onnxrewrite::multilevel
