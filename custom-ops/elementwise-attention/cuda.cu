// ElementwiseAttention on the CUDA execution provider.
#include "../native/cuda/kernel.h"
#include "cuda/attention.cuh"
#include "signature.h"

namespace onnxrewrite::elementwise {
namespace {

class CudaKernel {
 public:
  CudaKernel(const ort::Api&, const NodeAttributes& attributes, const Operator<CudaKernel>& op)
      : parameters_(readParameters(attributes)), type_(op.inputs[kQuery].type) {}

  void run(const RunContext& context) const {
    if (type_ == ort::kFloat) return runAs<float>(context);
    if (type_ == ort::kFloat16) return runAs<__half>(context);
    runAs<__nv_bfloat16>(context);
  }

 private:
  template <class T>
  void runAs(const RunContext& context) const {
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

  static constexpr size_t kMostRows = 1 << 30, kMostBatch = 65535;

  const Parameters parameters_;
  const ort::ElementType type_;
};

Operator<CudaKernel> operatorOf(ort::ElementType type) {
  return {kOpType, "CUDAExecutionProvider", inputs(type), outputs(type)};
}

const Operator<CudaKernel> single = operatorOf(ort::kFloat), half = operatorOf(ort::kFloat16),
                           brain = operatorOf(ort::kBfloat16);
const Registration registrations[] = {Registration(single), Registration(half), Registration(brain)};

}  // namespace
}  // namespace onnxrewrite::elementwise
