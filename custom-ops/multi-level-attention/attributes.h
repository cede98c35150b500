// Reading the attributes of a MultiLevelAttention node; operator.ts validates them when a node is made, this
// checks what a kernel relies on.
#pragma once

#include "../native/kernel.h"
#include "parameters.h"

namespace onnxrewrite::multilevel {

constexpr const char* kOpType = "MultiLevelAttention";

[[noreturn]] inline void refuse(const std::string& message) { onnxrewrite::refuse(kOpType, message); }

inline Divide divideOf(const std::string& text) {
  if (text == "none") return Divide::none;
  if (text == "count") return Divide::count;
  if (text == "shared") return Divide::shared;
  refuse("unknown divide \"" + text + "\"");
}

inline Parameters readParameters(const NodeAttributes& attributes) {
  Parameters p;
  p.scale = attributes.real("scale");
  p.causal = attributes.integer("causal").value_or(0) != 0;
  p.causalOffset = attributes.integer("causal_offset");
  p.ranks = attributes.integers("ranks").value_or(std::vector<int64_t>{});
  p.block = attributes.integer("block").value_or(0);
  p.levelScale = attributes.reals("level_scale").value_or(std::vector<float>(p.ranks.size(), 1.f));
  p.divide = divideOf(attributes.text("divide").value_or("none"));
  if (p.ranks.empty() || p.ranks.size() > kMostLevels) refuse("ranks has to hold 1 to 8 numbers");
  for (const int64_t rank : p.ranks) {
    if (rank < 1 || rank > INT32_MAX) refuse("ranks holds " + std::to_string(rank));
  }
  if (p.block < 1 || p.block > INT32_MAX) refuse("block is " + std::to_string(p.block));
  if (p.levelScale.size() != p.ranks.size()) {
    refuse("level_scale has " + std::to_string(p.levelScale.size()) + " numbers for " +
           std::to_string(p.ranks.size()) + " levels");
  }
  return p;
}

}  // namespace onnxrewrite::multilevel
