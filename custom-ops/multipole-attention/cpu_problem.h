// One call of MultipoleAttention on the CPU: operands, where results go, and what every stage asks of them.
#pragma once

#include <cstring>
#include <vector>

#include "../native/attention_output.h"
#include "../native/visible_keys.h"
#include "geometry.h"

namespace onnxrewrite::multipole {

// Row-major [batch][heads][rows][size] in float32, size being headDim or valueDim rounded up to kLanes and
// zero padded. The rows of `query` are past and present ones.
struct Operands {
  const float* query;
  const float* key;
  const float* value;
  const bool* keyMask;  // [batch][keys], or null
};

// The discontinuous steps, exchanged with the reference in tests (reference.ts, MultipoleChoices).
struct Choices {
  int32_t* keyClusters;     // [levels][batch][kvHeads][keys], -1 where hidden or not needed
  float* queryCentroids;    // [blocks][batch][heads][queryClusters][headDim]
  int32_t* queryClusters;   // [batch][heads][past + queries], -1 where there are none
  int32_t* retrieved;       // [batch][heads][queries][clusters], ascending, then -1
};

class Problem {
 public:
  Problem(const Environment& environment, const Parameters& parameters, const Shape& shape,
          const Operands& operands, const AttentionOutput& output)
      : environment(environment),
        parameters(parameters),
        shape(shape),
        geometry(parameters, shape),
        depth(roundUpToLanes(shape.headDim)),
        size(roundUpToLanes(shape.valueDim)),
        multiplier(parameters.scale.value_or(1.f / std::sqrt(static_cast<float>(shape.headDim))) * kLog2E),
        operands_(operands),
        output_(output),
        visible_(operands.keyMask, shape.batch, shape.keys) {
    checkFinite();
  }

  const Environment& environment;
  const Parameters& parameters;
  const Shape& shape;
  const Geometry geometry;
  // Row lengths of queries and keys, and of values.
  const size_t depth, size;
  // Factor on query . key that gives logits in base 2.
  const float multiplier;

  int64_t retrieveOf(size_t head) const {
    const std::vector<int64_t>& retrieve = parameters.retrieve;
    return retrieve[retrieve.size() == 1 ? 0 : head % shape.heads];
  }
  bool selects(size_t head) const { return retrieveOf(head) > 0 || parameters.retrieveMass > 0; }
  bool choosesByError(size_t head) const { return parameters.retrieveError > 0 && selects(head); }

  size_t batchOf(size_t head) const { return head / shape.heads; }
  size_t kvHeadOf(size_t head) const {
    return batchOf(head) * shape.kvHeads + head % shape.heads / (shape.heads / shape.kvHeads);
  }

  Rows queriesOf(size_t head) const {
    return {operands_.query + head * static_cast<size_t>(geometry.rows) * depth, depth};
  }
  KeyValue keyValueOf(size_t kvHead) const {
    return {operands_.key + kvHead * shape.keys * depth, operands_.value + kvHead * shape.keys * size, depth,
            size, !finite_.empty() && !finite_[kvHead]};
  }

  VisibleKeys::Part visibleKeys(size_t batch, Span range) const { return visible_.in(batch, range); }

  // Lets the queries of `rows`, at most kTile of one segment, attend to the visible keys of a range.
  void attendRange(TileSoftmax& tile, size_t head, Span rows, Span range) const {
    tile.start(queriesOf(head).from(static_cast<size_t>(rows.begin)),
               static_cast<size_t>(rows.end - rows.begin), multiplier);
    if (geometry.causal) range.end = std::min(range.end, geometry.position(rows.end - 1) + 1);
    const VisibleKeys::Part keys = visibleKeys(batchOf(head), range);
    if (keys.count == 0) return;
    const KeyValue kv = keyValueOf(kvHeadOf(head));
    if (geometry.causal) {
      tile.attendCausally(kv, keys.index, keys.first, keys.count, geometry.position(rows.begin));
    } else {
      tile.attend(kv, keys.index, keys.first, keys.count);
    }
  }

  // Stores row sums / sum (zeros when sum is zero) and the log-sum-exp of a row; past rows have none.
  void write(size_t head, int64_t row, float* sums, float max, float sum) const {
    if (row < geometry.past) return;
    output_.write(environment.simd, head * shape.queries + static_cast<size_t>(row - geometry.past), sums,
                  shape.valueDim, max, sum);
  }

  // Stores what present rows, the first lanes of a tile, have summed.
  void writeTile(size_t head, Span rows, TileSoftmax& tile) const {
    output_.writeTile(environment.simd, tile,
                      head * shape.queries + static_cast<size_t>(rows.begin - geometry.past),
                      static_cast<size_t>(rows.end - rows.begin), shape.valueDim);
  }

 private:
  // Only where rows of one tile see different keys can a value that is not finite leak through a weight of
  // zero, and only under causality may it not.
  void checkFinite() {
    if (!geometry.causal) return;
    std::vector<char> finite(shape.batch * shape.kvHeads);
    environment.parallel.forEach(finite.size(), [&](size_t head, size_t) {
      const KeyValue kv = keyValueOf(head);
      finite[head] = environment.simd.allFinite(kv.key, shape.keys * depth) &&
                     environment.simd.allFinite(kv.value, shape.keys * size);
    });
    finite_ = std::move(finite);
  }

  const Operands operands_;
  const AttentionOutput output_;
  const VisibleKeys visible_;
  std::vector<char> finite_;  // by key head, empty when it does not matter
};

}  // namespace onnxrewrite::multipole
