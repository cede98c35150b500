// Attributes and shapes of one MultiLevelAttention call, as kernels read them (README.md, "Attributes").
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace onnxrewrite::multilevel {

constexpr size_t kMostLevels = 8;

enum class Divide { none, count, shared };

struct Parameters {
  std::optional<float> scale;
  bool causal = false;
  std::optional<int64_t> causalOffset;
  std::vector<int64_t> ranks;
  int64_t block = 1;
  std::vector<float> levelScale;
  Divide divide = Divide::none;

  size_t levels() const { return ranks.size(); }
  // Tokens in a block of a level above the global one, which is level 0.
  int64_t blockLength(size_t level) const { return block << (levels() - 1 - level); }
  // Keys that the cache of a level holds after `position` tokens: those of the block that is not yet full.
  size_t cachedKeys(size_t level, size_t position) const {
    return level == 0 ? position : position % static_cast<size_t>(blockLength(level));
  }
};

// B, H, G, N, S, D and E of the specification; `past` tokens are in the cache.
struct Shape {
  size_t batch, heads, kvHeads, queries, past, fresh, headDim, valueDim;

  size_t keys() const { return past + fresh; }
};

}  // namespace onnxrewrite::multilevel
