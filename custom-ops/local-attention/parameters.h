// Attributes and sizes of one LocalAttention call as plain values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

namespace onnxrewrite::local {

// README.md, "Attributes".
struct Parameters {
  std::optional<float> scale;
  std::optional<int64_t> left, right;  // absent: no limit
  std::optional<int64_t> offset;
};

// B, H, G, N, S, D and E of the README.
struct Shape {
  size_t batch, heads, kvHeads, queries, keys, headDim, valueDim;
};

}  // namespace onnxrewrite::local
