// ElementwiseAttention on the CUDA execution provider.
#include "../native/cuda/kernel.h"
#include "cuda/attention.cuh"
#include "signature.h"

namespace onnxrewrite::elementwise {
namespace {

class CudaKernel {
 public:
  explicit CudaKernel(const NodeAttributes& attributes) : parameters_(readParameters(attributes)) {}

  template <class T>
  void run(const RunContext& context) const {
    const Tensors tensors(context, parameters_);
    const Shape shape = tensors.shape();
    if (shape.rows > kMostRows || shape.keys > kMostRows || shape.channels > kMostRows || shape.batch > kMostBatch) {
      refuse(kOpType, "the CUDA kernel takes up to 2^30 rows and channels, and 65535 batch rows");
    }
    T* const output = static_cast<T*>(context.output(kOutput, tensors.query.dims));
    float *presentSums = nullptr, *presentOffsets = nullptr;
    if (parameters_.order > 0) {
      presentSums = static_cast<float*>(context.output(kPresentState, stateDims(parameters_, tensors.query)));
      presentOffsets = static_cast<float*>(context.output(kPresentOffset, offsetDims(tensors.query)));
    }
    using Attention = cuda::ElementwiseAttention<T>;
    const DeviceScratch memory(context, Attention(shape, parameters_, nullptr).bytes());
    checkCuda(Attention(shape, parameters_, memory.data())
                  .run({tensors.query.as<const T>(), tensors.key.as<const T>(), tensors.value.as<const T>(), tensors.visible(),
                        output, tensors.pastSums(), tensors.pastOffsets(), presentSums, presentOffsets},
                       computeStream(context)));
  }

 private:
  static constexpr size_t kMostRows = 1 << 30, kMostBatch = 65535;

  const Parameters parameters_;
};

const CudaOperator<CudaKernel> registered(kOpType, inputs, outputs);

}  // namespace
}  // namespace onnxrewrite::elementwise
