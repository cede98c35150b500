// C entry points to the CUDA kernels of ElementwiseAttention and MultiLevelAttention for cuda_structured.py, which times
// them beside PyTorch.
#include "../../custom-ops/elementwise-attention/cuda/attention.cuh"
#include "../../custom-ops/multi-level-attention/cuda/attention.cuh"

using namespace onnxrewrite;

namespace {

size_t size(int64_t value) { return static_cast<size_t>(value); }

/** The type with this number in TensorProto.DataType. */
template <class Visit>
auto withType(int64_t type, Visit visit) {
  return type == 1 ? visit(float{}) : type == 10 ? visit(__half{}) : visit(__nv_bfloat16{});
}

}  // namespace

/** Mirrors `ElementwiseCall` of cuda_structured.py. */
struct ElementwiseCall {
  int64_t type, batch, rows, keys, channels, order, causal;
  const void *query, *key, *value, *pastSums, *pastOffsets;
  void *output, *presentSums, *presentOffsets;
};

namespace {

template <class T>
elementwise::cuda::ElementwiseAttention<T> attentionOf(const ElementwiseCall& call, void* memory) {
  return {{size(call.batch), size(call.rows), size(call.keys), size(call.channels)},
          {static_cast<int>(call.order), call.causal != 0},
          memory};
}

}  // namespace

extern "C" int64_t elementwise_attention_bytes(const ElementwiseCall* call) {
  return withType(call->type,
                  [&](auto t) { return static_cast<int64_t>(attentionOf<decltype(t)>(*call, nullptr).bytes()); });
}

extern "C" int elementwise_attention_run(const ElementwiseCall* call, void* memory, void* stream) {
  return withType(call->type, [&](auto t) {
    using T = decltype(t);
    const auto in = [](const void* data) { return static_cast<const T*>(data); };
    const auto floats = [](const void* data) { return static_cast<const float*>(data); };
    const elementwise::cuda::SeriesTensors<T> tensors{
        in(call->query),          in(call->key),
        in(call->value),          nullptr,
        static_cast<T*>(call->output),     floats(call->pastSums),
        floats(call->pastOffsets),         static_cast<float*>(call->presentSums),
        static_cast<float*>(call->presentOffsets)};
    return static_cast<int>(attentionOf<T>(*call, memory).run(tensors, static_cast<cudaStream_t>(stream)));
  });
}

/** Mirrors `MultiLevelCall` of cuda_structured.py. */
struct MultiLevelCall {
  int64_t type, batch, heads, kvHeads, queries, past, fresh, headDim, valueDim;
  int64_t causal, levels, block, mma;
  int64_t ranks[multilevel::kMostLevels];
  const void *query, *key, *value, *pastValue;
  const void* pastKeys[multilevel::kMostLevels];
  void *output, *presentValue;
  void* presentKeys[multilevel::kMostLevels];
};

namespace {

multilevel::Parameters parametersOf(const MultiLevelCall& call) {
  multilevel::Parameters p;
  p.causal = call.causal != 0;
  p.ranks.assign(call.ranks, call.ranks + call.levels);
  p.block = call.block;
  p.levelScale.assign(size(call.levels), 1.f);
  return p;
}

template <class T>
multilevel::cuda::MultiLevelAttention<T> attentionOf(const MultiLevelCall& call, void* memory) {
  return {{size(call.batch), size(call.heads), size(call.kvHeads), size(call.queries), size(call.past), size(call.fresh),
           size(call.headDim), size(call.valueDim)},
          parametersOf(call),
          memory,
          cuda::hasHopper() && !call.mma};
}

}  // namespace

extern "C" int64_t multi_level_attention_bytes(const MultiLevelCall* call) {
  return withType(call->type,
                  [&](auto t) { return static_cast<int64_t>(attentionOf<decltype(t)>(*call, nullptr).bytes()); });
}

extern "C" int multi_level_attention_run(const MultiLevelCall* call, void* memory, void* stream) {
  return withType(call->type, [&](auto t) {
    using T = decltype(t);
    const auto in = [](const void* data) { return static_cast<const T*>(data); };
    multilevel::cuda::Operands<T> operands{in(call->query), in(call->key), in(call->value), nullptr, in(call->pastValue), {}, {}};
    multilevel::cuda::Present<T> present{static_cast<T*>(call->presentValue), {}};
    const multilevel::Parameters parameters = parametersOf(*call);
    for (size_t level = 0; level < parameters.levels(); level++) {
      operands.pastKeys[level] = in(call->pastKeys[level]);
      operands.cached[level] = static_cast<int>(parameters.cachedKeys(level, size(call->past)));
      present.keys[level] = static_cast<T*>(call->presentKeys[level]);
    }
    return static_cast<int>(attentionOf<T>(*call, memory)
                                .run(operands, {static_cast<T*>(call->output), nullptr}, present,
                                     static_cast<cudaStream_t>(stream)));
  });
}
