// C entry points to the CUDA kernels of MultipoleAttention for cuda_attention.py, which times them beside PyTorch.
#include "../../custom-ops/multipole-attention/cuda/pipeline.cuh"

using namespace onnxrewrite::multipole;

/** Mirrors `Call` of cuda_attention.py. */
struct Call {
  int64_t type, batch, heads, kvHeads, queries, keys, headDim, valueDim;
  int64_t causal, segment, window, keyClusters, contiguous, queryClusters, iterations, selection, group;
  int64_t retrieveCount, retrieve[64];
  double retrieveError;
};

namespace {

template <class T>
cuda::MultipoleAttention<T> attentionOf(const Call& call, void* memory) {
  auto size = [](int64_t value) { return static_cast<size_t>(value); };
  const Shape shape{size(call.batch), size(call.heads), size(call.kvHeads), size(call.queries),
                    0,                size(call.keys),  size(call.headDim), size(call.valueDim)};
  Parameters p;
  p.causal = call.causal != 0;
  p.segment = call.segment;
  p.window = call.window;
  p.keyClusters = call.keyClusters;
  p.keyGrouping = call.contiguous ? KeyGrouping::contiguous : KeyGrouping::kmeans;
  p.queryClusters = call.queryClusters;
  p.iterations = call.iterations;
  p.retrieve.assign(call.retrieve, call.retrieve + call.retrieveCount);
  p.retrieveError = static_cast<float>(call.retrieveError);
  p.selection = static_cast<Selection>(call.selection);
  p.group = call.group;
  return {shape, p, false, memory};
}

template <class Visit>
auto withType(const Call& call, Visit visit) {
  if (call.type == 1) return visit(float{});
  return call.type == 10 ? visit(__half{}) : visit(__nv_bfloat16{});
}

}  // namespace

extern "C" int64_t multipole_attention_bytes(const Call* call) {
  return withType(*call, [&](auto t) { return static_cast<int64_t>(attentionOf<decltype(t)>(*call, nullptr).bytes()); });
}

extern "C" int multipole_attention_run(const Call* call, const void* query, const void* key, const void* value, void* output,
                                       void* memory, void* stream) {
  return withType(*call, [&](auto t) {
    using T = decltype(t);
    const cuda::Tensors<T> tensors{static_cast<const T*>(query), static_cast<const T*>(key), static_cast<const T*>(value),
                                   nullptr, nullptr, static_cast<T*>(output), nullptr};
    static onnxrewrite::cuda::SideStream side;
    return static_cast<int>(attentionOf<T>(*call, memory).run(tensors, static_cast<cudaStream_t>(stream), side));
  });
}
