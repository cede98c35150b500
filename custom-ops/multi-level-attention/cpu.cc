// MultiLevelAttention on the CPU execution provider.
#include <cstring>

#include "../native/padded_rows.h"
#include "cpu_attention.h"
#include "signature.h"

namespace onnxrewrite::multilevel {
namespace {

// Past and fresh keys as rows of headDim numbers. A past key has only the levels whose block is not yet full.
class JoinedKeys {
 public:
  JoinedKeys(const Environment& environment, const Parameters& parameters, const Tensors& tensors) {
    const Shape& shape = tensors.shape;
    const size_t stride = shape.headDim, keys = shape.keys();
    float* target = rows_.reset(environment.allocator, std::max<size_t>(1, shape.batch * shape.kvHeads * keys * stride));
    environment.parallel.forEach(shape.batch * shape.kvHeads, [&](size_t head, size_t) {
      float* out = target + head * keys * stride;
      size_t offset = 0;
      for (size_t level = 0; level < parameters.levels(); level++) {
        const auto cached = static_cast<size_t>(tensors.pastKeys[level]->dims[2]);
        const auto rank = static_cast<size_t>(parameters.ranks[level]);
        for (size_t n = 0; n < cached; n++) {
          toFloats(*tensors.pastKeys[level], (head * cached + n) * rank, rank,
                   out + (shape.past - cached + n) * stride + offset);
        }
        offset += rank;
      }
      toFloats(tensors.key, head * shape.fresh * stride, shape.fresh * stride, out + shape.past * stride);
    });
  }

  const float* data() const { return rows_.data(); }

 private:
  Buffer<float> rows_;
};

size_t elementBytes(const TensorView& tensor) { return tensor.type == ort::kFloat16 ? 2 : 4; }

// Writes the cache that this run leaves behind, as far as the node connects it.
void writePresent(const RunContext& context, const Environment& environment, const Parameters& parameters,
                  const Tensors& tensors) {
  const Shape& s = tensors.shape;
  const size_t bytes = elementBytes(tensors.key), heads = s.batch * s.kvHeads;
  const auto output = [&](size_t index, size_t rows, size_t size) {
    return static_cast<char*>(context.output(index, cacheDims(s, rows, size)));
  };
  if (char* target = output(kPresentValue, s.keys(), s.valueDim)) {
    const size_t before = s.past * s.valueDim * bytes, fresh = s.fresh * s.valueDim * bytes;
    environment.parallel.forEach(heads, [&](size_t head, size_t) {
      char* out = target + head * (before + fresh);
      if (before > 0) std::memcpy(out, tensors.pastValue->as<char>() + head * before, before);
      if (fresh > 0) std::memcpy(out + before, tensors.value.as<char>() + head * fresh, fresh);
    });
  }
  size_t offset = 0;
  for (size_t level = 0; level < parameters.levels(); level++) {
    const auto rank = static_cast<size_t>(parameters.ranks[level]), row = rank * bytes;
    const size_t kept = parameters.cachedKeys(level, s.keys());
    if (char* target = output(kPresentKey + level, kept, rank)) {
      // Of the kept keys the first ones are in the cache already, its last ones.
      const size_t fromPast = kept - std::min(kept, s.fresh), fresh = kept - fromPast;
      const size_t cached = fromPast > 0 ? static_cast<size_t>(tensors.pastKeys[level]->dims[2]) : 0;
      environment.parallel.forEach(heads, [&](size_t head, size_t) {
        char* out = target + head * kept * row;
        if (fromPast > 0) {
          std::memcpy(out, tensors.pastKeys[level]->as<char>() + (head * cached + cached - fromPast) * row,
                      fromPast * row);
        }
        const char* in = tensors.key.as<char>() + ((head * s.fresh + s.fresh - fresh) * s.headDim + offset) * bytes;
        for (size_t n = 0; n < fresh; n++) {
          std::memcpy(out + (fromPast + n) * row, in + n * s.headDim * bytes, row);
        }
      });
    }
    offset += rank;
  }
}

class Kernel {
 public:
  Kernel(const ort::Api& api, const NodeAttributes& attributes, const Operator<Kernel>&)
      : arena_(api), parameters_(readParameters(attributes)) {}

  void run(const RunContext& context) const {
    const Tensors tensors(context, parameters_);
    const Shape& shape = tensors.shape;
    const AttentionOutput output{context.output(kOutput, outputDims(shape)), context.output(kLogSumExp, rowDims(shape)),
                                 tensors.query.type == ort::kFloat16};

    SessionMemory memory(context, arena_);
    SessionThreads threads(context);
    const Environment environment{simd(), memory, threads};
    const size_t heads = shape.batch * shape.heads, kvHeads = shape.batch * shape.kvHeads;
    const PaddedRows queries(environment, heads, {&tensors.query}, {shape.queries}, shape.headDim);
    if (tensors.pastValue) {
      const JoinedKeys keys(environment, parameters_, tensors);
      const PaddedRows values(environment, kvHeads, {&*tensors.pastValue, &tensors.value}, {shape.past, shape.fresh},
                              shape.valueDim);
      attend(environment, tensors, {queries.data(), keys.data(), shape.headDim, values.data(), tensors.visible()}, output);
    } else {
      const PaddedRows keys(environment, kvHeads, {&tensors.key}, {shape.fresh}, shape.headDim);
      const PaddedRows values(environment, kvHeads, {&tensors.value}, {shape.fresh}, shape.valueDim);
      attend(environment, tensors,
             {queries.data(), keys.data(), roundUpToLanes(shape.headDim), values.data(), tensors.visible()}, output);
    }
    writePresent(context, environment, parameters_, tensors);
  }

 private:
  void attend(const Environment& environment, const Tensors& tensors, const Operands& operands,
              const AttentionOutput& output) const {
    Attention(environment, parameters_, tensors.shape, operands, output).run();
  }

  const CpuArena arena_;
  const Parameters parameters_;
};

const Operator<Kernel> single(kOpType, nullptr, inputs(ort::kFloat), outputs(ort::kFloat));
const Operator<Kernel> half(kOpType, nullptr, inputs(ort::kFloat16), outputs(ort::kFloat16));
const Registration registrations[] = {Registration(single), Registration(half)};

}  // namespace
}  // namespace onnxrewrite::multilevel
