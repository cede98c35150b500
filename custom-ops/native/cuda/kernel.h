// What the kernels of the CUDA execution provider share in their dealings with ONNX Runtime: its stream, its memory,
// and CUDA's errors.
#pragma once

#include <cuda_runtime.h>

#include <memory>

#include "../kernel.h"

namespace onnxrewrite {

inline void checkCuda(cudaError_t status) {
  if (status != cudaSuccess) throw ort::Error(ort::kFail, std::string("CUDA: ") + cudaGetErrorString(status));
}

// The stream that a run's kernels are enqueued on.
inline cudaStream_t computeStream(const RunContext& run) {
  void* stream = nullptr;
  ort::check(run.api, run.api.KernelContext_GetGPUComputeStream(run.context, &stream));
  return static_cast<cudaStream_t>(stream);
}

// Device memory from the session's arena, for kernels enqueued on the run's stream while this lives. The arena knows
// the stream: what is given back here goes to later work of the same stream, or to others once they wait for it.
class DeviceScratch {
 public:
  DeviceScratch(const RunContext& run, size_t bytes) : api_(run.api) {
    int device;
    checkCuda(cudaGetDevice(&device));
    ort::MemoryInfo* created;
    ort::check(api_, api_.CreateMemoryInfo("Cuda", ort::kArenaAllocator, device, ort::kMemoryDefault, &created));
    const std::unique_ptr<ort::MemoryInfo, void (*)(ort::MemoryInfo*)> info(created, api_.ReleaseMemoryInfo);
    ort::check(api_, api_.KernelContext_GetAllocator(run.context, info.get(), &allocator_));
    ort::Status* status = api_.KernelContext_GetScratchBuffer(run.context, info.get(), bytes, &data_);
    if (status) api_.ReleaseAllocator(allocator_);
    ort::check(api_, status);
  }
  ~DeviceScratch() {
    if (data_) {
      if (ort::Status* status = api_.AllocatorFree(allocator_, data_)) api_.ReleaseStatus(status);
    }
    api_.ReleaseAllocator(allocator_);
  }
  DeviceScratch(const DeviceScratch&) = delete;
  DeviceScratch& operator=(const DeviceScratch&) = delete;

  void* data() const { return data_; }

 private:
  const ort::Api& api_;
  ort::Allocator* allocator_ = nullptr;
  void* data_ = nullptr;
};

}  // namespace onnxrewrite
