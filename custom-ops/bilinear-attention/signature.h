// Attributes, inputs and outputs of a BilinearAttention node, as kernels of all execution providers take them from ONNX
// Runtime.
#pragma once

#include "../native/attention_shapes.h"
#include "parameters.h"

namespace onnxrewrite::bilinear {

constexpr const char* kOpType = "BilinearAttention";

enum Input { kX, kValue, kKeyMask, kLeft, kRight, kLevels };
// By level, counted from kLevels + 4 * level.
enum LevelInput { kQueryWeight, kKeyWeight, kQueryNorm, kKeyNorm, kLevelInputs };

inline size_t levelInput(size_t level, LevelInput input) { return kLevels + kLevelInputs * level + input; }

inline Ports inputs(ort::ElementType type) {
  Ports ports{{type, ort::kRequired}, {type, ort::kRequired}, {ort::kBool, ort::kOptional}};
  ports.insert(ports.end(), 2 + kLevelInputs * kMostLevels, {type, ort::kOptional});
  return ports;
}
inline Ports outputs(ort::ElementType type) { return {{type, ort::kRequired}}; }

[[noreturn]] inline void refuse(const std::string& message) { onnxrewrite::refuse(kOpType, message); }

// operator.ts validates the attributes when a node is made, this checks what a kernel relies on.
inline Parameters readParameters(const NodeAttributes& attributes) {
  Parameters parameters;
  const auto positive = [](const char* name, int64_t value) { return sizeAttribute(kOpType, name, value); };
  const std::string kind = attributes.text("kind").value_or("");
  parameters.train = kind == "block-tensor-train";
  if (!parameters.train && kind != "multi-level-low-rank") refuse("unknown kind \"" + kind + "\"");
  parameters.heads = positive("heads", attributes.integer("heads").value_or(0));
  parameters.features = positive("features", attributes.integer("features").value_or(0));
  const auto list = [&](const char* name) { return attributes.integers(name).value_or(std::vector<int64_t>{}); };
  const auto p = list("input_pieces"), q = list("output_pieces"), ranks = list("ranks");
  const auto scales = attributes.reals("level_scale").value_or(std::vector<float>{});
  const size_t count = ranks.size();
  if (count < 1 || count > (parameters.train ? 1 : kMostLevels) || p.size() != count || q.size() != count ||
      scales.size() != count) {
    refuse("input_pieces, output_pieces, ranks and level_scale have to describe 1 to 8 levels");
  }
  for (size_t n = 0; n < count; n++) {
    const structured::Level level{positive("input_pieces", p[n]), positive("output_pieces", q[n]),
                                  positive("ranks", ranks[n]), parameters.train, scales[n]};
    if (parameters.features % level.inputPieces != 0 || parameters.features % level.outputPieces != 0) {
      refuse("level " + std::to_string(n + 1) + " does not fit its sizes");
    }
    parameters.levels.push_back(level);
  }
  const std::string normalization = attributes.text("normalisation").value_or("");
  parameters.normalized = normalization != "none";
  parameters.centered = normalization == "layer";
  if (parameters.normalized && !parameters.centered && normalization != "root-mean-square") {
    refuse("unknown normalisation \"" + normalization + "\"");
  }
  parameters.epsilon = attributes.real("epsilon").value_or(0.f);
  parameters.causal = attributes.integer("causal").value_or(0) != 0;
  return parameters;
}

inline Shape shapeOf(const Parameters& parameters, const TensorView& x, const TensorView& value,
                     const std::optional<TensorView>& mask) {
  requireRank(kOpType, x, "x", 3);
  requireRank(kOpType, value, "value", 4);
  if (x.dims[2] != dim(parameters.features)) {
    refuse("x " + describe(x.dims) + " has not " + std::to_string(parameters.features) + " channels");
  }
  if (value.dims[0] != x.dims[0] || value.dims[1] != dim(parameters.heads) || value.dims[2] != x.dims[1]) {
    refuse("value " + describe(value.dims) + " does not fit x " + describe(x.dims));
  }
  if (x.dims[1] > INT32_MAX) refuse("more than 2^31 tokens");
  if (mask) checkKeyMask(kOpType, *mask, x.dims[0], x.dims[1]);
  const auto size = [](int64_t n) { return static_cast<size_t>(n); };
  return {size(x.dims[0]), parameters.heads, size(x.dims[1]), parameters.depth(), size(value.dims[3])};
}

// Indices of all inputs that hold weights.
inline std::vector<size_t> weightInputs(const Parameters& parameters) {
  std::vector<size_t> list{kLeft, kRight, kLevels + kKeyNorm};
  if (parameters.train) return list;
  list.resize(kLevelInputs * parameters.levels.size());
  for (size_t n = 0; n < list.size(); n++) list[n] = kLevels + n;
  return list;
}

// Inputs that hold weights, with the shapes that the attributes ask for. `inputs(index)` are the inputs of the node.
template <class Inputs>
class WeightReader {
 public:
  WeightReader(const Parameters& parameters, const Inputs& inputs) : parameters_(parameters), inputs_(inputs) {}

  // Factors of a Block Tensor Train.
  TensorView left() const {
    const structured::Level& level = parameters_.levels[0];
    return tensor(kLeft, {dim(parameters_.heads * level.outputPieces), dim(level.inputPieces * level.rank),
                          dim(parameters_.features / level.outputPieces)});
  }
  TensorView right() const {
    const structured::Level& level = parameters_.levels[0];
    return tensor(kRight, {dim(level.inputPieces), dim(parameters_.features / level.inputPieces),
                           dim(parameters_.heads * level.outputPieces * level.rank)});
  }
  // Weight of the queries or keys of a level.
  TensorView weight(size_t l, LevelInput input) const {
    const structured::Level& level = parameters_.levels[l];
    return tensor(levelInput(l, input), {dim(level.inputPieces), dim(parameters_.features / level.inputPieces),
                                         dim(parameters_.heads * level.rank)});
  }
  // Gains of their normalization; nothing where the node connects none.
  std::optional<TensorView> gains(size_t l, LevelInput input) const {
    const size_t index = levelInput(l, input);
    if (!inputs_(index)) return std::nullopt;
    if (!parameters_.normalized) refuse("a gain comes with a normalisation only");
    return tensor(index, {dim(parameters_.levelSize(l))});
  }

 private:
  TensorView tensor(size_t index, const std::vector<int64_t>& dims) const {
    const std::optional<TensorView> found = inputs_(index);
    if (!found) refuse("input " + std::to_string(index) + " is missing");
    if (found->dims != dims) {
      refuse("input " + std::to_string(index) + " has shape " + describe(found->dims) + ", not " + describe(dims));
    }
    return *found;
  }

  const Parameters& parameters_;
  const Inputs& inputs_;
};

}  // namespace onnxrewrite::bilinear
