#include "operators.h"

#include <dlfcn.h>

#include <string>

#include "ort_error.h"

namespace onnxrewrite {

// Operators of the library of CUDA kernels beside this one; none when it is not there or does not load.
static std::vector<const ort::CustomOp*> cudaOperators() {
  Dl_info here;
  if (!dladdr(reinterpret_cast<const void*>(&cudaOperators), &here)) return {};
  const std::string path = here.dli_fname;
  const std::string library = path.substr(0, path.rfind('/') + 1) + "libonnxrewrite_ops_cuda.so";
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  const auto list = handle ? reinterpret_cast<ListOperators>(dlsym(handle, "OnnxRewriteOperators")) : nullptr;
  if (!list) return {};
  size_t count;
  const ort::CustomOp* const* ops = list(&count);
  return {ops, ops + count};
}

static ort::Status* addDomain(const ort::Api& api, ort::SessionOptions* options) {
  // ONNX Runtime does not copy the domain: it lives as long as the process, for all sessions.
  static ort::CustomOpDomain* domain = nullptr;
  static ort::Status* failure = [&] {
    return ort::guarded(api, [&] {
      ort::check(api, api.CreateCustomOpDomain(kDomain, &domain));
      for (const ort::CustomOp* op : Registration::all()) ort::check(api, api.CustomOpDomain_Add(domain, op));
      for (const ort::CustomOp* op : cudaOperators()) ort::check(api, api.CustomOpDomain_Add(domain, op));
    });
  }();
  if (failure) return api.CreateStatus(ort::kFail, api.GetErrorMessage(failure));
  return api.AddCustomOpDomain(options, domain);
}

}  // namespace onnxrewrite

ONNXREWRITE_EXPORT onnxrewrite::ort::Status* RegisterCustomOps(onnxrewrite::ort::SessionOptions* options,
                                                               const onnxrewrite::ort::ApiBase* base) {
  const void* table = base->GetApi(onnxrewrite::ort::kApiVersion);
  // There is no table to make a status from; ONNX Runtime then names the operators that it does not know.
  if (!table) return nullptr;
  return onnxrewrite::addDomain(onnxrewrite::ort::Api(table), options);
}
