// Inputs and outputs of a LocalAttention node, as kernels of all execution providers take them from ONNX Runtime.
#pragma once

#include "../native/attention_shapes.h"
#include "attributes.h"

namespace onnxrewrite::local {

enum Input { kQuery, kKey, kValue, kKeyMask };
enum Result { kOutput, kLogSumExp };

inline Ports inputs(ort::ElementType type) {
  return {{type, ort::kRequired}, {type, ort::kRequired}, {type, ort::kRequired}, {ort::kBool, ort::kOptional}};
}
inline Ports outputs(ort::ElementType type) { return {{type, ort::kRequired}, {type, ort::kOptional}}; }

// The inputs of one run, with shapes that fit each other.
struct Tensors {
  explicit Tensors(const RunContext& context)
      : query(*context.input(kQuery)),
        key(*context.input(kKey)),
        value(*context.input(kValue)),
        mask(context.input(kKeyMask)) {
    checkShapes(kOpType, query, key, value);
    const auto &q = query.dims, &k = key.dims;
    if (mask) checkKeyMask(kOpType, *mask, q[0], k[2]);
    if (k[2] > INT32_MAX || q[2] > INT32_MAX) refuse("more than 2^31 queries or keys");
    const auto size = [](int64_t n) { return static_cast<size_t>(n); };
    shape = {size(q[0]), size(q[1]), size(k[1]), size(q[2]), size(k[2]), size(q[3]), size(value.dims[3])};
  }

  // Null where the node connects none.
  const bool* visible() const { return mask ? mask->as<const bool>() : nullptr; }

  // Shape of `lse`, and of `output`.
  std::vector<int64_t> rowDims() const { return {query.dims[0], query.dims[1], query.dims[2]}; }
  std::vector<int64_t> outputDims() const {
    return {query.dims[0], query.dims[1], query.dims[2], value.dims[3]};
  }

  TensorView query, key, value;
  std::optional<TensorView> mask;
  Shape shape;
};

}  // namespace onnxrewrite::local
