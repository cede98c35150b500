// What the library of CUDA operators exports for whoever moves tensors to the GPU and back without linking CUDA.
#pragma once

#include <cstddef>

namespace onnxrewrite {

// Copies between any two of host and device memory and waits for it. Null, or what went wrong. Exported as
// OnnxRewriteCopyDeviceMemory.
using CopyDeviceMemory = const char* (*)(void* to, const void* from, size_t bytes);

}  // namespace onnxrewrite
