// LocalAttention on the CUDA execution provider.
#include "../native/cuda/kernel.h"
#include "cuda/attention.cuh"
#include "signature.h"

namespace onnxrewrite::local {
namespace {

class CudaKernel {
 public:
  explicit CudaKernel(const NodeAttributes& attributes) : parameters_(readParameters(attributes)) {}

  template <class T>
  void run(const RunContext& context) const {
    const Tensors tensors(context);
    const Shape& shape = tensors.shape;
    if (shape.keys > kMostRows || shape.queries > kMostRows) refuse("the CUDA kernel takes up to 2^30 queries and keys");
    if (shape.headDim > kMostHeadDim) refuse("the CUDA kernel takes heads of up to 512 elements");
    if (shape.batch * shape.heads > kMostHeads) refuse("the CUDA kernel takes up to 65535 heads in a batch");
    T* const output = static_cast<T*>(context.output(kOutput, tensors.outputDims()));
    T* const lse = static_cast<T*>(context.output(kLogSumExp, tensors.rowDims()));
    checkCuda(cuda::LocalAttention<T>(cuda::geometryOf(shape, parameters_))
                  .run({tensors.query.as<const T>(), tensors.key.as<const T>(), tensors.value.as<const T>(), tensors.visible(),
                        output, lse},
                       computeStream(context)));
  }

 private:
  static constexpr size_t kMostRows = 1 << 30, kMostHeads = 65535, kMostHeadDim = 512;

  const Parameters parameters_;
};

const CudaOperator<CudaKernel> registered(kOpType, inputs, outputs);

}  // namespace
}  // namespace onnxrewrite::local
