// What the kernels of the CUDA execution provider share in their dealings with ONNX Runtime: its stream, its memory,
// its element types, and CUDA's errors.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <memory>

#include "../kernel.h"
#include "../operators.h"

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

// An operator for float32, float16 and bfloat16, registered while this lives: static storage only. Its kernel is
// Kernel(const NodeAttributes&) with a template run<T>(const RunContext&) const; `inputs` and `outputs` tell the ports of an
// element type, which is that of input 0.
template <class Kernel>
class CudaOperator {
 public:
  using PortsOf = Ports (*)(ort::ElementType);

  CudaOperator(const char* name, PortsOf inputs, PortsOf outputs)
      : operators_{{name, kProvider, inputs(ort::kFloat), outputs(ort::kFloat)},
                   {name, kProvider, inputs(ort::kFloat16), outputs(ort::kFloat16)},
                   {name, kProvider, inputs(ort::kBfloat16), outputs(ort::kBfloat16)}} {}

 private:
  static constexpr const char* kProvider = "CUDAExecutionProvider";

  class Typed {
   public:
    Typed(const ort::Api&, const NodeAttributes& attributes, const Operator<Typed>& op)
        : kernel_(attributes), type_(op.inputs[0].type) {}

    void run(const RunContext& context) const {
      if (type_ == ort::kFloat) return kernel_.template run<float>(context);
      if (type_ == ort::kFloat16) return kernel_.template run<__half>(context);
      kernel_.template run<__nv_bfloat16>(context);
    }

   private:
    const Kernel kernel_;
    const ort::ElementType type_;
  };

  const Operator<Typed> operators_[3];
  const Registration registrations_[3] = {Registration(operators_[0]), Registration(operators_[1]),
                                          Registration(operators_[2])};
};

}  // namespace onnxrewrite
