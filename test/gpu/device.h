// What the programs that run cases on a GPU share: device memory, tensors of results, and the loop over a case file.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "case-file.h"

namespace onnxrewrite::test {

constexpr uint32_t kFloat = 1, kInt32 = 6, kFloat16 = 10, kBfloat16 = 16;

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

/** Device memory, poisoned with 0xff: a NaN of every floating-point type. */
template <class V>
class Device {
 public:
  explicit Device(size_t count) : count_(count) {
    check(cudaMalloc(reinterpret_cast<void**>(&data_), count * sizeof(V) + 256), "cudaMalloc");
    poison();
  }
  explicit Device(const Tensor& tensor) : Device(tensor.data.size() / sizeof(V)) {
    check(cudaMemcpy(data_, tensor.data.data(), tensor.data.size(), cudaMemcpyHostToDevice), "copy in");
  }
  Device(const Device&) = delete;
  ~Device() { cudaFree(data_); }
  void poison() { check(cudaMemset(data_, 0xff, count_ * sizeof(V) + 256), "cudaMemset"); }
  V* get() const { return data_; }
  V* getIfAny() const { return count_ ? data_ : nullptr; }
  std::vector<V> read() const { return copy(data_, count_); }
  static std::vector<V> copy(const V* from, size_t count) {
    std::vector<V> values(count);
    check(cudaMemcpy(values.data(), from, count * sizeof(V), cudaMemcpyDeviceToHost), "copy out");
    return values;
  }

 private:
  size_t count_;
  V* data_ = nullptr;
};

template <class V>
Tensor tensorOf(uint32_t type, const std::vector<V>& values) {
  Tensor tensor{type, {static_cast<int64_t>(values.size())}, {}};
  tensor.data.resize(values.size() * sizeof(V));
  if (!values.empty()) std::memcpy(tensor.data.data(), values.data(), tensor.data.size());
  return tensor;
}

/** Floating-point numbers of any type as float32. */
template <class V>
Tensor floatsOf(const std::vector<V>& values) {
  return tensorOf(kFloat, std::vector<float>(values.begin(), values.end()));
}

/** Outputs of a kernel that have to be the same bytes whenever it runs. */
class Repeated {
 public:
  explicit Repeated(const std::string& name) : name_(name) {}

  template <class V>
  void add(const Device<V>& output) {
    const std::vector<V> values = output.read();
    const auto* data = reinterpret_cast<const uint8_t*>(values.data());
    now_.insert(now_.end(), data, data + values.size() * sizeof(V));
  }
  /** Ends a run. */
  void compare() {
    if (runs_++ > 0 && now_ != before_) throw std::runtime_error(name_ + ": two runs differ");
    before_ = std::move(now_);
    now_.clear();
  }

 private:
  const std::string name_;
  std::vector<uint8_t> before_, now_;
  int runs_ = 0;
};

/** Runs kernels twice on poisoned `outputs`, which have to get the same bytes both times; `run` gives a cudaError_t. */
template <class Run, class... Outputs>
void runTwice(const std::string& name, const Run& run, Outputs&... outputs) {
  Repeated repeated(name);
  for (int repeat = 0; repeat < 2; repeat++) {
    (outputs.poison(), ...);
    check(run(), "run");
    check(cudaDeviceSynchronize(), "synchronize");
    (repeated.add(outputs), ...);
    repeated.compare();
  }
}

/** Dimension of a tensor of the case; 0 when it has none of that name, or an empty one. */
inline size_t dimensionOf(const CaseRecord& record, const char* name, size_t axis) {
  const auto found = record.tensors.find(name);
  return found == record.tensors.end() || found->second.dims.empty() ? 0 : static_cast<size_t>(found->second.dims.at(axis));
}

/** Calls visit(tag of the element type) for that of an input of the case. */
template <class Visit>
void withType(const CaseRecord& record, Visit visit, const char* input = "query") {
  const uint32_t type = record.tensors.at(input).type;
  if (type == kFloat)
    visit(float{});
  else if (type == kFloat16)
    visit(__half{});
  else if (type == kBfloat16)
    visit(__nv_bfloat16{});
  else
    throw std::runtime_error(record.name + ": unknown type");
}

/** Runs the cases of the file argv[1] and writes results to argv[2]; the exit status. */
template <class RunCase>
int runCases(int argc, char** argv, const char* usage, RunCase runCase) {
  try {
    if (argc < 3) throw std::runtime_error(usage);
    CaseReader cases(argv[1]);
    CaseWriter results(argv[2]);
    CaseRecord record;
    while (cases.next(record)) {
      std::fprintf(stderr, "%s\n", record.name.c_str());
      CaseRecord result;
      result.name = record.name;
      runCase(record, result);
      results.add(result);
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

}  // namespace onnxrewrite::test
