// C entry points to the CUDA kernels of LocalAttention for cuda_local.py, which times them beside PyTorch.
#include "../../custom-ops/local-attention/cuda/attention.cuh"

using namespace onnxrewrite;

/** Mirrors `LocalCall` of cuda_local.py. */
struct LocalCall {
  int64_t type, batch, heads, kvHeads, queries, keys, headDim, valueDim;
  int64_t left, right, mma;
  const void *query, *key, *value;
  void* output;
};

namespace {

template <class T>
cudaError_t run(const LocalCall& call, cudaStream_t stream) {
  const auto size = [](int64_t value) { return static_cast<size_t>(value); };
  const auto reach = [](int64_t limit) { return limit < 0 ? std::nullopt : std::optional<int64_t>(limit); };
  const local::Shape shape{size(call.batch), size(call.heads),   size(call.kvHeads), size(call.queries),
                           size(call.keys),  size(call.headDim), size(call.valueDim)};
  const local::Parameters parameters{std::nullopt, reach(call.left), reach(call.right), std::nullopt};
  const auto in = [](const void* data) { return static_cast<const T*>(data); };
  return local::cuda::LocalAttention<T>(local::cuda::geometryOf(shape, parameters), cuda::hasHopper() && !call.mma)
      .run({in(call.query), in(call.key), in(call.value), nullptr, static_cast<T*>(call.output), nullptr}, stream);
}

}  // namespace

extern "C" int64_t local_attention_bytes(const LocalCall*) { return 0; }

extern "C" int local_attention_run(const LocalCall* call, void*, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  return call->type == 1 ? run<float>(*call, on) : call->type == 10 ? run<__half>(*call, on) : run<__nv_bfloat16>(*call, on);
}
