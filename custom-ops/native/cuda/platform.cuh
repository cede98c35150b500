// What every kernel source includes first: CUDA itself under nvcc, or the test suite's emulation of it under a
// plain C++ compiler (ONNX_REWRITE_EMULATE_CUDA), so that kernels also run where there is no GPU.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#ifdef ONNX_REWRITE_EMULATE_CUDA

#include "emulation.h"

#else

namespace onnxrewrite::cuda {

constexpr unsigned kWholeWarp = 0xffffffffu;

/** The dynamic shared memory of the block, 1024-byte aligned. */
__device__ inline unsigned char* dynamicShared() {
  extern __shared__ __align__(1024) unsigned char bytes[];
  return bytes;
}

/** The most shared memory that a block can have on the current device. */
inline size_t mostSharedBytes() {
  int device = 0, bytes = 0;
  const bool known = cudaGetDevice(&device) == cudaSuccess &&
                     cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) == cudaSuccess;
  return known ? bytes : 48 * 1024;
}

/** Enqueues a kernel; more than 48 KiB of dynamic shared memory is asked for where needed. */
template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, size_t sharedBytes, cudaStream_t stream,
                   const Arguments&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaSuccess;
  if (sharedBytes > 48 * 1024) {
    cudaError_t status = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                              cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(sharedBytes));
    if (status != cudaSuccess) return status;
  }
  kernel<<<grid, threads, sharedBytes, stream>>>(static_cast<Parameters>(arguments)...);
  return cudaGetLastError();
}

}  // namespace onnxrewrite::cuda

#endif

/** Returns the error of a CUDA call from the enclosing function. */
#define CUDA_TRY(call)                                             \
  do {                                                             \
    if (cudaError_t status_ = (call); status_ != cudaSuccess) return status_; \
  } while (false)
