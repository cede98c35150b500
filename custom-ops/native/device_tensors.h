// Tensors in GPU memory that JavaScript holds: made by runs whose outputs stay there, or copied there.
#pragma once

#include "napi_values.h"
#include "tensor_values.h"

namespace onnxrewrite {

using MemoryInfoOwner = std::unique_ptr<ort::MemoryInfo, void (*)(ort::MemoryInfo*)>;

inline MemoryInfoOwner cudaMemory(int device) {
  const ort::Api& api = OrtRuntime::get().api;
  ort::MemoryInfo* info;
  ort::check(api, api.CreateMemoryInfo("Cuda", ort::kArenaAllocator, device, ort::kMemoryDefault, &info));
  return {info, api.ReleaseMemoryInfo};
}

// What the library of CUDA operators does with device memory.
inline const DeviceMemory& deviceMemory() {
  const DeviceMemory* memory = OrtRuntime::get().deviceMemory;
  if (!memory) throw std::runtime_error("no build of the CUDA operators: npm run build:cuda makes one");
  return *memory;
}

inline void checkDevice(const char* failure) {
  if (failure) throw std::runtime_error(std::string("CUDA: ") + failure);
}

// Copies between host and device, or within a device, and waits for it.
inline void copyTensor(void* to, const void* from, size_t bytes) { checkDevice(deviceMemory().copy(to, from, bytes)); }

// An uninitialized tensor on a GPU. Its memory is not of a session's arena, where captured graphs go on using what
// has been given back.
inline SharedValue deviceTensor(int device, const TensorType& type) {
  const ort::Api& api = OrtRuntime::get().api;
  const size_t bytes = type.bytes();
  void* allocated;
  checkDevice(deviceMemory().allocate(device, bytes, &allocated));
  const std::shared_ptr<void> memory(allocated, [device](void* data) { deviceMemory().release(device, data); });
  ort::Value* value;
  ort::check(api, api.CreateTensorWithDataAsOrtValue(cudaMemory(device).get(), allocated, bytes, type.dims.data(),
                                                     type.dims.size(), type.element, &value));
  return {value, [memory](ort::Value* tensor) { OrtRuntime::get().api.ReleaseValue(tensor); }};
}

using BindingOwner = std::unique_ptr<ort::IoBinding, void (*)(ort::IoBinding*)>;

inline BindingOwner newBinding(ort::Session* session) {
  const ort::Api& api = OrtRuntime::get().api;
  ort::IoBinding* created;
  ort::check(api, api.CreateIoBinding(session, &created));
  return {created, api.ReleaseIoBinding};
}

// Outputs of a run, in the order in which they were bound.
inline std::vector<SharedValue> boundOutputs(const ort::IoBinding* binding) {
  const ort::Api& api = OrtRuntime::get().api;
  ort::Allocator* allocator;
  ort::check(api, api.GetAllocatorWithDefaultOptions(&allocator));
  ort::Value** values = nullptr;
  size_t count = 0;
  ort::check(api, api.GetBoundOutputValues(binding, allocator, &values, &count));
  std::vector<SharedValue> result;
  for (size_t n = 0; n < count; n++) result.push_back(own(values[n]));
  ort::check(api, api.AllocatorFree(allocator, values));
  return result;
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
