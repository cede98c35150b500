// Attributes, inputs and outputs of an ElementwiseAttention node, as kernels of all execution providers take them from
// ONNX Runtime.
#pragma once

#include "../native/attention_shapes.h"
#include "parameters.h"

namespace onnxrewrite::elementwise {

constexpr const char* kOpType = "ElementwiseAttention";

enum Input { kQuery, kKey, kValue, kKeyMask, kPastState, kPastOffset };
enum Result { kOutput, kPresentState, kPresentOffset };

inline Ports inputs(ort::ElementType type) {
  return {{type, ort::kRequired},       {type, ort::kRequired},       {type, ort::kRequired},
          {ort::kBool, ort::kOptional}, {ort::kFloat, ort::kOptional}, {ort::kFloat, ort::kOptional}};
}
inline Ports outputs(ort::ElementType type) {
  return {{type, ort::kRequired}, {ort::kFloat, ort::kOptional}, {ort::kFloat, ort::kOptional}};
}

inline Parameters readParameters(const NodeAttributes& attributes) {
  const int64_t order = attributes.integer("order").value_or(2);
  if (order < 0 || order % 2 != 0 || order > kMostOrder) {
    refuse(kOpType, "order is " + std::to_string(order) + ", not an even number up to " + std::to_string(kMostOrder));
  }
  return {static_cast<int>(order), attributes.integer("causal").value_or(0) != 0};
}

// Shapes of `past_state` and `present_state`, and of the offsets beside them.
inline std::vector<int64_t> stateDims(const Parameters& parameters, const TensorView& query) {
  return {query.dims[0], 2, parameters.order + 1, query.dims[2]};
}
inline std::vector<int64_t> offsetDims(const TensorView& query) { return {query.dims[0], query.dims[2]}; }

// The inputs of one run, with shapes that fit each other and the attributes.
struct Tensors {
  Tensors(const RunContext& context, const Parameters& parameters)
      : query(*context.input(kQuery)),
        key(*context.input(kKey)),
        value(*context.input(kValue)),
        mask(context.input(kKeyMask)),
        pastState(context.input(kPastState)),
        pastOffset(context.input(kPastOffset)) {
    requireRank(kOpType, query, "query", 3);
    requireRank(kOpType, key, "key", 3);
    const auto &q = query.dims, &k = key.dims;
    if (k[0] != q[0] || k[2] != q[2]) refuse(kOpType, "key " + describe(k) + " does not fit query " + describe(q));
    if (value.dims != k) refuse(kOpType, "value " + describe(value.dims) + " does not fit key " + describe(k));
    if (parameters.causal && q[1] != k[1]) {
      refuse(kOpType, "causal needs as many queries as keys, not " + describe(q) + " and " + describe(k));
    }
    if (mask) checkKeyMask(kOpType, *mask, k[0], k[1]);
    if (pastState.has_value() != pastOffset.has_value()) {
      refuse(kOpType, "past_state and past_offset come together or not at all");
    }
    if (!pastState) return;
    if (parameters.order == 0) refuse(kOpType, "order 0 has no finite state: past_state cannot be connected");
    expect(*pastState, "past_state", stateDims(parameters, query));
    expect(*pastOffset, "past_offset", offsetDims(query));
  }

  Shape shape() const {
    const auto size = [](int64_t n) { return static_cast<size_t>(n); };
    return {size(query.dims[0]), size(query.dims[1]), size(key.dims[1]), size(query.dims[2])};
  }

  // Null where the node connects none.
  const bool* visible() const { return mask ? mask->as<const bool>() : nullptr; }
  const float* pastSums() const { return pastState ? pastState->as<const float>() : nullptr; }
  const float* pastOffsets() const { return pastOffset ? pastOffset->as<const float>() : nullptr; }

  TensorView query, key, value;
  std::optional<TensorView> mask, pastState, pastOffset;

 private:
  static void expect(const TensorView& tensor, const char* name, const std::vector<int64_t>& dims) {
    if (tensor.dims != dims) {
      refuse(kOpType, std::string(name) + " has shape " + describe(tensor.dims) + ", not " + describe(dims));
    }
  }
};

}  // namespace onnxrewrite::elementwise
