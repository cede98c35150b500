// Which keys and clusters a query row sees, by position alone: the same for every batch row and head.
//
// Rows are counted over past and present queries. A unit is a run of keys that is clustered on its own: a
// segment, or in a dyadic hierarchy an aligned run of 2^level segments. Units are numbered level by level and
// clusters unit * keyClusters + j.
#pragma once

#include <algorithm>
#include <vector>

#include "../native/span.h"
#include "parameters.h"

namespace onnxrewrite::multipole {

class Geometry {
 public:
  struct Level {
    int64_t firstUnit, units, length;  // length: keys per unit, but for a shorter last one
  };

  Geometry(const Parameters& parameters, const Shape& shape)
      : rows(static_cast<int64_t>(shape.past + shape.queries)),
        past(static_cast<int64_t>(shape.past)),
        keys(static_cast<int64_t>(shape.keys)),
        causal(parameters.causal),
        local(parameters.causal || (parameters.segment > 0 && rows == keys)),
        dyadic(parameters.dyadic && local),
        segment(parameters.segment > 0 ? parameters.segment : std::max<int64_t>(keys, 1)),
        window(parameters.window),
        keyClusters(parameters.keyClusters),
        offset_(causal ? parameters.causalOffset.value_or(keys - (rows - past)) - past : 0) {
    if (keys == 0) return;
    int64_t first = 0;
    for (int64_t length = segment;; length *= 2) {
      const int64_t units = (keys + length - 1) / length;
      levels_.push_back({first, units, length});
      first += units;
      if (!dyadic || units == 1) break;
    }
  }

  const int64_t rows, past, keys;
  const bool causal;
  // Whether a row has a segment of its own, attended exactly with its window.
  const bool local;
  const bool dyadic;
  const int64_t segment, window, keyClusters;

  const std::vector<Level>& levels() const { return levels_; }
  int64_t units() const { return levels_.empty() ? 0 : levels_.back().firstUnit + levels_.back().units; }
  int64_t clusters() const { return units() * keyClusters; }

  size_t levelOf(int64_t unit) const {
    size_t level = 0;
    while (level + 1 < levels_.size() && unit >= levels_[level + 1].firstUnit) level++;
    return level;
  }
  // Keys of a unit.
  Span keysOf(int64_t unit) const {
    const Level& level = levels_[levelOf(unit)];
    const int64_t begin = (unit - level.firstUnit) * level.length;
    return {begin, std::min(begin + level.length, keys)};
  }

  int64_t position(int64_t row) const { return row + offset_; }
  // Rows before this one have a negative position: they see nothing and take part in nothing.
  int64_t firstRow() const { return std::min(rows, std::max<int64_t>(0, -offset_)); }
  // Segment of a row from firstRow() on; 0 for all rows without segments of their own.
  int64_t segmentOf(int64_t row) const { return local ? position(row) / segment : 0; }
  // First row of a segment, clipped to the rows there are.
  int64_t firstRowOf(int64_t ownSegment) const {
    return local ? std::clamp(ownSegment * segment - offset_, firstRow(), rows) : 0;
  }

  // Causal query centroids come from doubling prefixes: rows of segments [2^block, 2^(block+1)) use those of
  // the rows before position 2^block * segment. -1 for segment 0, which has no far field. Acausal: 0.
  int blockOf(int64_t ownSegment) const {
    if (!causal) return 0;
    int block = -1;
    for (; ownSegment > 0; ownSegment /= 2) block++;
    return block;
  }
  // Sets of query centroids in use.
  int blocks() const { return firstRow() < rows ? blockOf(segmentOf(rows - 1)) + 1 : 0; }
  Span centroidRows(int block) const {
    if (!causal) return {0, rows};
    const int64_t end = (int64_t{1} << block) * segment - offset_;
    return {firstRow(), std::max(firstRow(), std::min(rows, end))};
  }
  // Rows that use the centroids of a block.
  Span rowsOf(int block) const {
    if (!causal) return {0, rows};
    return {firstRowOf(int64_t{1} << block), firstRowOf(int64_t{2} << block)};
  }

  // Keys attended exactly by the rows of a segment, before masking; causal rows see those up to their own.
  Span nearKeys(int64_t ownSegment) const {
    if (!local) return {0, 0};
    const int64_t last = causal ? ownSegment : ownSegment + window;
    return {std::min(keys, std::max<int64_t>(0, ownSegment - window) * segment),
            std::min(keys, (last + 1) * segment)};
  }

  // Appends the far field of the rows of a segment as ascending, disjoint spans of units.
  void farUnits(int64_t ownSegment, std::vector<Span>& out) const {
    if (!local) {
      if (units() > 0) out.push_back({0, units()});
      return;
    }
    for (size_t level = 0; level < levels_.size(); level++) {
      // Units whose parent is too near to stand for them; at the top, all.
      Span candidates{0, levels_[level].units};
      if (level + 1 < levels_.size()) {
        const Span parents = nearUnits(ownSegment, level + 1);
        candidates = {std::max<int64_t>(0, 2 * parents.begin), std::min(candidates.end, 2 * parents.end)};
      }
      const Span near = nearUnits(ownSegment, level);
      const int64_t first = levels_[level].firstUnit;
      const Span before{candidates.begin, std::min(candidates.end, near.begin)};
      const Span after{std::max(candidates.begin, near.end), candidates.end};
      if (!before.empty()) out.push_back({first + before.begin, first + before.end});
      if (!after.empty()) out.push_back({first + after.begin, first + after.end});
    }
  }

 private:
  // Units of a level that touch the window or, above level 0, lie next to the one with the own segment.
  // Causal: also all later ones.
  Span nearUnits(int64_t ownSegment, size_t level) const {
    const int64_t reach = int64_t{1} << level;
    const int64_t own = ownSegment / reach;
    const int64_t beside = level > 0 ? 1 : 0;
    const auto floorDiv = [&](int64_t a) { return a >= 0 ? a / reach : -((-a + reach - 1) / reach); };
    const int64_t begin = std::min(own - beside, floorDiv(ownSegment - window));
    const int64_t end = std::max(own + beside, floorDiv(ownSegment + window)) + 1;
    return {begin, causal ? std::max(end, levels_[level].units) : end};
  }

  const int64_t offset_;
  std::vector<Level> levels_;
};

}  // namespace onnxrewrite::multipole
