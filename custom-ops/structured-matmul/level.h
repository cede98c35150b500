// One level of a structured matrix (README.md, "Semantics").
#pragma once

#include <cstddef>

namespace onnxrewrite::structured {

struct Level {
  size_t inputPieces, outputPieces, rank;
  bool permuted;
  float scale;
};

}  // namespace onnxrewrite::structured
