// Runs LocalAttention on the cases of a file and writes outputs to another:
//   local-attention-runner CASES RESULTS [PATH]
// PATH `mma` keeps to the kernels of chips before Hopper. Compiled by nvcc for a GPU, or by a C++ compiler against the
// emulation. Outputs are poisoned before every run, and every case runs twice: the bytes must agree.
#include "../../custom-ops/local-attention/cuda/attention.cuh"
#include "device.h"

namespace {

using namespace onnxrewrite::local;
using namespace onnxrewrite::test;

Parameters parametersOf(const CaseRecord& record) {
  Parameters p;
  const auto integer = [&](const char* name) -> std::optional<int64_t> {
    const auto found = record.attributes.find(name);
    if (found == record.attributes.end()) return std::nullopt;
    return found->second.ints.at(0);
  };
  const auto reach = [&](const char* name) {
    const std::optional<int64_t> limit = integer(name);
    return limit == -1 ? std::nullopt : limit;
  };
  if (record.attributes.count("scale")) p.scale = static_cast<float>(record.attributes.at("scale").floats.at(0));
  p.left = reach("window_left");
  p.right = reach("window_right");
  p.offset = integer("causal_offset");
  return p;
}

template <class T>
void runCase(CaseRecord& record, bool hopper, CaseRecord& result) {
  const Shape shape{dimensionOf(record, "query", 0), dimensionOf(record, "query", 1), dimensionOf(record, "key", 1),
                    dimensionOf(record, "query", 2), dimensionOf(record, "key", 2),   dimensionOf(record, "query", 3),
                    dimensionOf(record, "value", 3)};
  const Device<T> query(record.tensors["query"]), key(record.tensors["key"]), value(record.tensors["value"]);
  const Device<bool> mask(record.tensors["key_mask"]);
  const size_t rows = shape.batch * shape.heads * shape.queries;
  Device<T> output(rows * shape.valueDim), lse(rows);
  const cuda::LocalAttention<T> attention(cuda::geometryOf(shape, parametersOf(record)), hopper);
  const cuda::Tensors<T> tensors{query.get(), key.get(), value.get(), mask.getIfAny(), output.get(), lse.get()};
  runTwice(record.name, [&] { return attention.run(tensors, nullptr); }, output, lse);
  result.tensors["output"] = floatsOf(output.read());
  result.tensors["lse"] = floatsOf(lse.read());
}

}  // namespace

int main(int argc, char** argv) {
  const bool hopper = onnxrewrite::cuda::hasHopper() && !(argc > 3 && std::string(argv[3]) == "mma");
  return runCases(argc, argv, "usage: local-attention-runner CASES RESULTS [PATH]", [&](CaseRecord& record, CaseRecord& result) {
    withType(record, [&](auto type) { runCase<decltype(type)>(record, hopper, result); });
  });
}
