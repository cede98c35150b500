// Attributes and shapes of one MultipoleAttention call, as the kernels read them (README.md, "Attributes").
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace onnxrewrite::multipole {

enum class KeyGrouping { kmeans, contiguous };
enum class Selection { tile, sliding, cluster };

struct Parameters {
  std::optional<float> scale;
  bool causal = false;
  std::optional<int64_t> causalOffset;
  int64_t exactBelow = 0;
  int64_t exactBelowRows = 0;
  int64_t segment = 256;
  int64_t window = 1;
  int64_t keyClusters = 8;
  KeyGrouping keyGrouping = KeyGrouping::contiguous;
  int64_t queryClusters = 64;
  int64_t iterations = 3;
  int order = 0;
  bool contracted = false;
  std::vector<int64_t> retrieve{16};
  float retrieveMass = 0;
  float retrieveError = 0;
  Selection selection = Selection::tile;
  int64_t group = 64;
  bool dyadic = false;
};

// B, H, G, N, P, S, D and E of the specification.
struct Shape {
  size_t batch, heads, kvHeads, queries, past, keys, headDim, valueDim;
};

}  // namespace onnxrewrite::multipole
