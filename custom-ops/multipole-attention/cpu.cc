// MultipoleAttention on the CPU execution provider.
#include "../native/padded_rows.h"
#include "cpu_attention.h"
#include "signature.h"

namespace onnxrewrite::multipole {
namespace {

// Ports that only the traced operator has.
enum TracedPort { kGivenChoices = kPastQuery + 1, kMadeChoices = kLogSumExp + 1 };

class Kernel {
 public:
  Kernel(const ort::Api& api, const NodeAttributes& attributes, const Operator<Kernel>& op)
      : arena_(api), parameters_(readParameters(attributes)), traced_(op.outputs.size() > kMadeChoices) {}

  void run(const RunContext& context) const {
    Tensors tensors(context);
    const Shape shape = tensors.shape(parameters_);
    auto& [query, key, value, mask, past] = tensors;
    const AttentionOutput output{context.output(kOutput, outputDims(shape)), context.output(kLogSumExp, rowDims(shape)),
                        query.type == ort::kFloat16};

    SessionMemory memory(context, arena_);
    SessionThreads threads(context);
    const Environment environment{simd(), memory, threads};
    const size_t heads = shape.batch * shape.heads, kvHeads = shape.batch * shape.kvHeads;
    if (past && shape.past == 0) past.reset();
    const PaddedRows queries =
        past ? PaddedRows(environment, heads, {&*past, &query}, {shape.past, shape.queries}, shape.headDim)
             : PaddedRows(environment, heads, {&query}, {shape.queries}, shape.headDim);
    const PaddedRows keys(environment, kvHeads, {&key}, {shape.keys}, shape.headDim);
    const PaddedRows values(environment, kvHeads, {&value}, {shape.keys}, shape.valueDim);
    const Operands operands{queries.data(), keys.data(), values.data(), mask ? mask->as<const bool>() : nullptr};
    const Problem problem(environment, parameters_, shape, operands, output);
    if (!traced_) {
      Attention(problem, nullptr, nullptr).run();
      return;
    }
    const Choices made = madeChoices(context, problem);
    if (const std::optional<Choices> given = givenChoices(context)) {
      Attention(problem, &*given, &made).run();
    } else {
      Attention(problem, nullptr, &made).run();
    }
  }

 private:
  static std::optional<Choices> givenChoices(const RunContext& context) {
    std::vector<TensorView> given;
    for (size_t n = 0; n < 4; n++) {
      const std::optional<TensorView> choice = context.input(kGivenChoices + n);
      if (!choice) return std::nullopt;
      given.push_back(*choice);
    }
    return Choices{given[0].as<int32_t>(), given[1].as<float>(), given[2].as<int32_t>(), given[3].as<int32_t>()};
  }

  static Choices madeChoices(const RunContext& context, const Problem& problem) {
    const Shape& s = problem.shape;
    const auto dims = [](std::initializer_list<size_t> sizes) {
      return std::vector<int64_t>(sizes.begin(), sizes.end());
    };
    const auto filled = [&](size_t output, std::initializer_list<size_t> sizes) {
      size_t count = 1;
      for (const size_t size : sizes) count *= size;
      auto* data = static_cast<int32_t*>(context.output(kMadeChoices + output, dims(sizes)));
      std::fill_n(data, count, -1);
      return data;
    };
    const Geometry& geometry = problem.geometry;
    const auto clusters = static_cast<size_t>(geometry.clusters());
    const auto queryClusters = static_cast<size_t>(problem.parameters.queryClusters);
    const auto blocks = static_cast<size_t>(geometry.blocks());
    return {filled(0, {geometry.levels().size(), s.batch, s.kvHeads, s.keys}),
            static_cast<float*>(
                context.output(kMadeChoices + 1, dims({blocks, s.batch, s.heads, queryClusters, s.headDim}))),
            filled(2, {s.batch, s.heads, s.past + s.queries}), filled(3, {s.batch, s.heads, s.queries, clusters})};
  }

  const CpuArena arena_;
  const Parameters parameters_;
  const bool traced_;
};

Ports joined(Ports ports, const Ports& more) {
  ports.insert(ports.end(), more.begin(), more.end());
  return ports;
}
Ports choices(ort::Characteristic characteristic) {
  return {{ort::kInt32, characteristic}, {ort::kFloat, characteristic}, {ort::kInt32, characteristic},
          {ort::kInt32, characteristic}};
}

const Operator<Kernel> single(kOpType, nullptr, inputs(ort::kFloat), outputs(ort::kFloat));
const Operator<Kernel> half(kOpType, nullptr, inputs(ort::kFloat16), outputs(ort::kFloat16));
// For tests: takes and returns the discrete choices (struct Choices) after the ordinary inputs and outputs.
const Operator<Kernel> traced("MultipoleAttentionTraced", nullptr,
                              joined(inputs(ort::kFloat), choices(ort::kOptional)),
                              joined(outputs(ort::kFloat), choices(ort::kRequired)));
const Registration registrations[] = {Registration(single), Registration(half), Registration(traced)};

}  // namespace
}  // namespace onnxrewrite::multipole
