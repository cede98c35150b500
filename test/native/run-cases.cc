// Runs the CPU kernel of MultipoleAttention on a case file (dump-cases.ts) without ONNX Runtime, for builds
// with sanitizers: once choosing for itself, once with the reference's choices, whose results it then has to
// meet. sanitize.sh builds and runs it.
#include <cmath>
#include <condition_variable>
#include <functional>
#include <thread>

#include "../../custom-ops/multipole-attention/cpu_attention.h"
#include "../gpu/case-file.h"

using namespace onnxrewrite;
using namespace onnxrewrite::multipole;

namespace {

class Heap : public Allocator {
 public:
  void* allocate(size_t bytes) override { return ::operator new(bytes, std::align_val_t(64)); }
  void release(void* memory) noexcept override { ::operator delete(memory, std::align_val_t(64)); }
};

// A thread per runner, up to a limit.
class Threads : public Parallel {
 public:
  explicit Threads(size_t limit) : limit_(limit) {}

 private:
  void start(size_t count, void (*run)(void*, size_t), void* state) override {
    std::vector<std::thread> threads;
    for (size_t runner = 0; runner < std::min(count, limit_); runner++) threads.emplace_back(run, state, runner);
    for (std::thread& thread : threads) thread.join();
  }
  const size_t limit_;
};

Parameters parametersOf(std::map<std::string, test::Attribute> attributes) {
  const auto integer = [&](const char* name) { return attributes.at(name).ints.at(0); };
  const auto text = [&](const char* name) { return attributes.at(name).text; };
  Parameters p;
  if (attributes.count("scale")) p.scale = static_cast<float>(attributes["scale"].floats.at(0));
  if (attributes.count("causal_offset")) p.causalOffset = integer("causal_offset");
  p.causal = integer("causal") != 0;
  p.exactBelow = integer("exact_below");
  p.exactBelowRows = integer("exact_below_rows");
  p.segment = integer("segment");
  p.window = integer("window");
  p.keyClusters = integer("key_clusters");
  p.keyGrouping = text("key_grouping") == "kmeans" ? KeyGrouping::kmeans : KeyGrouping::contiguous;
  p.queryClusters = integer("query_clusters");
  p.iterations = integer("iterations");
  p.order = static_cast<int>(integer("order"));
  p.contracted = integer("contracted") != 0;
  p.retrieve = attributes["retrieve"].ints;
  p.retrieveMass = static_cast<float>(attributes.at("retrieve_mass").floats.at(0));
  p.retrieveError = static_cast<float>(attributes.at("retrieve_error").floats.at(0));
  const std::string selection = text("selection");
  p.selection = selection == "tile" ? Selection::tile : selection == "sliding" ? Selection::sliding : Selection::cluster;
  p.group = integer("group");
  p.dyadic = text("hierarchy") == "dyadic";
  return p;
}

// Rows of one or two tensors, padded to kLanes, in memory of exactly their size.
std::vector<float> padded(const test::Tensor* first, const test::Tensor& second) {
  const size_t heads = static_cast<size_t>(second.dims[0] * second.dims[1]), size = static_cast<size_t>(second.dims[3]);
  std::vector<float> rows;
  for (size_t head = 0; head < heads; head++) {
    for (const test::Tensor* part : {first, &second}) {
      if (!part) continue;
      const auto count = static_cast<size_t>(part->dims[2]);
      for (size_t n = 0; n < count; n++) {
        const float* row = reinterpret_cast<const float*>(part->data.data()) + (head * count + n) * size;
        rows.insert(rows.end(), row, row + size);
        rows.resize((rows.size() + kLanes - 1 - (rows.size() - size) % kLanes) / kLanes * kLanes);
      }
    }
  }
  return rows;
}

// The reference's lists, at the kernel's width.
std::vector<int32_t> widened(const test::Tensor& lists, size_t clusters) {
  const auto width = static_cast<size_t>(lists.dims[3]);
  const size_t rows = width == 0 ? 0 : lists.data.size() / sizeof(int32_t) / width;
  std::vector<int32_t> result(static_cast<size_t>(lists.dims[0] * lists.dims[1] * lists.dims[2]) * clusters, -1);
  for (size_t row = 0; row < rows; row++) {
    std::copy_n(reinterpret_cast<const int32_t*>(lists.data.data()) + row * width, std::min(width, clusters),
                result.begin() + static_cast<ptrdiff_t>(row * clusters));
  }
  return result;
}

double relativeError(const std::vector<float>& actual, const test::Tensor& expected) {
  double difference = 0, norm = 0;
  const float* reference = reinterpret_cast<const float*>(expected.data.data());
  for (size_t n = 0; n < actual.size(); n++) {
    if (actual[n] == reference[n]) continue;
    difference += std::pow(actual[n] - reference[n], 2);
    norm += std::pow(reference[n], 2);
  }
  return difference == 0 ? 0 : std::sqrt(difference / norm);
}

bool run(test::CaseRecord& record, size_t threadCount) {
  const Parameters parameters = parametersOf(record.attributes);
  const test::Tensor &query = record.tensors["query"], &key = record.tensors["key"], &value = record.tensors["value"];
  const bool hasPast = record.tensors.count("past_query") > 0;
  const auto dim = [](const test::Tensor& tensor, size_t axis) { return static_cast<size_t>(tensor.dims[axis]); };
  const Shape shape{dim(query, 0), dim(query, 1), dim(key, 1), dim(query, 2),
                    hasPast ? dim(record.tensors["past_query"], 2) : 0, dim(key, 2), dim(query, 3), dim(value, 3)};
  const std::vector<float> queries = padded(hasPast ? &record.tensors["past_query"] : nullptr, query);
  const std::vector<float> keys = padded(nullptr, key), values = padded(nullptr, value);
  const std::vector<uint8_t> mask = record.tensors["key_mask"].data;
  const Operands operands{queries.data(), keys.data(), values.data(),
                          mask.empty() ? nullptr : reinterpret_cast<const bool*>(mask.data())};
  Heap heap;
  Threads threads(threadCount);
  const Environment environment{simd(), heap, threads};
  const size_t rows = shape.batch * shape.heads * shape.queries;
  std::vector<float> output(rows * shape.valueDim), logSumExp(rows);
  const Problem problem(environment, parameters, shape, operands, {output.data(), logSumExp.data(), false});
  Attention(problem, nullptr, nullptr).run();

  std::vector<int32_t> lists = widened(record.tensors["retrieved"], static_cast<size_t>(problem.geometry.clusters()));
  const auto data = [&](const char* name) { return record.tensors[name].data.data(); };
  const Choices given{reinterpret_cast<int32_t*>(data("key_clusters")), reinterpret_cast<float*>(data("query_centroids")),
                      reinterpret_cast<int32_t*>(data("query_clusters")), lists.data()};
  Attention(problem, &given, nullptr).run();
  const double error = relativeError(output, record.tensors["output"]);
  const double lseError = relativeError(logSumExp, record.tensors["lse"]);
  const bool passed = error < 1e-5 && lseError < 1e-5;
  if (!passed) std::printf("%s: relative error %g, lse %g\n", record.name.c_str(), error, lseError);
  return passed;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: run-cases CASES.bin THREADS\n");
    return 2;
  }
  test::CaseReader reader(argv[1]);
  test::CaseRecord record;
  int failures = 0, cases = 0;
  while (reader.next(record)) {
    cases++;
    failures += !run(record, static_cast<size_t>(std::atoi(argv[2])));
  }
  std::printf("%d cases, %d failed\n", cases, failures);
  return failures > 0;
}
