// Runs BilinearAttention on the cases of a file and writes outputs to another:
//   bilinear-attention-runner CASES RESULTS [PATH]
// PATH `mma` keeps to the kernels of chips before Hopper. Compiled by nvcc for a GPU, or by a C++ compiler against the
// emulation. Outputs and scratch memory are poisoned before every run, and every case runs twice: the bytes must agree.
#include <memory>

#include "../../custom-ops/bilinear-attention/cuda/attention.cuh"
#include "device.h"

namespace {

using namespace onnxrewrite::bilinear;
using namespace onnxrewrite::test;
using cuda::BilinearAttention;

Parameters parametersOf(CaseRecord& record) {
  const auto ints = [&](const char* name) { return record.attributes.at(name).ints; };
  const std::string& normalization = record.attributes.at("normalisation").text;
  Parameters p{};
  p.train = record.attributes.at("kind").text == "block-tensor-train";
  p.normalized = normalization != "none";
  p.centered = normalization == "layer";
  p.causal = ints("causal").at(0) != 0;
  p.heads = static_cast<size_t>(ints("heads").at(0));
  p.features = static_cast<size_t>(ints("features").at(0));
  p.epsilon = static_cast<float>(record.attributes.at("epsilon").floats.at(0));
  for (size_t l = 0; l < ints("ranks").size(); l++)
    p.levels.push_back({static_cast<size_t>(ints("input_pieces")[l]), static_cast<size_t>(ints("output_pieces")[l]),
                        static_cast<size_t>(ints("ranks")[l]), p.train,
                        static_cast<float>(record.attributes.at("level_scale").floats.at(l))});
  return p;
}

template <class T>
void runCase(CaseRecord& record, bool hopper, CaseRecord& result) {
  const Parameters parameters = parametersOf(record);
  const Shape shape{dimensionOf(record, "value", 0), parameters.heads, dimensionOf(record, "value", 2), parameters.depth(),
                    dimensionOf(record, "value", 3)};
  std::vector<std::unique_ptr<Device<T>>> inputs;
  const auto input = [&](const std::string& name) {
    inputs.push_back(std::make_unique<Device<T>>(record.tensors[name]));
    return static_cast<const T*>(inputs.back()->getIfAny());
  };
  const Device<bool> mask(record.tensors["key_mask"]);
  cuda::Operands<T> operands{input("x"), input("value"), mask.getIfAny(), input("left"), input("right"), {}};
  for (size_t l = 0; l < parameters.levels.size(); l++) {
    const std::string level = std::to_string(l + 1);
    operands.levels[l] = {input("query_" + level), input("key_" + level), input("query_norm_" + level), input("key_norm_" + level)};
  }
  Device<T> output(shape.batch * shape.heads * shape.tokens * shape.valueDim);
  Device<char> memory(BilinearAttention<T>(shape, parameters, nullptr, hopper).bytes());
  const BilinearAttention<T> attention(shape, parameters, memory.get(), hopper);
  const auto run = [&] {
    memory.poison();
    return attention.run(operands, output.get(), nullptr);
  };
  runTwice(record.name, run, output);
  result.tensors["output"] = floatsOf(output.read());
}

}  // namespace

int main(int argc, char** argv) {
  const bool hopper = onnxrewrite::cuda::hasHopper() && !(argc > 3 && std::string(argv[3]) == "mma");
  return runCases(argc, argv, "usage: bilinear-attention-runner CASES RESULTS [PATH]", [&](CaseRecord& record, CaseRecord& result) {
    withType(record, [&](auto type) { runCase<decltype(type)>(record, hopper, result); }, "x");
  });
}
