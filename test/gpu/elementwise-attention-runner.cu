// Runs ElementwiseAttention on the cases of a file and writes outputs and states to another:
//   elementwise-attention-runner CASES RESULTS
// Compiled by nvcc for a GPU, or by a C++ compiler against the emulation. Outputs and scratch memory are poisoned before
// every run, and every case runs twice: the bytes must agree.
#include "../../custom-ops/elementwise-attention/cuda/attention.cuh"
#include "device.h"

namespace {

using namespace onnxrewrite::elementwise;
using namespace onnxrewrite::test;
using cuda::ElementwiseAttention;

template <class T>
void runCase(CaseRecord& record, CaseRecord& result) {
  const Parameters parameters{static_cast<int>(record.attributes.at("order").ints.at(0)),
                              record.attributes.at("causal").ints.at(0) != 0};
  const Shape shape{dimensionOf(record, "query", 0), dimensionOf(record, "query", 1), dimensionOf(record, "key", 1),
                    dimensionOf(record, "query", 2)};
  Device<T> query(record.tensors["query"]), key(record.tensors["key"]), value(record.tensors["value"]);
  Device<bool> mask(record.tensors["key_mask"]);
  Device<float> pastSums(record.tensors["past_state"]), pastOffsets(record.tensors["past_offset"]);
  Device<T> output(shape.batch * shape.rows * shape.channels);
  const bool series = parameters.order > 0;
  Device<float> sums(series ? shape.batch * sumsOf(parameters.order) * shape.channels : 0);
  Device<float> offsets(series ? shape.batch * shape.channels : 0);
  Device<char> memory(ElementwiseAttention<T>(shape, parameters, nullptr).bytes());
  const ElementwiseAttention<T> attention(shape, parameters, memory.get());
  const auto run = [&] {
    memory.poison();
    return attention.run({query.get(), key.get(), value.get(), mask.getIfAny(), output.get(), pastSums.getIfAny(),
                          pastOffsets.getIfAny(), sums.getIfAny(), offsets.getIfAny()},
                         nullptr);
  };
  runTwice(record.name, run, output, sums, offsets);
  result.tensors["output"] = floatsOf(output.read());
  if (!series) return;
  result.tensors["present_state"] = floatsOf(sums.read());
  result.tensors["present_offset"] = floatsOf(offsets.read());
}

}  // namespace

int main(int argc, char** argv) {
  return runCases(argc, argv, "usage: elementwise-attention-runner CASES RESULTS", [](CaseRecord& record, CaseRecord& result) {
    withType(record, [&](auto type) { runCase<decltype(type)>(record, result); });
  });
}
