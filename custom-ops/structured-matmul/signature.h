// Attributes, inputs and outputs of a StructuredMatMul node, as kernels of all execution providers take them from ONNX Runtime.
#pragma once

#include "../native/attention_shapes.h"
#include "level.h"

namespace onnxrewrite::structured {

constexpr const char* kOpType = "StructuredMatMul";
constexpr size_t kMostLevels = 8;

enum Input { kX, kFactors };

[[noreturn]] inline void refuse(const std::string& message) { onnxrewrite::refuse(kOpType, message); }

// The attributes of a node; operator.ts validates them when a node is made, this checks what a kernel relies on.
struct Structure {
  explicit Structure(const NodeAttributes& attributes) {
    const std::string kind = attributes.text("kind").value_or("");
    butterfly = kind == "butterfly";
    tied = kind == "kronecker";
    const auto positive = [](const char* name, int64_t value) { return sizeAttribute(kOpType, name, value); };
    in = positive("in_features", attributes.integer("in_features").value_or(0));
    out = positive("out_features", attributes.integer("out_features").value_or(0));
    if (butterfly) {
      if (in != out || in < 2 || (in & (in - 1)) != 0) refuse("a butterfly is square, its size a power of two");
      return;
    }
    const auto list = [&](const char* name) { return attributes.integers(name).value_or(std::vector<int64_t>{}); };
    const auto p = list("input_pieces"), q = list("output_pieces"), ranks = list("ranks"), permuted = list("permuted");
    const auto scales = attributes.reals("level_scale").value_or(std::vector<float>(ranks.size(), 1.f));
    const size_t count = ranks.size();
    if (count < 1 || count > (tied ? 1 : kMostLevels) || p.size() != count || q.size() != count ||
        permuted.size() != count || scales.size() != count) {
      refuse("input_pieces, output_pieces, ranks, permuted and level_scale have to describe 1 to 8 levels");
    }
    for (size_t n = 0; n < count; n++) {
      const Level level{positive("input_pieces", p[n]), positive("output_pieces", q[n]), positive("ranks", ranks[n]),
                        permuted[n] != 0, scales[n]};
      if (in % level.inputPieces != 0 || out % level.outputPieces != 0 ||
          (!level.permuted && level.inputPieces != level.outputPieces) || (tied && level.rank != 1)) {
        refuse("level " + std::to_string(n + 1) + " does not fit its sizes");
      }
      levels.push_back(level);
    }
  }

  bool butterfly, tied;
  size_t in, out;
  std::vector<Level> levels;
};

using Dims = std::vector<int64_t>;

inline Ports inputs(ort::ElementType type) {
  Ports ports{{type, ort::kRequired}, {type, ort::kRequired}};
  ports.insert(ports.end(), 2 * kMostLevels - 1, {type, ort::kOptional});
  return ports;
}
inline Ports outputs(ort::ElementType type) { return {{type, ort::kRequired}}; }

// Shape of the factor of a butterfly.
inline Dims stageDims(const Structure& structure) {
  int64_t stages = 0;
  while ((size_t{1} << stages) < structure.in) stages++;
  return {stages, dim(structure.in / 2), 2, 2};
}

// A factor that has the shape that the attributes ask for.
inline TensorView checkedFactor(size_t index, const std::optional<TensorView>& tensor, const Dims& dims) {
  if (!tensor) refuse("input " + std::to_string(index) + " is missing");
  if (tensor->dims != dims) {
    refuse("input " + std::to_string(index) + " has shape " + describe(tensor->dims) + ", not " + describe(dims));
  }
  return *tensor;
}

// Rows of x, which ends in as many columns as the matrix has.
inline size_t rowsOf(const Structure& structure, const TensorView& x) {
  if (x.dims.empty() || x.dims.back() != dim(structure.in)) {
    refuse("x " + describe(x.dims) + " has not " + std::to_string(structure.in) + " columns");
  }
  size_t rows = 1;
  for (size_t axis = 0; axis + 1 < x.dims.size(); axis++) rows *= static_cast<size_t>(x.dims[axis]);
  return rows;
}

inline Dims outputDims(const Structure& structure, const TensorView& x) {
  Dims dims = x.dims;
  dims.back() = dim(structure.out);
  return dims;
}

}  // namespace onnxrewrite::structured
