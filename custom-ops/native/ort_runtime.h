// The process's ONNX Runtime as the session addon uses it: the library that onnxruntime-node ships, which
// hands out one environment for both.
#pragma once

#include <dlfcn.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cuda/device-memory.h"
#include "operators.h"
#include "ort_error.h"

namespace onnxrewrite {

class OrtRuntime {
 public:
  // Loads the library on the first call; later calls return the same runtime.
  static OrtRuntime& load(const std::string& library) {
    static std::mutex loading;
    const std::lock_guard<std::mutex> lock(loading);
    if (!instance_) instance_.reset(new OrtRuntime(library));
    return *instance_;
  }
  static OrtRuntime& get() {
    if (!instance_) throw std::runtime_error("ONNX Runtime is not loaded");
    return *instance_;
  }

  const ort::Api api;
  const std::string version;
  ort::Env* env = nullptr;
  ort::MemoryInfo* cpu = nullptr;
  // Of the library of CUDA operators; null until that is loaded.
  const DeviceMemory* deviceMemory = nullptr;

  // Operators of a library, by path; loaded once.
  std::vector<const ort::CustomOp*> operatorsOf(const std::string& path) {
    void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!handle) throw std::runtime_error(dlerror());
    const auto list = reinterpret_cast<ListOperators>(dlsym(handle, "OnnxRewriteOperators"));
    if (!list) throw std::runtime_error(path + " is not a library of operators");
    if (void* get = dlsym(handle, "OnnxRewriteDeviceMemory")) deviceMemory = reinterpret_cast<GetDeviceMemory>(get)();
    size_t count;
    const ort::CustomOp* const* ops = list(&count);
    return {ops, ops + count};
  }

 private:
  explicit OrtRuntime(const std::string& library) : OrtRuntime(baseOf(library)) {}

  explicit OrtRuntime(const ort::ApiBase* base) : api(tableOf(base)), version(base->GetVersionString()) {
    constexpr int32_t kWarning = 2;
    ort::check(api, api.CreateEnv(kWarning, "onnx-rewrite", &env));
    ort::check(api, api.CreateCpuMemoryInfo(ort::kArenaAllocator, ort::kMemoryDefault, &cpu));
  }

  static const ort::ApiBase* baseOf(const std::string& library) {
    void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!handle) throw std::runtime_error(dlerror());
    using GetBase = const ort::ApiBase* (*)();
    const auto getBase = reinterpret_cast<GetBase>(dlsym(handle, "OrtGetApiBase"));
    if (!getBase) throw std::runtime_error(library + " is not ONNX Runtime");
    return getBase();
  }

  static const void* tableOf(const ort::ApiBase* base) {
    const void* table = base->GetApi(ort::kApiVersion);
    if (!table) throw std::runtime_error(std::string("ONNX Runtime ") + base->GetVersionString() + " is too old");
    return table;
  }

  static inline std::unique_ptr<OrtRuntime> instance_;
};

class GraphRuns;

// A model ready to run, with the domain of its custom operators.
class OrtSession {
 public:
  OrtSession() = default;
  ~OrtSession() {
    const ort::Api& api = OrtRuntime::get().api;
    graphs.reset();
    if (session) api.ReleaseSession(session);
    if (domain) api.ReleaseCustomOpDomain(domain);
  }
  OrtSession(const OrtSession&) = delete;
  OrtSession& operator=(const OrtSession&) = delete;

  ort::Session* session = nullptr;
  ort::CustomOpDomain* domain = nullptr;
  std::vector<std::string> inputs, outputs;
  // Where the CUDA provider captures runs as graphs.
  std::shared_ptr<GraphRuns> graphs;
  // Whether the last asynchronous run took next to no time.
  std::atomic<bool> isQuick{false};
};

}  // namespace onnxrewrite
