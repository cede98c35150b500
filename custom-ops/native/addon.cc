// Inference sessions for Node on the ONNX Runtime that onnxruntime-node ships, with our operators registered.
// runtime/node/binding.ts describes what is exported.
#include "graph_runs.h"

#include <atomic>
#include <chrono>
#include <algorithm>
#include <cstring>

namespace onnxrewrite {
namespace {

using js::check;
using Strings = std::vector<std::string>;

// ---- sessions ----

struct SessionOptionsOwner {
  ort::SessionOptions* options = nullptr;
  SessionOptionsOwner() { ort::check(OrtRuntime::get().api, OrtRuntime::get().api.CreateSessionOptions(&options)); }
  ~SessionOptionsOwner() { OrtRuntime::get().api.ReleaseSessionOptions(options); }
  SessionOptionsOwner(const SessionOptionsOwner&) = delete;
};

std::vector<const char*> pointers(const Strings& strings) {
  std::vector<const char*> result;
  for (const std::string& text : strings) result.push_back(text.c_str());
  return result;
}

struct Pairs {
  Strings keys, values;
};

// [key, value, key, value, ...]
Pairs readPairs(napi_env env, napi_value array) {
  Pairs pairs;
  for (size_t n = 0; n + 1 < js::length(env, array); n += 2) {
    pairs.keys.push_back(js::toString(env, js::element(env, array, n)));
    pairs.values.push_back(js::toString(env, js::element(env, array, n + 1)));
  }
  return pairs;
}

void appendProvider(napi_env env, napi_value provider, ort::SessionOptions* options) {
  const ort::Api& api = OrtRuntime::get().api;
  const std::string name = js::toString(env, *js::property(env, provider, "name"));
  const Pairs settings = readPairs(env, *js::property(env, provider, "settings"));
  const std::vector<const char*> keys = pointers(settings.keys), values = pointers(settings.values);
  if (name != "CUDA") {
    ort::check(api, api.SessionOptionsAppendExecutionProvider(options, name.c_str(), keys.data(), values.data(),
                                                             keys.size()));
    return;
  }
  ort::CudaProviderOptions* cuda;
  ort::check(api, api.CreateCUDAProviderOptions(&cuda));
  ort::Status* status = api.UpdateCUDAProviderOptions(cuda, keys.data(), values.data(), keys.size());
  if (!status) status = api.SessionOptionsAppendExecutionProvider_CUDA_V2(options, cuda);
  api.ReleaseCUDAProviderOptions(cuda);
  ort::check(api, status);
}

void applyOptions(napi_env env, napi_value source, ort::SessionOptions* options) {
  const ort::Api& api = OrtRuntime::get().api;
  const auto number = [&](const char* name, const auto& set) {
    if (const auto value = js::property(env, source, name)) {
      ort::check(api, set(options, static_cast<int>(js::toNumber(env, *value))));
    }
  };
  const auto text = [&](const char* name, const auto& set) {
    if (const auto value = js::property(env, source, name)) {
      ort::check(api, set(options, js::toString(env, *value).c_str()));
    }
  };
  const auto flag = [&](const char* name, const auto& set) {
    if (js::property(env, source, name)) ort::check(api, set(options));
  };
  number("intraOpNumThreads", api.SetIntraOpNumThreads);
  number("interOpNumThreads", api.SetInterOpNumThreads);
  number("graphOptimizationLevel", api.SetSessionGraphOptimizationLevel);
  number("executionMode", api.SetSessionExecutionMode);
  number("logSeverityLevel", api.SetSessionLogSeverityLevel);
  number("logVerbosityLevel", api.SetSessionLogVerbosityLevel);
  text("logId", api.SetSessionLogId);
  text("optimizedModelFilePath", api.SetOptimizedModelFilePath);
  text("profileFilePrefix", api.EnableProfiling);
  flag("disableCpuMemArena", api.DisableCpuMemArena);
  flag("disableMemPattern", api.DisableMemPattern);
  if (const auto overrides = js::property(env, source, "freeDimensions")) {
    for (size_t n = 0; n + 1 < js::length(env, *overrides); n += 2) {
      const std::string name = js::toString(env, js::element(env, *overrides, n));
      const auto value = static_cast<int64_t>(js::toNumber(env, js::element(env, *overrides, n + 1)));
      ort::check(api, api.AddFreeDimensionOverrideByName(options, name.c_str(), value));
    }
  }
  if (const auto config = js::property(env, source, "config")) {
    const Pairs entries = readPairs(env, *config);
    for (size_t n = 0; n < entries.keys.size(); n++) {
      ort::check(api, api.AddSessionConfigEntry(options, entries.keys[n].c_str(), entries.values[n].c_str()));
    }
  }
  if (const auto providers = js::property(env, source, "providers")) {
    for (size_t n = 0; n < js::length(env, *providers); n++) {
      appendProvider(env, js::element(env, *providers, n), options);
    }
  }
}

// [path, Uint8Array, path, Uint8Array, ...]
void applyExternalData(napi_env env, napi_value list, ort::SessionOptions* options, js::References& keep) {
  const ort::Api& api = OrtRuntime::get().api;
  Strings paths;
  std::vector<char*> buffers;
  std::vector<size_t> sizes;
  for (size_t n = 0; n + 1 < js::length(env, list); n += 2) {
    const napi_value data = js::element(env, list, n + 1);
    const js::Bytes bytes = js::bytesOf(env, data);
    keep.keep(data);
    paths.push_back(js::toString(env, js::element(env, list, n)));
    buffers.push_back(static_cast<char*>(bytes.data));
    sizes.push_back(bytes.size);
  }
  if (paths.empty()) return;
  const std::vector<const char*> names = pointers(paths);
  ort::check(api, api.AddExternalInitializersFromFilesInMemory(options, names.data(), buffers.data(), sizes.data(),
                                                              names.size()));
}

void registerOperators(napi_env env, napi_value list, OrtSession& session, ort::SessionOptions* options) {
  const ort::Api& api = OrtRuntime::get().api;
  const size_t count = js::length(env, list);
  if (count == 0) return;
  ort::check(api, api.CreateCustomOpDomain(kDomain, &session.domain));
  for (size_t n = 0; n < count; n++) {
    void* op;
    check(env, napi_get_value_external(env, js::element(env, list, n), &op));
    ort::check(api, api.CustomOpDomain_Add(session.domain, static_cast<const ort::CustomOp*>(op)));
  }
  ort::check(api, api.AddCustomOpDomain(options, session.domain));
}

using NameOf = ort::Status* (*)(const ort::Session*, size_t, ort::Allocator*, char**);

Strings readNames(const ort::Session* session, size_t count, NameOf nameOf) {
  const ort::Api& api = OrtRuntime::get().api;
  ort::Allocator* allocator;
  ort::check(api, api.GetAllocatorWithDefaultOptions(&allocator));
  Strings names;
  for (size_t n = 0; n < count; n++) {
    char* name;
    ort::check(api, nameOf(session, n, allocator, &name));
    names.emplace_back(name);
    ort::check(api, api.AllocatorFree(allocator, name));
  }
  return names;
}

void readSignature(OrtSession& session) {
  const ort::Api& api = OrtRuntime::get().api;
  size_t inputs, outputs;
  ort::check(api, api.SessionGetInputCount(session.session, &inputs));
  ort::check(api, api.SessionGetOutputCount(session.session, &outputs));
  session.inputs = readNames(session.session, inputs, api.SessionGetInputName);
  session.outputs = readNames(session.session, outputs, api.SessionGetOutputName);
}

// { name, type, dims } of one input or output; type 0 where it is not a tensor.
napi_value describeValue(napi_env env, const std::string& name, ort::TypeInfo* info) {
  const ort::Api& api = OrtRuntime::get().api;
  const std::unique_ptr<ort::TypeInfo, void (*)(ort::TypeInfo*)> owner(info, api.ReleaseTypeInfo);
  const ort::TensorTypeAndShapeInfo* tensor;
  ort::check(api, api.CastTypeInfoToTensorInfo(info, &tensor));
  ort::ElementType type = ort::kUndefined;
  size_t rank = 0;
  if (tensor) {
    ort::check(api, api.GetTensorElementType(tensor, &type));
    ort::check(api, api.GetDimensionsCount(tensor, &rank));
  }
  std::vector<int64_t> dims(rank);
  std::vector<const char*> symbols(rank);
  if (rank > 0) {
    ort::check(api, api.GetDimensions(tensor, dims.data(), rank));
    ort::check(api, api.GetSymbolicDimensions(tensor, symbols.data(), rank));
  }
  const napi_value shape = js::newArray(env, rank);
  for (size_t n = 0; n < rank; n++) {
    js::setElement(env, shape, n,
                   dims[n] < 0 ? js::fromString(env, symbols[n]) : js::fromNumber(env, static_cast<double>(dims[n])));
  }
  return js::newObject(env, {{"name", js::fromString(env, name)}, {"type", js::fromNumber(env, type)}, {"shape", shape}});
}

using TypeOf = ort::Status* (*)(const ort::Session*, size_t, ort::TypeInfo**);

napi_value describeValues(napi_env env, const OrtSession& session, const Strings& names, TypeOf typeOf) {
  const napi_value list = js::newArray(env, names.size());
  for (size_t n = 0; n < names.size(); n++) {
    ort::TypeInfo* info;
    ort::check(OrtRuntime::get().api, typeOf(session.session, n, &info));
    js::setElement(env, list, n, describeValue(env, names[n], info));
  }
  return list;
}

// What a JavaScript session handle holds. Runs in flight share it, so a release waits for them.
struct Handle {
  std::shared_ptr<OrtSession> session;
  std::shared_ptr<js::References> keep;
};

std::shared_ptr<OrtSession> sessionOf(napi_env env, napi_value value) {
  void* data;
  check(env, napi_get_value_external(env, value, &data));
  const std::shared_ptr<OrtSession>& session = static_cast<Handle*>(data)->session;
  if (!session) throw std::runtime_error("the session has been released");
  return session;
}

napi_value errorOf(napi_env env, const std::string& message) {
  napi_value error;
  check(env, napi_create_error(env, nullptr, js::fromString(env, message), &error));
  return error;
}

// Work off the JavaScript thread behind a promise: `execute` elsewhere, `finish` back here for the result.
class Task {
 public:
  virtual ~Task() = default;

  static napi_value start(napi_env env, std::unique_ptr<Task> task, const char* name) {
    napi_value promise;
    check(env, napi_create_promise(env, &task->deferred_, &promise));
    check(env, napi_create_async_work(env, nullptr, js::fromString(env, name), &Task::onThread, &Task::onFinish,
                                      task.get(), &task->work_));
    check(env, napi_queue_async_work(env, task->work_));
    // It lives until onFinish(), which the event loop calls after this.
    Task& queued = *task.release();
    if (queued.endsSoon() && queued.waitShortly()) queued.settle(env);
    return promise;
  }

 protected:
  virtual void execute() = 0;
  virtual napi_value finish(napi_env env) = 0;
  // Whether it is worth a moment's wait to spare the event loop from being woken.
  virtual bool endsSoon() const { return false; }

 private:
  // What waking the event loop takes, more or less, and nothing that anybody would notice it to stand still.
  static constexpr std::chrono::microseconds kShortWait{60};

  static void onThread(napi_env, void* data) {
    auto* task = static_cast<Task*>(data);
    try {
      task->execute();
    } catch (const std::exception& error) {
      task->failure_ = error.what();
    }
    task->done_.store(true, std::memory_order_release);
  }

  static void onFinish(napi_env env, napi_status, void* data) {
    const std::unique_ptr<Task> task(static_cast<Task*>(data));
    js::guarded(env, [&]() -> napi_value {
      check(env, napi_delete_async_work(env, task->work_));
      task->settle(env);
      return nullptr;
    });
  }

  bool waitShortly() const {
    const auto end = std::chrono::steady_clock::now() + kShortWait;
    while (!done_.load(std::memory_order_acquire)) {
      if (std::chrono::steady_clock::now() > end) return false;
    }
    return true;
  }

  // Settles the promise, once.
  void settle(napi_env env) {
    if (std::exchange(settled_, true)) return;
    napi_value result = nullptr;
    if (!failure_) {
      try {
        result = finish(env);
      } catch (const std::exception& error) {
        failure_ = error.what();
      }
    }
    if (failure_) {
      check(env, napi_reject_deferred(env, deferred_, errorOf(env, *failure_)));
    } else {
      check(env, napi_resolve_deferred(env, deferred_, result));
    }
  }

  napi_deferred deferred_ = nullptr;
  napi_async_work work_ = nullptr;
  std::atomic<bool> done_{false};
  bool settled_ = false;
  std::optional<std::string> failure_;
};

class CreateTask : public Task {
 public:
  CreateTask(napi_env env, napi_value model, napi_value options, napi_value operators)
      : keep_(std::make_shared<js::References>(env)), session_(std::make_shared<OrtSession>()) {
    if (js::typeOf(env, model) == napi_string) {
      path_ = js::toString(env, model);
    } else {
      bytes_ = js::bytesOf(env, model);
      keep_->keep(model);
    }
    applyOptions(env, options, options_.options);
    if (const auto external = js::property(env, options, "externalData")) {
      applyExternalData(env, *external, options_.options, *keep_);
    }
    registerOperators(env, operators, *session_, options_.options);
    if (const auto device = js::property(env, options, "graphDevice")) {
      graphDevice_ = static_cast<int>(js::toNumber(env, *device));
    }
  }

 protected:
  void execute() override {
    const OrtRuntime& runtime = OrtRuntime::get();
    const ort::Api& api = runtime.api;
    ort::check(api, bytes_ ? api.CreateSessionFromArray(runtime.env, bytes_->data, bytes_->size, options_.options,
                                                       &session_->session)
                           : api.CreateSession(runtime.env, path_.c_str(), options_.options, &session_->session));
    readSignature(*session_);
    if (graphDevice_) session_->graphs = std::make_shared<GraphRuns>(session_->session, *graphDevice_);
  }

  napi_value finish(napi_env env) override {
    const ort::Api& api = OrtRuntime::get().api;
    const napi_value inputs = describeValues(env, *session_, session_->inputs, api.SessionGetInputTypeInfo);
    const napi_value outputs = describeValues(env, *session_, session_->outputs, api.SessionGetOutputTypeInfo);
    auto handle = std::make_unique<Handle>(Handle{session_, keep_});
    napi_value external;
    check(env, napi_create_external(env, handle.get(), [](napi_env, void* data, void*) { delete static_cast<Handle*>(data); },
                                    nullptr, &external));
    handle.release();
    return js::newObject(env, {{"handle", external}, {"inputs", inputs}, {"outputs", outputs}});
  }

 private:
  std::string path_;
  std::optional<js::Bytes> bytes_;
  SessionOptionsOwner options_;
  std::shared_ptr<js::References> keep_;
  std::shared_ptr<OrtSession> session_;
  // The GPU whose runs are captured as graphs.
  std::optional<int> graphDevice_;
};

// ---- runs ----

// A tensor over the memory of a typed array, or with the strings of an array.
ValueOwner wrapTensor(napi_env env, ort::ElementType type, const std::vector<int64_t>& dims, napi_value data) {
  const OrtRuntime& runtime = OrtRuntime::get();
  const ort::Api& api = runtime.api;
  const size_t count = countOf(dims);
  ort::Value* value = nullptr;
  if (type == ort::kString) {
    const auto strings = js::toVector<std::string>(env, data, [&](napi_value text) { return js::toString(env, text); });
    if (strings.size() != count) throw std::runtime_error("the number of strings does not fit the shape");
    ort::Allocator* allocator;
    ort::check(api, api.GetAllocatorWithDefaultOptions(&allocator));
    ort::check(api, api.CreateTensorAsOrtValue(allocator, dims.data(), dims.size(), type, &value));
    ValueOwner owner = own(value);
    ort::check(api, api.FillStringTensor(value, pointers(strings).data(), count));
    return owner;
  }
  const js::Bytes bytes = js::bytesOf(env, data);
  const size_t needed = sizeOf(type, count);
  if (bytes.size < needed) throw std::runtime_error("the data is shorter than the shape says");
  static char nothing[1];
  void* memory = bytes.data ? bytes.data : nothing;
  ort::check(api, api.CreateTensorWithDataAsOrtValue(runtime.cpu, memory, needed, dims.data(), dims.size(), type, &value));
  return own(value);
}

napi_value readStrings(napi_env env, const ort::Value* value, size_t count) {
  const ort::Api& api = OrtRuntime::get().api;
  size_t size;
  ort::check(api, api.GetStringTensorDataLength(value, &size));
  std::string content(size, '\0');
  std::vector<size_t> offsets(count + 1, size);
  ort::check(api, api.GetStringTensorContent(value, content.data(), size, offsets.data(), count));
  const napi_value strings = js::newArray(env, count);
  for (size_t n = 0; n < count; n++) {
    js::setElement(env, strings, n, js::fromString(env, content.substr(offsets[n], offsets[n + 1] - offsets[n])));
  }
  return strings;
}

void releaseOutput(napi_env, void*, void* value) { delete static_cast<SharedValue*>(value); }

// An ArrayBuffer over the memory of a tensor, which it then owns; a copy where external memory is refused.
napi_value bufferOf(napi_env env, SharedValue value, size_t bytes) {
  void* data = dataOf(value.get());
  auto holder = std::make_unique<SharedValue>(std::move(value));
  napi_value buffer;
  if (bytes > 0 && napi_create_external_arraybuffer(env, data, bytes, releaseOutput, holder.get(), &buffer) == napi_ok) {
    holder.release();
    return buffer;
  }
  void* copy;
  check(env, napi_create_arraybuffer(env, bytes, &copy, &buffer));
  if (bytes > 0) std::memcpy(copy, data, bytes);
  return buffer;
}

enum class Place { host, device };

// [type, dims, and an ArrayBuffer, an array of strings or the handle of a device tensor]
napi_value unwrapTensor(napi_env env, const std::string& name, SharedValue value, Place place) {
  const ort::Api& api = OrtRuntime::get().api;
  ort::OnnxType kind;
  ort::check(api, api.GetValueType(value.get(), &kind));
  if (kind != ort::kTypeTensor) throw std::runtime_error("output \"" + name + "\" is not a tensor");
  const TensorType type = typeOf(value.get());
  const napi_value shape = js::newArray(env, type.dims.size());
  for (size_t n = 0; n < type.dims.size(); n++) {
    js::setElement(env, shape, n, js::fromNumber(env, static_cast<double>(type.dims[n])));
  }
  const napi_value result = js::newArray(env, 3);
  js::setElement(env, result, 0, js::fromNumber(env, type.element));
  js::setElement(env, result, 1, shape);
  js::setElement(env, result, 2,
                 place == Place::device        ? js::newHandle(env, std::move(value))
                 : type.element == ort::kString ? readStrings(env, value.get(), countOf(type.dims))
                                                : bufferOf(env, std::move(value), type.bytes()));
  return result;
}

std::vector<int64_t> readDims(napi_env env, napi_value dims) {
  return js::toVector<int64_t>(env, dims, [&](napi_value dim) { return static_cast<int64_t>(js::toNumber(env, dim)); });
}

// One run: inputs as [index, type, dims, data, ...], data being the handle of a device tensor where it is on the GPU;
// outputs as [index, ...], or in place of an index [index, device] where the output is to stay on a GPU, or
// [index, type, dims, data] where the caller gives the memory.
class Run {
 public:
  Run(napi_env env, std::shared_ptr<OrtSession> session, napi_value inputs, napi_value outputs, napi_value options,
      js::References* keep)
      : session_(std::move(session)) {
    const size_t inputCount = js::length(env, inputs) / 4;
    for (size_t n = 0; n < inputCount; n++) {
      const std::string& name = session_->inputs.at(readIndex(env, js::element(env, inputs, 4 * n)));
      inputs_.push_back({name.c_str(), readTensor(env, inputs, 4 * n, keep)});
    }
    const size_t outputCount = js::length(env, outputs);
    for (size_t n = 0; n < outputCount; n++) outputs_.push_back(readOutput(env, js::element(env, outputs, n), keep));
    if (js::typeOf(env, options) == napi_object) readOptions(env, options);
  }
  ~Run() {
    if (options_) OrtRuntime::get().api.ReleaseRunOptions(options_);
  }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  void execute() {
    if (session_->graphs) {
      if (!options_) ort::check(OrtRuntime::get().api, OrtRuntime::get().api.CreateRunOptions(&options_));
      return session_->graphs->run(inputs_, outputs_, options_);
    }
    const auto staysOnGpu = [](const RunOutput& output) { return output.device.has_value(); };
    std::any_of(outputs_.begin(), outputs_.end(), staysOnGpu) ? runBound() : runPlain();
  }

  // By output: what unwrapTensor makes, or null where the caller gave the memory.
  napi_value results(napi_env env) {
    const napi_value list = js::newArray(env, outputs_.size());
    for (size_t n = 0; n < outputs_.size(); n++) {
      RunOutput& output = outputs_[n];
      napi_value result;
      if (output.given) {
        check(env, napi_get_null(env, &result));
      } else {
        result = unwrapTensor(env, output.name, std::move(output.made), output.device ? Place::device : Place::host);
      }
      js::setElement(env, list, n, result);
    }
    return list;
  }

 private:
  static size_t readIndex(napi_env env, napi_value value) { return static_cast<size_t>(js::toNumber(env, value)); }

  RunOutput readOutput(napi_env env, napi_value source, js::References* keep) const {
    const bool list = js::typeOf(env, source) == napi_object;
    RunOutput output{session_->outputs.at(readIndex(env, list ? js::element(env, source, 0) : source)).c_str(), {}, {}, {}};
    if (list && js::length(env, source) == 2) {
      output.device = static_cast<int>(js::toNumber(env, js::element(env, source, 1)));
    } else if (list) {
      output.given = readTensor(env, source, 0, keep);
    }
    return output;
  }

  void runPlain() {
    const ort::Api& api = OrtRuntime::get().api;
    std::vector<const ort::Value*> inputs;
    std::vector<ort::Value*> outputs;
    std::vector<const char*> inputNames, outputNames;
    for (const RunInput& input : inputs_) {
      inputs.push_back(input.value.get());
      inputNames.push_back(input.name);
    }
    for (const RunOutput& output : outputs_) {
      outputs.push_back(output.given.get());
      outputNames.push_back(output.name);
    }
    ort::Status* status = api.Run(session_->session, options_, inputNames.data(), inputs.data(), inputs.size(),
                                  outputNames.data(), outputs.size(), outputs.data());
    for (size_t n = 0; n < outputs.size(); n++) {
      if (!outputs_[n].given) outputs_[n].made = own(outputs[n]);
    }
    ort::check(api, status);
  }

  void runBound() {
    const OrtRuntime& runtime = OrtRuntime::get();
    const ort::Api& api = runtime.api;
    const BindingOwner binding = newBinding(session_->session);
    for (const RunInput& input : inputs_) {
      ort::check(api, api.BindInput(binding.get(), input.name, input.value.get()));
    }
    for (const RunOutput& output : outputs_) {
      if (output.given) {
        ort::check(api, api.BindOutput(binding.get(), output.name, output.given.get()));
      } else if (output.device) {
        ort::check(api, api.BindOutputToDevice(binding.get(), output.name, cudaMemory(*output.device).get()));
      } else {
        ort::check(api, api.BindOutputToDevice(binding.get(), output.name, runtime.cpu));
      }
    }
    ort::check(api, api.RunWithBinding(session_->session, options_, binding.get()));
    const std::vector<SharedValue> values = boundOutputs(binding.get());
    for (size_t n = 0; n < values.size(); n++) outputs_[n].made = values[n];
  }

  static SharedValue readTensor(napi_env env, napi_value array, size_t at, js::References* keep) {
    const napi_value data = js::element(env, array, at + 3);
    if (js::typeOf(env, data) == napi_external) return js::deviceValueOf(env, data);
    const auto type = static_cast<ort::ElementType>(js::toNumber(env, js::element(env, array, at + 1)));
    if (keep && type != ort::kString) keep->keep(data);
    return wrapTensor(env, type, readDims(env, js::element(env, array, at + 2)), data);
  }

  void readOptions(napi_env env, napi_value source) {
    const ort::Api& api = OrtRuntime::get().api;
    ort::check(api, api.CreateRunOptions(&options_));
    if (const auto level = js::property(env, source, "logSeverityLevel")) {
      ort::check(api, api.RunOptionsSetRunLogSeverityLevel(options_, static_cast<int>(js::toNumber(env, *level))));
    }
    if (const auto level = js::property(env, source, "logVerbosityLevel")) {
      ort::check(api, api.RunOptionsSetRunLogVerbosityLevel(options_, static_cast<int>(js::toNumber(env, *level))));
    }
    if (const auto tag = js::property(env, source, "tag")) {
      ort::check(api, api.RunOptionsSetRunTag(options_, js::toString(env, *tag).c_str()));
    }
    if (const auto config = js::property(env, source, "config")) {
      const Pairs entries = readPairs(env, *config);
      for (size_t n = 0; n < entries.keys.size(); n++) {
        ort::check(api, api.AddRunConfigEntry(options_, entries.keys[n].c_str(), entries.values[n].c_str()));
      }
    }
  }

  const std::shared_ptr<OrtSession> session_;
  std::vector<RunInput> inputs_;
  std::vector<RunOutput> outputs_;
  ort::RunOptions* options_ = nullptr;
};

class RunTask : public Task {
 public:
  RunTask(napi_env env, const js::Arguments<4>& arguments)
      : keep_(env),
        session_(sessionOf(env, arguments[0])),
        run_(env, session_, arguments[1], arguments[2], arguments[3], &keep_) {}

 protected:
  void execute() override {
    const auto start = std::chrono::steady_clock::now();
    run_.execute();
    session_->isQuick = std::chrono::steady_clock::now() - start < kQuick;
  }
  napi_value finish(napi_env env) override { return run_.results(env); }
  bool endsSoon() const override { return session_->isQuick; }

 private:
  static constexpr std::chrono::microseconds kQuick{50};

  js::References keep_;
  const std::shared_ptr<OrtSession> session_;
  Run run_;
};

// ---- tensors on the GPU ----

// A copy of a tensor in device memory.
class UploadTask : public Task {
 public:
  UploadTask(napi_env env, const js::Arguments<4>& arguments) : keep_(env), bytes_(js::bytesOf(env, arguments[3])) {
    const auto element = static_cast<ort::ElementType>(js::toNumber(env, arguments[1]));
    const TensorType type{element, readDims(env, arguments[2])};
    if (bytes_.size != type.bytes()) throw std::runtime_error("the data does not fit the shape");
    value_ = deviceTensor(static_cast<int>(js::toNumber(env, arguments[0])), type);
    keep_.keep(arguments[3]);
  }

 protected:
  void execute() override { copyTensor(dataOf(value_.get()), bytes_.data, bytes_.size); }
  napi_value finish(napi_env env) override { return js::newHandle(env, std::move(value_)); }

 private:
  js::References keep_;
  SharedValue value_;
  const js::Bytes bytes_;
};

// Fills memory of the caller's with a device tensor.
class DownloadTask : public Task {
 public:
  DownloadTask(napi_env env, const js::Arguments<2>& arguments)
      : keep_(env), value_(js::deviceValueOf(env, arguments[0])), bytes_(js::bytesOf(env, arguments[1])) {
    keep_.keep(arguments[1]);
  }

 protected:
  void execute() override { copyTensor(bytes_.data, dataOf(value_.get()), bytes_.size); }
  napi_value finish(napi_env env) override {
    napi_value nothing;
    check(env, napi_get_undefined(env, &nothing));
    return nothing;
  }

 private:
  js::References keep_;
  const SharedValue value_;
  const js::Bytes bytes_;
};

// ---- exports ----

napi_value init(napi_env env, napi_callback_info info) {
  return js::guarded(env, [&] {
    const js::Arguments<1> arguments(env, info);
    return js::fromString(env, OrtRuntime::load(js::toString(env, arguments[0])).version);
  });
}

napi_value loadOperators(napi_env env, napi_callback_info info) {
  return js::guarded(env, [&] {
    const js::Arguments<1> arguments(env, info);
    const std::vector<const ort::CustomOp*> ops = OrtRuntime::get().operatorsOf(js::toString(env, arguments[0]));
    const napi_value list = js::newArray(env, ops.size());
    for (size_t n = 0; n < ops.size(); n++) {
      const ort::CustomOp* op = ops[n];
      napi_value external;
      check(env, napi_create_external(env, const_cast<ort::CustomOp*>(op), nullptr, nullptr, &external));
      const char* provider = op->GetExecutionProviderType(op);
      js::setElement(env, list, n,
                     js::newObject(env, {{"name", js::fromString(env, op->GetName(op))},
                                         {"executionProvider",
                                          js::fromString(env, provider ? provider : "CPUExecutionProvider")},
                                         {"type", js::fromNumber(env, op->GetInputType(op, 0))},
                                         {"op", external}}));
    }
    return list;
  });
}

napi_value createSession(napi_env env, napi_callback_info info) {
  return js::guarded(env, [&] {
    const js::Arguments<3> arguments(env, info);
    return Task::start(env, std::make_unique<CreateTask>(env, arguments[0], arguments[1], arguments[2]),
                       "onnx-rewrite.create");
  });
}

napi_value run(napi_env env, napi_callback_info info) {
  return js::guarded(env, [&] {
    const js::Arguments<4> arguments(env, info);
    return Task::start(env, std::make_unique<RunTask>(env, arguments), "onnx-rewrite.run");
  });
}

napi_value runSync(napi_env env, napi_callback_info info) {
  return js::guarded(env, [&] {
    const js::Arguments<4> arguments(env, info);
    Run run(env, sessionOf(env, arguments[0]), arguments[1], arguments[2], arguments[3], nullptr);
    run.execute();
    return run.results(env);
  });
}

napi_value upload(napi_env env, napi_callback_info info) {
  return js::guarded(env, [&] {
    return Task::start(env, std::make_unique<UploadTask>(env, js::Arguments<4>(env, info)), "onnx-rewrite.upload");
  });
}

napi_value download(napi_env env, napi_callback_info info) {
  return js::guarded(env, [&] {
    return Task::start(env, std::make_unique<DownloadTask>(env, js::Arguments<2>(env, info)), "onnx-rewrite.download");
  });
}

// Gives device memory back before the handle is collected.
napi_value dispose(napi_env env, napi_callback_info info) {
  return js::guarded(env, [&]() -> napi_value {
    js::heldValue(env, js::Arguments<1>(env, info)[0]).reset();
    return nullptr;
  });
}

napi_value endProfiling(napi_env env, napi_callback_info info) {
  return js::guarded(env, [&] {
    const js::Arguments<1> arguments(env, info);
    const ort::Api& api = OrtRuntime::get().api;
    ort::Allocator* allocator;
    ort::check(api, api.GetAllocatorWithDefaultOptions(&allocator));
    char* file;
    ort::check(api, api.SessionEndProfiling(sessionOf(env, arguments[0])->session, allocator, &file));
    const napi_value result = js::fromString(env, file);
    ort::check(api, api.AllocatorFree(allocator, file));
    return result;
  });
}

napi_value release(napi_env env, napi_callback_info info) {
  return js::guarded(env, [&]() -> napi_value {
    const js::Arguments<1> arguments(env, info);
    void* data;
    check(env, napi_get_value_external(env, arguments[0], &data));
    auto* handle = static_cast<Handle*>(data);
    handle->session.reset();
    handle->keep.reset();
    return nullptr;
  });
}

}  // namespace
}  // namespace onnxrewrite

NAPI_MODULE_INIT() {
  using namespace onnxrewrite;
  return js::guarded(env, [&] {
    const std::pair<const char*, napi_callback> functions[] = {
        {"init", init},       {"loadOperators", loadOperators}, {"createSession", createSession}, {"run", run},
        {"runSync", runSync}, {"endProfiling", endProfiling},   {"release", release},             {"upload", upload},
        {"download", download}, {"dispose", dispose},
    };
    for (const auto& [name, callback] : functions) {
      napi_value function;
      check(env, napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, nullptr, &function));
      check(env, napi_set_named_property(env, exports, name, function));
    }
    return exports;
  });
}
