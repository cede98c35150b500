// What CPU and CUDA kernels share in their dealings with ONNX Runtime: attributes, tensors, the thread pool,
// scratch memory, and the table of functions that makes a class an operator.
#pragma once

#include <algorithm>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "memory.h"
#include "operators.h"
#include "ort_error.h"
#include "parallel.h"

namespace onnxrewrite {

[[noreturn]] inline void refuse(const char* op, const std::string& message) {
  throw ort::Error(ort::kInvalidArgument, std::string(op) + ": " + message);
}

// The value of an attribute that is a size, of at least 1.
inline size_t sizeAttribute(const char* op, const char* name, int64_t value) {
  if (value < 1 || value > INT32_MAX) refuse(op, std::string(name) + " holds " + std::to_string(value));
  return static_cast<size_t>(value);
}

// A size as ONNX Runtime has it in shapes.
inline int64_t dim(size_t size) { return static_cast<int64_t>(size); }

struct TensorView {
  ort::ElementType type;
  std::vector<int64_t> dims;
  void* data;

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

inline TensorView viewOf(const ort::Api& api, const ort::Value* value) {
  TensorView view{ort::kUndefined, {}, nullptr};
  ort::TensorTypeAndShapeInfo* info;
  ort::check(api, api.GetTensorTypeAndShape(value, &info));
  size_t rank = 0;
  ort::Status* status = api.GetDimensionsCount(info, &rank);
  view.dims.resize(rank);
  if (!status) status = api.GetDimensions(info, view.dims.data(), rank);
  if (!status) status = api.GetTensorElementType(info, &view.type);
  api.ReleaseTensorTypeAndShapeInfo(info);
  ort::check(api, status);
  ort::check(api, api.GetTensorMutableData(const_cast<ort::Value*>(value), &view.data));
  return view;
}

// Attributes and constant inputs of the node that a kernel is made for.
class NodeAttributes {
 public:
  NodeAttributes(const ort::Api& api, const ort::KernelInfo* info) : api_(api), info_(info) {}

  std::optional<int64_t> integer(const char* name) const {
    int64_t value;
    if (!found(api_.KernelInfoGetAttribute_int64(info_, name, &value))) return std::nullopt;
    return value;
  }
  std::optional<float> real(const char* name) const {
    float value;
    if (!found(api_.KernelInfoGetAttribute_float(info_, name, &value))) return std::nullopt;
    return value;
  }
  std::optional<std::string> text(const char* name) const {
    size_t size = 0;
    if (!found(api_.KernelInfoGetAttribute_string(info_, name, nullptr, &size))) return std::nullopt;
    std::string value(size, '\0');
    ort::check(api_, api_.KernelInfoGetAttribute_string(info_, name, value.data(), &size));
    value.resize(value.find('\0') == std::string::npos ? value.size() : value.find('\0'));
    return value;
  }
  std::optional<std::vector<int64_t>> integers(const char* name) const {
    size_t size = 0;
    if (!found(api_.KernelInfoGetAttributeArray_int64(info_, name, nullptr, &size))) return std::nullopt;
    std::vector<int64_t> values(size);
    ort::check(api_, api_.KernelInfoGetAttributeArray_int64(info_, name, values.data(), &size));
    return values;
  }
  std::optional<std::vector<float>> reals(const char* name) const {
    size_t size = 0;
    if (!found(api_.KernelInfoGetAttributeArray_float(info_, name, nullptr, &size))) return std::nullopt;
    std::vector<float> values(size);
    ort::check(api_, api_.KernelInfoGetAttributeArray_float(info_, name, values.data(), &size));
    return values;
  }
  // Whether the node gives an optional input.
  bool connects(size_t index) const {
    size_t inputs = 0, bytes = 0;
    ort::check(api_, api_.KernelInfo_GetInputCount(info_, &inputs));
    if (index >= inputs) return false;
    ort::check(api_, api_.KernelInfo_GetInputName(info_, index, nullptr, &bytes));
    return bytes > sizeof('\0');
  }
  // An input that is the same in every run, valid as long as the kernel is being made; nothing for other inputs.
  std::optional<TensorView> constant(size_t index) const {
    int isConstant = 0;
    const ort::Value* value = nullptr;
    if (!found(api_.KernelInfoGetConstantInput_tensor(info_, index, &isConstant, &value))) return std::nullopt;
    if (!isConstant || !value) return std::nullopt;
    return viewOf(api_, value);
  }

 private:
  bool found(ort::Status* status) const {
    if (status) api_.ReleaseStatus(status);
    return !status;
  }

  const ort::Api& api_;
  const ort::KernelInfo* const info_;
};

// Inputs and outputs of one run.
class RunContext {
 public:
  RunContext(const ort::Api& api, ort::KernelContext* context) : api(api), context(context) {
    ort::check(api, api.KernelContext_GetInputCount(context, &inputs_));
    ort::check(api, api.KernelContext_GetOutputCount(context, &outputs_));
  }

  const ort::Api& api;
  ort::KernelContext* const context;

  // Nothing for an optional input that the node does not connect.
  std::optional<TensorView> input(size_t index) const {
    const ort::Value* value = nullptr;
    if (index < inputs_) ort::check(api, api.KernelContext_GetInput(context, index, &value));
    if (!value) return std::nullopt;
    return viewOf(api, value);
  }

  // Null for an optional output that the node does not connect.
  void* output(size_t index, const std::vector<int64_t>& dims) const {
    if (index >= outputs_) return nullptr;
    ort::Value* value = nullptr;
    ort::check(api, api.KernelContext_GetOutput(context, index, dims.data(), dims.size(), &value));
    void* data = nullptr;
    if (value) ort::check(api, api.GetTensorMutableData(value, &data));
    return data;
  }

 private:
  size_t inputs_ = 0, outputs_ = 0;
};

// The session's intra-operator threads.
class SessionThreads : public Parallel {
 public:
  explicit SessionThreads(const RunContext& run) : run_(run) {}

 private:
  void start(size_t count, void (*run)(void*, size_t), void* state) override {
    ort::check(run_.api, run_.api.KernelContext_ParallelFor(run_.context, run, count, 0, state));
  }

  const RunContext& run_;
};

// Names the CPU memory arena of a session, for the runs of a kernel.
class CpuArena {
 public:
  explicit CpuArena(const ort::Api& api) : api_(api) {
    ort::check(api_, api_.CreateCpuMemoryInfo(ort::kArenaAllocator, ort::kMemoryDefault, &info_));
  }
  ~CpuArena() { api_.ReleaseMemoryInfo(info_); }
  CpuArena(const CpuArena&) = delete;
  CpuArena& operator=(const CpuArena&) = delete;

  const ort::MemoryInfo* info() const { return info_; }

 private:
  const ort::Api& api_;
  ort::MemoryInfo* info_ = nullptr;
};

// The session's CPU memory arena.
class SessionMemory : public Allocator {
 public:
  SessionMemory(const RunContext& run, const CpuArena& arena) : api_(run.api) {
    ort::check(api_, api_.KernelContext_GetAllocator(run.context, arena.info(), &allocator_));
  }
  ~SessionMemory() override { api_.ReleaseAllocator(allocator_); }
  SessionMemory(const SessionMemory&) = delete;
  SessionMemory& operator=(const SessionMemory&) = delete;

#if defined(__SANITIZE_ADDRESS__)
  // AddressSanitizer does not see where blocks of an arena end.
  void* allocate(size_t bytes) override { return heap_.allocate(bytes); }
  void release(void* memory) noexcept override { heap_.release(memory); }
#else
  void* allocate(size_t bytes) override {
    void* memory = nullptr;
    ort::Status* status = api_.AllocatorAlloc(allocator_, std::max<size_t>(bytes, 1), &memory);
    if (status) api_.ReleaseStatus(status);
    if (status || !memory) throw std::bad_alloc();
    return memory;
  }
  void release(void* memory) noexcept override {
    if (ort::Status* status = api_.AllocatorFree(allocator_, memory)) api_.ReleaseStatus(status);
  }
#endif

 private:
#if defined(__SANITIZE_ADDRESS__)
  HeapMemory heap_;
#endif
  const ort::Api& api_;
  ort::Allocator* allocator_ = nullptr;
};

// One input or output of an operator.
struct Port {
  ort::ElementType type;
  ort::Characteristic characteristic;
};
using Ports = std::vector<Port>;

// An OrtCustomOp whose kernels are objects of class Kernel: Kernel(const ort::Api&, const NodeAttributes&,
// const Operator&), run(const RunContext&). Static storage only.
template <class Kernel>
struct Operator : ort::CustomOp {
  Operator(const char* name, const char* executionProvider, Ports inputs, Ports outputs)
      : ort::CustomOp{},
        name(name),
        executionProvider(executionProvider),
        inputs(std::move(inputs)),
        outputs(std::move(outputs)) {
    using Self = const ort::CustomOp*;
    version = ort::kApiVersion;
    GetName = [](Self op) { return self(op).name; };
    GetExecutionProviderType = [](Self op) { return self(op).executionProvider; };
    GetInputTypeCount = [](Self op) { return self(op).inputs.size(); };
    GetInputType = [](Self op, size_t index) { return self(op).inputs[index].type; };
    GetInputCharacteristic = [](Self op, size_t index) { return self(op).inputs[index].characteristic; };
    GetInputMemoryType = [](Self, size_t) { return ort::kMemoryDefault; };
    GetOutputTypeCount = [](Self op) { return self(op).outputs.size(); };
    GetOutputType = [](Self op, size_t index) { return self(op).outputs[index].type; };
    GetOutputCharacteristic = [](Self op, size_t index) { return self(op).outputs[index].characteristic; };
    GetVariadicInputMinArity = GetVariadicOutputMinArity = [](Self) { return 1; };
    GetVariadicInputHomogeneity = GetVariadicOutputHomogeneity = [](Self) { return 1; };
    GetStartVersion = [](Self) { return 1; };
    GetEndVersion = [](Self) { return 1; };
    CreateKernelV2 = [](Self op, const void* table, const ort::KernelInfo* info, void** kernel) {
      const ort::Api api(table);
      return ort::guarded(api, [&] { *kernel = new Instance(api, info, self(op)); });
    };
    KernelComputeV2 = [](void* kernel, ort::KernelContext* context) {
      auto& instance = *static_cast<Instance*>(kernel);
      return ort::guarded(instance.api, [&] { instance.kernel.run(RunContext(instance.api, context)); });
    };
    KernelDestroy = [](void* kernel) { delete static_cast<Instance*>(kernel); };
  }

  const char* const name;
  const char* const executionProvider;
  const Ports inputs, outputs;

 private:
  struct Instance {
    Instance(const ort::Api& api, const ort::KernelInfo* info, const Operator& op)
        : api(api), kernel(this->api, NodeAttributes(this->api, info), op) {}
    const ort::Api api;
    Kernel kernel;
  };

  static const Operator& self(const ort::CustomOp* op) { return *static_cast<const Operator*>(op); }
};

}  // namespace onnxrewrite
