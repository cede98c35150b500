// ElementwiseAttention on the CPU execution provider.
#include "../native/padded_rows.h"
#include "cpu_attention.h"
#include "signature.h"

namespace onnxrewrite::elementwise {
namespace {

class Kernel {
 public:
  Kernel(const ort::Api& api, const NodeAttributes& attributes, const Operator<Kernel>&)
      : arena_(api), parameters_(readParameters(attributes)) {}

  void run(const RunContext& context) const {
    const Tensors tensors(context, parameters_);
    const Shape shape = tensors.shape();
    SessionMemory memory(context, arena_);
    SessionThreads threads(context);
    const Environment environment{simd(), memory, threads};

    // Each row by itself is what PaddedRows calls a head: rows are what its threads share.
    const PaddedRows query(environment, shape.batch * shape.rows, {&tensors.query}, {1}, shape.channels);
    const PaddedRows key(environment, shape.batch * shape.keys, {&tensors.key}, {1}, shape.channels);
    const PaddedRows value(environment, shape.batch * shape.keys, {&tensors.value}, {1}, shape.channels);
    void* result = context.output(kOutput, tensors.query.dims);
    const bool isHalf = tensors.query.type == ort::kFloat16;
    const size_t stride = roundUpToLanes(shape.channels), rows = shape.batch * shape.rows;
    const bool inPlace = !isHalf && stride == shape.channels;
    Buffer<float> padded;
    float* output = inPlace ? static_cast<float*>(result) : padded.reset(memory, std::max<size_t>(1, rows * stride));

    const Operands operands{query.data(), key.data(), value.data(), tensors.visible(), output};
    const Attention attention(environment, shape, operands);
    if (parameters_.order == 0) {
      attention.runExact(parameters_.causal);
    } else {
      attention.runSeries(parameters_.order, parameters_.causal, states(context, tensors));
    }
    if (inPlace) return;
    threads.forEach(rows, [&](size_t row, size_t) {
      const float* from = output + row * stride;
      if (isHalf) {
        std::transform(from, from + shape.channels, static_cast<uint16_t*>(result) + row * shape.channels, toHalf);
      } else {
        std::copy_n(from, shape.channels, static_cast<float*>(result) + row * shape.channels);
      }
    });
  }

 private:
  States states(const RunContext& context, const Tensors& tensors) const {
    return {tensors.pastSums(), tensors.pastOffsets(),
            static_cast<float*>(context.output(kPresentState, stateDims(parameters_, tensors.query))),
            static_cast<float*>(context.output(kPresentOffset, offsetDims(tensors.query)))};
  }

  const CpuArena arena_;
  const Parameters parameters_;
};

const Operator<Kernel> single(kOpType, nullptr, inputs(ort::kFloat), outputs(ort::kFloat));
const Operator<Kernel> half(kOpType, nullptr, inputs(ort::kFloat16), outputs(ort::kFloat16));
const Registration registrations[] = {Registration(single), Registration(half)};

}  // namespace
}  // namespace onnxrewrite::elementwise
