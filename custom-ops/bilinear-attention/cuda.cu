// BilinearAttention on the CUDA execution provider.
#include "../native/cuda/kernel.h"
#include "cuda/attention.cuh"
#include "signature.h"

namespace onnxrewrite::bilinear {
namespace {

class CudaKernel {
 public:
  explicit CudaKernel(const NodeAttributes& attributes) : parameters_(readParameters(attributes)) {
    if (parameters_.depth() > kMostDepth) {
      refuse("the CUDA kernel takes queries and keys of up to 512 dimensions, not " + std::to_string(parameters_.depth()));
    }
  }

  template <class T>
  void run(const RunContext& context) const {
    const TensorView x = *context.input(kX), value = *context.input(kValue);
    const std::optional<TensorView> mask = context.input(kKeyMask);
    const Shape shape = shapeOf(parameters_, x, value, mask);
    if (shape.batch * shape.tokens > kMostRows || shape.batch * shape.heads > kMostHeads) {
      refuse("the CUDA kernel takes up to 2^30 tokens and 65535 heads in a batch");
    }
    const auto input = [&](size_t index) { return context.input(index); };
    const WeightReader weights(parameters_, input);
    const auto numbers = [](const std::optional<TensorView>& tensor) { return tensor ? tensor->as<const T>() : nullptr; };
    cuda::Operands<T> operands{x.as<const T>(), value.as<const T>(), mask ? mask->as<const bool>() : nullptr, {}, {}, {}};
    if (parameters_.train) {
      operands.left = weights.left().template as<const T>();
      operands.right = weights.right().template as<const T>();
      operands.levels[0].keyGains = numbers(weights.gains(0, kKeyNorm));
    }
    for (size_t level = 0; !parameters_.train && level < parameters_.levels.size(); level++) {
      operands.levels[level] = {numbers(weights.weight(level, kQueryWeight)), numbers(weights.weight(level, kKeyWeight)),
                                numbers(weights.gains(level, kQueryNorm)), numbers(weights.gains(level, kKeyNorm))};
    }
    T* const output = static_cast<T*>(context.output(0, value.dims));
    using Attention = cuda::BilinearAttention<T>;
    const DeviceScratch memory(context, Attention(shape, parameters_, nullptr).bytes());
    checkCuda(Attention(shape, parameters_, memory.data()).run(operands, output, computeStream(context)));
  }

 private:
  static constexpr size_t kMostRows = 1 << 30, kMostHeads = 65535, kMostDepth = 512;

  const Parameters parameters_;
};

const CudaOperator<CudaKernel> registered(kOpType, inputs, outputs);

}  // namespace
}  // namespace onnxrewrite::bilinear
