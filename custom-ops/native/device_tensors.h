// Tensors in GPU memory that JavaScript holds: made by runs whose outputs stay there, or copied there.
#pragma once

#include "cuda/copy.h"
#include "napi_values.h"
#include "ort_runtime.h"

namespace onnxrewrite {

using SharedValue = std::shared_ptr<ort::Value>;

using MemoryInfoOwner = std::unique_ptr<ort::MemoryInfo, void (*)(ort::MemoryInfo*)>;

inline MemoryInfoOwner cudaMemory(int device) {
  const ort::Api& api = OrtRuntime::get().api;
  ort::MemoryInfo* info;
  ort::check(api, api.CreateMemoryInfo("Cuda", ort::kArenaAllocator, device, ort::kMemoryDefault, &info));
  return {info, api.ReleaseMemoryInfo};
}

// An uninitialized tensor in the session's device memory, which outlives the session.
inline SharedValue deviceTensor(const OrtSession& session, int device, ort::ElementType type,
                                const std::vector<int64_t>& dims) {
  const ort::Api& api = OrtRuntime::get().api;
  ort::Allocator* created;
  ort::check(api, api.CreateAllocator(session.session, cudaMemory(device).get(), &created));
  const std::shared_ptr<ort::Allocator> allocator(created, api.ReleaseAllocator);
  ort::Value* value;
  ort::check(api, api.CreateTensorAsOrtValue(created, dims.data(), dims.size(), type, &value));
  return {value, [allocator](ort::Value* tensor) { OrtRuntime::get().api.ReleaseValue(tensor); }};
}

inline void* dataOf(const SharedValue& value) {
  const ort::Api& api = OrtRuntime::get().api;
  void* data;
  ort::check(api, api.GetTensorMutableData(value.get(), &data));
  return data;
}

// Copies between host and device and waits for it, with the library of CUDA operators.
inline void copyDeviceMemory(void* to, const void* from, size_t bytes) {
  const CopyDeviceMemory copy = OrtRuntime::get().copyDeviceMemory;
  if (!copy) throw std::runtime_error("no build of the CUDA operators: npm run build:cuda makes one");
  if (const char* failure = copy(to, from, bytes)) throw std::runtime_error(std::string("CUDA: ") + failure);
}

namespace js {

inline napi_value newHandle(napi_env env, SharedValue value) {
  auto holder = std::make_unique<SharedValue>(std::move(value));
  napi_value external;
  check(env, napi_create_external(env, holder.get(),
                                  [](napi_env, void* data, void*) { delete static_cast<SharedValue*>(data); }, nullptr,
                                  &external));
  holder.release();
  return external;
}

inline SharedValue& heldValue(napi_env env, napi_value external) {
  void* data;
  check(env, napi_get_value_external(env, external, &data));
  return *static_cast<SharedValue*>(data);
}

inline SharedValue deviceValueOf(napi_env env, napi_value external) {
  const SharedValue& value = heldValue(env, external);
  if (!value) throw std::runtime_error("the GPU tensor has been disposed");
  return value;
}

}  // namespace js
}  // namespace onnxrewrite
