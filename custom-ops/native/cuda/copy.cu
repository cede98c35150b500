#include "copy.h"

#include <cuda_runtime.h>

#include "../operators.h"

ONNXREWRITE_EXPORT const char* OnnxRewriteCopyDeviceMemory(void* to, const void* from, size_t bytes) {
  const cudaError_t status = cudaMemcpy(to, from, bytes, cudaMemcpyDefault);
  return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}
