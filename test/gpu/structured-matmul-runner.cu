// Runs StructuredMatMul by butterflies on the cases of a file and writes outputs to another:
//   structured-matmul-runner CASES RESULTS
// Compiled by nvcc for a GPU, or by a C++ compiler against the emulation. Outputs are poisoned before every run, and every
// case runs twice: the bytes must agree.
#include "../../custom-ops/structured-matmul/cuda/butterfly.cuh"
#include "device.h"

namespace {

using namespace onnxrewrite::structured;
using namespace onnxrewrite::test;

template <class T>
void runCase(CaseRecord& record, CaseRecord& result) {
  const Device<T> x(record.tensors["x"]), factors(record.tensors["left_1"]);
  const int stages = static_cast<int>(dimensionOf(record, "left_1", 0));
  const size_t count = x.read().size();
  Device<T> output(count);
  runTwice(
      record.name,
      [&] { return cuda::launchButterfly<T>({x.get(), factors.get(), output.get(), count >> stages, stages}, nullptr); },
      output);
  result.tensors["output"] = floatsOf(output.read());
}

}  // namespace

int main(int argc, char** argv) {
  return runCases(argc, argv, "usage: structured-matmul-runner CASES RESULTS", [](CaseRecord& record, CaseRecord& result) {
    withType(record, [&](auto type) { runCase<decltype(type)>(record, result); }, "x");
  });
}
