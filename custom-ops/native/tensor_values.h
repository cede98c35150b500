// Tensors of ONNX Runtime outside of kernels: who owns them, what type and shape they have, how many bytes.
#pragma once

#include "ort_runtime.h"

namespace onnxrewrite {

using ValueOwner = std::unique_ptr<ort::Value, void (*)(ort::Value*)>;
inline ValueOwner own(ort::Value* value) { return {value, OrtRuntime::get().api.ReleaseValue}; }

using SharedValue = std::shared_ptr<ort::Value>;

inline size_t bitsOf(ort::ElementType type) {
  switch (type) {
    case ort::kUint4:
    case ort::kInt4:
      return 4;
    case ort::kUint8:
    case ort::kInt8:
    case ort::kBool:
      return 8;
    case ort::kUint16:
    case ort::kInt16:
    case ort::kFloat16:
      return 16;
    case ort::kFloat:
    case ort::kInt32:
    case ort::kUint32:
      return 32;
    case ort::kInt64:
    case ort::kDouble:
    case ort::kUint64:
      return 64;
    default:
      throw std::runtime_error("tensors of element type " + std::to_string(type) + " are not supported");
  }
}

inline size_t countOf(const std::vector<int64_t>& dims) {
  size_t count = 1;
  for (const int64_t dim : dims) count *= static_cast<size_t>(dim);
  return count;
}

inline size_t sizeOf(ort::ElementType type, size_t count) { return (count * bitsOf(type) + 7) / 8; }

struct TensorType {
  ort::ElementType element;
  std::vector<int64_t> dims;

  size_t bytes() const { return sizeOf(element, countOf(dims)); }
  bool operator==(const TensorType& other) const { return element == other.element && dims == other.dims; }
};

inline TensorType typeOf(const ort::Value* value) {
  const ort::Api& api = OrtRuntime::get().api;
  ort::TensorTypeAndShapeInfo* info;
  ort::check(api, api.GetTensorTypeAndShape(value, &info));
  const std::unique_ptr<ort::TensorTypeAndShapeInfo, void (*)(ort::TensorTypeAndShapeInfo*)> owner(
      info, api.ReleaseTensorTypeAndShapeInfo);
  TensorType type{ort::kUndefined, {}};
  size_t rank;
  ort::check(api, api.GetTensorElementType(info, &type.element));
  ort::check(api, api.GetDimensionsCount(info, &rank));
  type.dims.resize(rank);
  ort::check(api, api.GetDimensions(info, type.dims.data(), rank));
  return type;
}

// An uninitialized tensor in main memory.
inline SharedValue hostTensor(const TensorType& type) {
  const ort::Api& api = OrtRuntime::get().api;
  ort::Allocator* allocator;
  ort::check(api, api.GetAllocatorWithDefaultOptions(&allocator));
  ort::Value* value;
  ort::check(api, api.CreateTensorAsOrtValue(allocator, type.dims.data(), type.dims.size(), type.element, &value));
  return own(value);
}

inline void* dataOf(const ort::Value* value) {
  const ort::Api& api = OrtRuntime::get().api;
  void* data;
  ort::check(api, api.GetTensorMutableData(const_cast<ort::Value*>(value), &data));
  return data;
}

}  // namespace onnxrewrite
