// Runs MultiLevelAttention on the cases of a file and writes outputs and caches to another:
//   multi-level-attention-runner CASES RESULTS [PATH]
// PATH `mma` keeps to the kernels of chips before Hopper. Compiled by nvcc for a GPU, or by a C++ compiler against the
// emulation. Outputs and scratch memory are poisoned before every run, and every case runs twice: the bytes must agree.
#include <memory>

#include "../../custom-ops/multi-level-attention/cuda/attention.cuh"
#include "device.h"

namespace {

using namespace onnxrewrite::multilevel;
using namespace onnxrewrite::test;
using cuda::MultiLevelAttention;

Parameters parametersOf(CaseRecord& record) {
  Parameters p;
  if (record.attributes.count("scale")) p.scale = static_cast<float>(record.attributes["scale"].floats.at(0));
  if (record.attributes.count("causal_offset")) p.causalOffset = record.attributes["causal_offset"].ints.at(0);
  p.causal = record.attributes.at("causal").ints.at(0) != 0;
  p.ranks = record.attributes.at("ranks").ints;
  p.block = record.attributes.at("block").ints.at(0);
  for (double factor : record.attributes.at("level_scale").floats) p.levelScale.push_back(static_cast<float>(factor));
  const std::string& divide = record.attributes.at("divide").text;
  p.divide = divide == "count" ? Divide::count : divide == "shared" ? Divide::shared : Divide::none;
  return p;
}

template <class T>
void runCase(CaseRecord& record, bool hopper, CaseRecord& result) {
  const Parameters parameters = parametersOf(record);
  const Shape shape{dimensionOf(record, "query", 0),      dimensionOf(record, "query", 1), dimensionOf(record, "key", 1),
                    dimensionOf(record, "query", 2),      dimensionOf(record, "past_value", 2),
                    dimensionOf(record, "key", 2),        dimensionOf(record, "query", 3), dimensionOf(record, "value", 3)};
  const auto inputOf = [&](const std::string& name) { return std::make_unique<Device<T>>(record.tensors[name]); };
  const auto query = inputOf("query"), key = inputOf("key"), value = inputOf("value"), pastValue = inputOf("past_value");
  Device<bool> mask(record.tensors["key_mask"]);
  const size_t rows = shape.batch * shape.heads * shape.queries, kvHeads = shape.batch * shape.kvHeads;
  Device<T> output(rows * shape.valueDim), lse(rows), presentValue(kvHeads * shape.keys() * shape.valueDim);
  cuda::Operands<T> operands{query->get(), key->get(), value->get(), mask.getIfAny(), pastValue->get(), {}, {}};
  cuda::Present<T> present{presentValue.get(), {}};
  std::vector<std::unique_ptr<Device<T>>> pastKeys, presentKeys;
  for (size_t level = 0; level < parameters.levels(); level++) {
    const std::string name = "past_key_" + std::to_string(level + 1);
    pastKeys.push_back(inputOf(name));
    operands.pastKeys[level] = pastKeys.back()->get();
    operands.cached[level] = static_cast<int>(dimensionOf(record, name.c_str(), 2));
    const size_t kept = parameters.cachedKeys(level, shape.keys());
    presentKeys.push_back(std::make_unique<Device<T>>(kvHeads * kept * static_cast<size_t>(parameters.ranks[level])));
    present.keys[level] = presentKeys.back()->get();
  }
  Device<char> memory(MultiLevelAttention<T>(shape, parameters, nullptr, hopper).bytes());
  const MultiLevelAttention<T> attention(shape, parameters, memory.get(), hopper);
  const auto run = [&] {
    memory.poison();
    for (const auto& keys : presentKeys) keys->poison();
    return attention.run(operands, {output.get(), lse.get()}, present, nullptr);
  };
  runTwice(record.name, run, output, lse, presentValue);
  result.tensors["output"] = floatsOf(output.read());
  result.tensors["lse"] = floatsOf(lse.read());
  result.tensors["present_value"] = floatsOf(presentValue.read());
  for (size_t level = 0; level < presentKeys.size(); level++)
    result.tensors["present_key_" + std::to_string(level + 1)] = floatsOf(presentKeys[level]->read());
}

}  // namespace

int main(int argc, char** argv) {
  const bool hopper = onnxrewrite::cuda::hasHopper() && !(argc > 3 && std::string(argv[3]) == "mma");
  return runCases(argc, argv, "usage: multi-level-attention-runner CASES RESULTS [PATH]",
                  [&](CaseRecord& record, CaseRecord& result) {
                    withType(record, [&](auto type) { runCase<decltype(type)>(record, hopper, result); });
                  });
}
