// MultiLevelAttention on the CUDA execution provider.
#include "../native/cuda/kernel.h"
#include "cuda/attention.cuh"
#include "signature.h"

namespace onnxrewrite::multilevel {
namespace {

class CudaKernel {
 public:
  explicit CudaKernel(const NodeAttributes& attributes) : parameters_(readParameters(attributes)) {}

  template <class T>
  void run(const RunContext& context) const {
    const Tensors tensors(context, parameters_);
    const Shape& shape = tensors.shape;
    checkLimits(shape);
    const cuda::Results<T> results{static_cast<T*>(context.output(kOutput, outputDims(shape))),
                                   static_cast<T*>(context.output(kLogSumExp, rowDims(shape)))};
    cuda::Present<T> present{
        static_cast<T*>(context.output(kPresentValue, cacheDims(shape, shape.keys(), shape.valueDim))), {}};
    cuda::Operands<T> operands{tensors.query.as<const T>(), tensors.key.as<const T>(), tensors.value.as<const T>(),
                               tensors.visible(), nullptr, {}, {}};
    if (tensors.pastValue) operands.pastValue = tensors.pastValue->as<const T>();
    for (size_t level = 0; level < parameters_.levels(); level++) {
      const auto rank = static_cast<size_t>(parameters_.ranks[level]);
      const size_t kept = parameters_.cachedKeys(level, shape.keys());
      present.keys[level] = static_cast<T*>(context.output(kPresentKey + level, cacheDims(shape, kept, rank)));
      if (!tensors.pastValue) continue;
      operands.pastKeys[level] = tensors.pastKeys[level]->as<const T>();
      operands.cached[level] = static_cast<int>(tensors.pastKeys[level]->dims[2]);
    }
    using Attention = cuda::MultiLevelAttention<T>;
    const DeviceScratch memory(context, Attention(shape, parameters_, nullptr).bytes());
    checkCuda(Attention(shape, parameters_, memory.data()).run(operands, results, present, computeStream(context)));
  }

 private:
  void checkLimits(const Shape& shape) const {
    const int64_t offset = parameters_.causalOffset.value_or(0);
    const auto most = static_cast<size_t>(cuda::kMostPosition / 2);
    if (shape.keys() > most || shape.queries > most || offset > cuda::kMostPosition / 2 || -offset > cuda::kMostPosition / 2) {
      refuse("the CUDA kernel takes positions up to 2^29");
    }
    if (shape.valueDim > cuda::kMostValueDim || shape.headDim > kMostHeadDim) {
      refuse("the CUDA kernel takes values of up to 512 elements and heads of up to 1024");
    }
    if (shape.batch * shape.heads > kMostHeads) refuse("the CUDA kernel takes up to 65535 heads in a batch");
  }

  static constexpr size_t kMostHeads = 65535, kMostHeadDim = 1024;

  const Parameters parameters_;
};

const CudaOperator<CudaKernel> registered(kOpType, inputs, outputs);

}  // namespace
}  // namespace onnxrewrite::multilevel
