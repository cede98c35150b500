// Inputs and outputs of a MultipoleAttention node, as kernels of all execution providers take them from ONNX Runtime.
#pragma once

#include "../native/attention_shapes.h"
#include "attributes.h"

namespace onnxrewrite::multipole {

enum Input { kQuery, kKey, kValue, kKeyMask, kPastQuery };
enum Result { kOutput, kLogSumExp };

inline Ports inputs(ort::ElementType type) {
  return {{type, ort::kRequired}, {type, ort::kRequired}, {type, ort::kRequired}, {ort::kBool, ort::kOptional},
          {type, ort::kOptional}};
}
inline Ports outputs(ort::ElementType type) { return {{type, ort::kRequired}, {type, ort::kOptional}}; }

struct Tensors {
  explicit Tensors(const RunContext& context)
      : query(*context.input(kQuery)),
        key(*context.input(kKey)),
        value(*context.input(kValue)),
        mask(context.input(kKeyMask)),
        past(context.input(kPastQuery)) {}

  // Throws where shapes do not fit each other or the attributes.
  Shape shape(const Parameters& parameters) const {
    checkShapes(kOpType, query, key, value);
    const auto &q = query.dims, &k = key.dims, &v = value.dims;
    if (mask) checkKeyMask(kOpType, *mask, q[0], k[2]);
    int64_t pastRows = 0;
    if (past) {
      requireRank(kOpType, *past, "past_query", 4);
      const auto& p = past->dims;
      if (p[0] != q[0] || p[1] != q[1] || p[3] != q[3]) {
        refuse("past_query " + describe(p) + " does not fit query " + describe(q));
      }
      pastRows = p[2];
    }
    if (k[2] > INT32_MAX || pastRows + q[2] > INT32_MAX) refuse("more than 2^31 queries or keys");
    const auto size = [](int64_t n) { return static_cast<size_t>(n); };
    if (parameters.retrieve.size() != 1 && parameters.retrieve.size() != size(q[1])) {
      refuse("retrieve has " + std::to_string(parameters.retrieve.size()) + " numbers for " + std::to_string(q[1]) +
             " heads");
    }
    return {size(q[0]), size(q[1]), size(k[1]), size(q[2]), size(pastRows), size(k[2]), size(q[3]), size(v[3])};
  }

  TensorView query, key, value;
  std::optional<TensorView> mask, past;
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

}  // namespace onnxrewrite::multipole
