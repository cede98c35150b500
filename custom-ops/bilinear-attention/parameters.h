// Attributes and sizes of one BilinearAttention call as plain values.
#pragma once

#include <cstddef>
#include <vector>

#include "../structured-matmul/level.h"

namespace onnxrewrite::bilinear {

constexpr size_t kMostLevels = 8;

// README.md, "Attributes".
struct Parameters {
  // Whether keys come from a Block Tensor Train, which has one level.
  bool train, normalized, centered, causal;
  size_t heads, features;
  std::vector<structured::Level> levels;
  float epsilon;

  // Dimensions of the queries and keys of a level, and of all levels side by side.
  size_t levelSize(size_t level) const {
    return train ? features : levels[level].inputPieces * levels[level].rank;
  }
  size_t depth() const {
    size_t sum = 0;
    for (size_t level = 0; level < levels.size(); level++) sum += levelSize(level);
    return sum;
  }
};

// What one run works on.
struct Shape {
  size_t batch, heads, tokens, depth, valueDim;
};

}  // namespace onnxrewrite::bilinear
