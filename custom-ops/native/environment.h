// What a CPU kernel runs on.
#pragma once

#include "memory.h"
#include "parallel.h"
#include "simd/simd.h"

namespace onnxrewrite {

struct Environment {
  const Simd& simd;
  Allocator& allocator;
  Parallel& parallel;
};

}  // namespace onnxrewrite
