#include "device-memory.h"

#include <cuda_runtime.h>

#include <cstdint>
#include <map>
#include <mutex>

#include "../operators.h"
#include "platform.cuh"

namespace onnxrewrite {
namespace {

/** Makes a device the current one of this thread while it lives. */
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) {
    status_ = cudaGetDevice(&before_);
    if (status_ == cudaSuccess) status_ = cudaSetDevice(device);
  }
  ~CurrentDevice() { cudaSetDevice(before_); }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

  cudaError_t status() const { return status_; }

 private:
  int before_ = 0;
  cudaError_t status_;
};

/** The pool of a device, which keeps what is given back: tensors of the same sizes come and go with every run. */
cudaError_t poolOf(int device, cudaMemPool_t& pool) {
  static std::mutex mutex;
  static std::map<int, cudaMemPool_t> pools;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = pools.find(device);
  if (found != pools.end()) {
    pool = found->second;
    return cudaSuccess;
  }
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = device;
  CUDA_TRY(cudaMemPoolCreate(&pool, &properties));
  uint64_t keep = UINT64_MAX;
  CUDA_TRY(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep));
  pools.emplace(device, pool);
  return cudaSuccess;
}

cudaError_t copy(void* to, const void* from, size_t bytes) {
  CUDA_TRY(cudaMemcpy(to, from, bytes, cudaMemcpyDefault));
  cudaPointerAttributes target;
  CUDA_TRY(cudaPointerGetAttributes(&target, to));
  if (target.type != cudaMemoryTypeDevice) return cudaSuccess;
  // A copy within a device does not wait by itself.
  const CurrentDevice current(target.device);
  CUDA_TRY(current.status());
  return cudaStreamSynchronize(cudaStreamLegacy);
}

cudaError_t allocate(int device, size_t bytes, void** memory) {
  const CurrentDevice current(device);
  CUDA_TRY(current.status());
  cudaMemPool_t pool;
  CUDA_TRY(poolOf(device, pool));
  CUDA_TRY(cudaMallocFromPoolAsync(memory, bytes > 0 ? bytes : 1, pool, cudaStreamLegacy));
  return cudaStreamSynchronize(cudaStreamLegacy);
}

cudaError_t release(int device, void* memory) {
  const CurrentDevice current(device);
  CUDA_TRY(current.status());
  return cudaFreeAsync(memory, cudaStreamLegacy);
}

const char* failureOf(cudaError_t status) { return status == cudaSuccess ? nullptr : cudaGetErrorString(status); }

}  // namespace

ONNXREWRITE_EXPORT const DeviceMemory* OnnxRewriteDeviceMemory() {
  static constexpr DeviceMemory memory{
      [](void* to, const void* from, size_t bytes) { return failureOf(copy(to, from, bytes)); },
      [](int device, size_t bytes, void** out) { return failureOf(allocate(device, bytes, out)); },
      [](int device, void* given) { return failureOf(release(device, given)); },
  };
  return &memory;
}

}  // namespace onnxrewrite
