#pragma once

#include <cstdint>

namespace onnxrewrite {

// Half-open range.
struct Span {
  int64_t begin, end;
  bool empty() const { return begin >= end; }
};

}  // namespace onnxrewrite
