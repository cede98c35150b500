// Inputs and outputs of a MultiLevelAttention node, as kernels of all execution providers take them from ONNX Runtime.
#pragma once

#include "../native/attention_shapes.h"
#include "attributes.h"

namespace onnxrewrite::multilevel {

enum Input { kQuery, kKey, kValue, kKeyMask, kPastValue, kPastKey };
enum Result { kOutput, kLogSumExp, kPresentValue, kPresentKey };

inline Ports inputs(ort::ElementType type) {
  Ports ports{{type, ort::kRequired}, {type, ort::kRequired}, {type, ort::kRequired},
                          {ort::kBool, ort::kOptional}, {type, ort::kOptional}};
  ports.insert(ports.end(), kMostLevels, {type, ort::kOptional});
  return ports;
}
inline Ports outputs(ort::ElementType type) {
  Ports ports{{type, ort::kRequired}, {type, ort::kOptional}, {type, ort::kOptional}};
  ports.insert(ports.end(), kMostLevels, {type, ort::kOptional});
  return ports;
}

// The inputs of one run, and what follows from their shapes.
struct Tensors {
  Tensors(const RunContext& context, const Parameters& parameters)
      : query(*context.input(kQuery)),
        key(*context.input(kKey)),
        value(*context.input(kValue)),
        mask(context.input(kKeyMask)),
        pastValue(context.input(kPastValue)) {
    for (size_t level = 0; level < kMostLevels; level++) pastKeys.push_back(context.input(kPastKey + level));
    checkShapes(kOpType, query, key, value);
    const auto &q = query.dims, &k = key.dims, &v = value.dims;
    int64_t dimensions = 0;
    for (const int64_t rank : parameters.ranks) dimensions += rank;
    if (q[3] != dimensions) {
      refuse("query " + describe(q) + " has not the " + std::to_string(dimensions) + " dimensions of ranks");
    }
    const int64_t past = checkPast(parameters);
    const int64_t keys = past + k[2];
    if (mask) checkKeyMask(kOpType, *mask, q[0], keys);
    if (keys > INT32_MAX || q[2] > INT32_MAX) refuse("more than 2^31 queries or keys");
    const auto size = [](int64_t n) { return static_cast<size_t>(n); };
    shape = {size(q[0]), size(q[1]), size(k[1]), size(q[2]), size(past), size(k[2]), size(q[3]), size(v[3])};
  }

  // Null where the node connects none.
  const bool* visible() const { return mask ? mask->as<const bool>() : nullptr; }

  TensorView query, key, value;
  std::optional<TensorView> mask, pastValue;
  std::vector<std::optional<TensorView>> pastKeys;
  Shape shape;

 private:
  // Tokens in the cache.
  int64_t checkPast(const Parameters& parameters) const {
    const size_t levels = parameters.levels();
    for (size_t level = 0; level < kMostLevels; level++) {
      if (pastKeys[level].has_value() != (pastValue.has_value() && level < levels)) {
        refuse("past_value and past_key_1 to past_key_" + std::to_string(levels) + " come together or not at all");
      }
    }
    if (!pastValue) return 0;
    const auto &k = key.dims, &v = value.dims, &pv = pastValue->dims;
    requireRank(kOpType, *pastValue, "past_value", 4);
    if (pv[0] != v[0] || pv[1] != v[1] || pv[3] != v[3]) {
      refuse("past_value " + describe(pv) + " does not fit value " + describe(v));
    }
    if (query.dims[2] != k[2] || parameters.causalOffset) {
      refuse("after a cache there are as many queries as keys, and no causal_offset");
    }
    for (size_t level = 0; level < levels; level++) {
      const auto cached = static_cast<int64_t>(parameters.cachedKeys(level, static_cast<size_t>(pv[2])));
      const std::vector<int64_t> expected{k[0], k[1], cached, parameters.ranks[level]};
      if (pastKeys[level]->dims != expected) {
        refuse("past_key_" + std::to_string(level + 1) + " has shape " + describe(pastKeys[level]->dims) + ", not " +
               describe(expected) + " after " + std::to_string(pv[2]) + " tokens");
      }
    }
    return pv[2];
  }
};

// Shape of `lse`; with the value size, of `output`.
inline std::vector<int64_t> rowDims(const Shape& shape) {
  return {static_cast<int64_t>(shape.batch), static_cast<int64_t>(shape.heads), static_cast<int64_t>(shape.queries)};
}
inline std::vector<int64_t> outputDims(const Shape& shape) {
  std::vector<int64_t> dims = rowDims(shape);
  dims.push_back(static_cast<int64_t>(shape.valueDim));
  return dims;
}
// Shape of a tensor of the cache, of rows of `size` numbers.
inline std::vector<int64_t> cacheDims(const Shape& shape, size_t rows, size_t size) {
  return {static_cast<int64_t>(shape.batch), static_cast<int64_t>(shape.kvHeads), static_cast<int64_t>(rows),
          static_cast<int64_t>(size)};
}

}  // namespace onnxrewrite::multilevel
