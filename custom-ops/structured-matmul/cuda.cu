// StructuredMatMul on the CUDA execution provider: butterflies. Other kinds are few products of the function body.
#include "../native/cuda/kernel.h"
#include "cuda/butterfly.cuh"
#include "signature.h"

namespace onnxrewrite::structured {
namespace {

class CudaKernel {
 public:
  explicit CudaKernel(const NodeAttributes& attributes) : structure_(attributes) {
    if (!structure_.butterfly) refuse("the CUDA kernel takes butterflies; other kinds are left to products of ONNX Runtime");
    while ((size_t{1} << stages_) < structure_.in) stages_++;
    if (stages_ > cuda::kMostStages) {
      refuse("the CUDA kernel takes butterflies of up to " + std::to_string(1 << cuda::kMostStages) + " features");
    }
  }

  template <class T>
  void run(const RunContext& context) const {
    const TensorView x = *context.input(kX);
    const TensorView factors = checkedFactor(kFactors, context.input(kFactors), stageDims(structure_));
    const size_t rows = rowsOf(structure_, x);
    if (rows > kMostRows) refuse("the CUDA kernel takes up to 2^30 rows");
    T* const output = static_cast<T*>(context.output(0, outputDims(structure_, x)));
    checkCuda(cuda::launchButterfly<T>({x.as<const T>(), factors.as<const T>(), output, rows, stages_}, computeStream(context)));
  }

 private:
  static constexpr size_t kMostRows = 1 << 30;

  const Structure structure_;
  int stages_ = 0;
};

const CudaOperator<CudaKernel> registered(kOpType, inputs, outputs);

}  // namespace
}  // namespace onnxrewrite::structured
