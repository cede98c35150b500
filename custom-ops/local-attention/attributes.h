// Reading the attributes of a LocalAttention node; operator.ts validates them when a node is made, this checks what
// a kernel relies on.
#pragma once

#include "../native/kernel.h"
#include "parameters.h"

namespace onnxrewrite::local {

constexpr const char* kOpType = "LocalAttention";

[[noreturn]] inline void refuse(const std::string& message) { onnxrewrite::refuse(kOpType, message); }

// -1 stands for no limit.
inline std::optional<int64_t> readReach(const NodeAttributes& attributes, const char* name) {
  const int64_t reach = attributes.integer(name).value_or(-1);
  if (reach < -1 || reach > INT32_MAX) refuse(std::string(name) + " is " + std::to_string(reach));
  if (reach == -1) return std::nullopt;
  return reach;
}

inline Parameters readParameters(const NodeAttributes& attributes) {
  Parameters p;
  p.scale = attributes.real("scale");
  p.left = readReach(attributes, "window_left");
  p.right = readReach(attributes, "window_right");
  p.offset = attributes.integer("causal_offset");
  if (p.offset && std::abs(*p.offset) > INT32_MAX) refuse("causal_offset is " + std::to_string(*p.offset));
  return p;
}

}  // namespace onnxrewrite::local
