// What the library of CUDA operators does for whoever holds tensors on a GPU without linking CUDA.
#pragma once

#include <cstddef>

namespace onnxrewrite {

// Every function answers null, or what went wrong.
struct DeviceMemory {
  // Copies between any two of host and device memory and waits for it.
  const char* (*copy)(void* to, const void* from, size_t bytes);
  // Memory of GPU `device` that no session's arena knows of.
  const char* (*allocate)(int device, size_t bytes, void** memory);
  const char* (*release)(int device, void* memory);
};

// Signature of OnnxRewriteDeviceMemory.
using GetDeviceMemory = const DeviceMemory* (*)();

}  // namespace onnxrewrite
