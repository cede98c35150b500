// MultipoleAttention on the CUDA execution provider.
#include "../native/cuda/kernel.h"
#include "../native/cuda/replay.h"
#include "cuda/pipeline.cuh"
#include "signature.h"

namespace onnxrewrite::multipole {
namespace {

class CudaKernel {
 public:
  explicit CudaKernel(const NodeAttributes& attributes) : parameters_(readParameters(attributes)) {
    const auto lacks = [](const char* what) {
      throw ort::Error(ort::kNotImplemented, std::string("MultipoleAttention: no CUDA kernel for ") + what);
    };
    if (parameters_.order != 0) lacks("order 1 and 2");
    if (parameters_.dyadic) lacks("a dyadic hierarchy");
    if (parameters_.retrieve.size() > cuda::RetrieveCounts::kMost) lacks("that many numbers in retrieve");
    if (parameters_.keyClusters > kMostClusters || parameters_.queryClusters > kMostClusters) {
      lacks("that many clusters");
    }
  }

  template <class T>
  void run(const RunContext& context) const {
    const Tensors tensors(context);
    const Shape shape = tensors.shape(parameters_);
    if (shape.valueDim > cuda::kPlainMaxValueDim) refuse("the CUDA kernel takes values of up to 512 elements");
    T* const output = static_cast<T*>(context.output(kOutput, outputDims(shape)));
    T* const lse = static_cast<T*>(context.output(kLogSumExp, rowDims(shape)));
    const bool* const mask = tensors.mask ? tensors.mask->as<const bool>() : nullptr;
    const T* const past = shape.past > 0 ? tensors.past->as<const T>() : nullptr;

    using Attention = cuda::MultipoleAttention<T>;
    const DeviceScratch memory(context, Attention(shape, parameters_, mask != nullptr, nullptr).bytes());
    const cuda::Tensors<T> at{tensors.query.as<const T>(), tensors.key.as<const T>(), tensors.value.as<const T>(), mask, past,
                              output, lse};
    checkCuda(replay_.run(keyOf(shape, at, memory.data()), computeStream(context), [&](cudaStream_t stream) {
      return Attention(shape, parameters_, mask != nullptr, memory.data()).run(at, stream, side_);
    }));
  }

 private:
  /** Labels have 16 bits, of which one value means none; counts by label fit shared memory. */
  static constexpr int64_t kMostClusters = 1024;

  template <class T>
  static onnxrewrite::cuda::Replay::Key keyOf(const Shape& shape, const cuda::Tensors<T>& at, const void* memory) {
    onnxrewrite::cuda::Replay::Key key{shape.batch, shape.heads, shape.kvHeads, shape.queries,
                                       shape.past,  shape.keys,  shape.headDim, shape.valueDim};
    for (const void* address : std::initializer_list<const void*>{at.query, at.key, at.value, at.mask, at.pastQuery, at.output,
                                                                  at.lse, memory}) {
      key.push_back(reinterpret_cast<uint64_t>(address));
    }
    return key;
  }

  const Parameters parameters_;
  mutable onnxrewrite::cuda::SideStream side_;
  mutable onnxrewrite::cuda::Replay replay_;
};

const CudaOperator<CudaKernel> registered("MultipoleAttention", inputs, outputs);

}  // namespace
}  // namespace onnxrewrite::multipole
