// Attributes and shapes of one MultipoleAttention call, as kernels read them (README.md, "Attributes").
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace onnxrewrite::multipole {

enum class KeyGrouping { kmeans, contiguous };
enum class Selection { tile, sliding, cluster };

// Attributes, with their defaults where there is no causal mask.
struct Parameters {
  std::optional<float> scale;
  bool causal = false;
  std::optional<int64_t> causalOffset;
  int64_t exactBelow = 0;
  int64_t exactBelowRows = 0;
  int64_t segment = 128;
  int64_t window = 1;
  int64_t keyClusters = 4;
  KeyGrouping keyGrouping = KeyGrouping::contiguous;
  int64_t queryClusters = 32;
  int64_t iterations = 3;
  int order = 0;
  bool contracted = false;
  std::vector<int64_t> retrieve{64};
  float retrieveMass = 0;
  float retrieveError = 0.0005f;
  Selection selection = Selection::tile;
  int64_t group = 64;
  bool dyadic = false;
};

// B, H, G, N, P, S, D and E of the specification.
struct Shape {
  size_t batch, heads, kvHeads, queries, past, keys, headDim, valueDim;
};

}  // namespace onnxrewrite::multipole
