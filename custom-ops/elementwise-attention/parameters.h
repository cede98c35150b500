// Attributes, limits and shapes of one ElementwiseAttention call, as kernels read them (README.md, "Semantics").
#pragma once

#include <cstddef>

namespace onnxrewrite::elementwise {

constexpr int kMostOrder = 16;
// Offset before any key: larger than any |k|, with a square that float32 can hold.
constexpr float kEmptyOffset = 1e18f;

struct Parameters {
  // 0: the exponential itself; else the even order of its Taylor polynomial.
  int order;
  bool causal;
};

// B, N, S and X of the specification.
struct Shape {
  size_t batch, rows, keys, channels;
};

// Sums per channel of a state: S_0 ... S_t and Z_0 ... Z_t.
constexpr size_t sumsOf(int order) { return 2 * (static_cast<size_t>(order) + 1); }

}  // namespace onnxrewrite::elementwise
