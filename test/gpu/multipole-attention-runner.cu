// Runs MultipoleAttention on the cases of a file and writes outputs and discrete choices to another:
//   multipole-attention-runner CASES RESULTS [PATH [SEED]]
// PATH `mma` keeps to the kernels of chips before Hopper. Compiled by nvcc for a GPU, or by a C++ compiler against
// the emulation, whose thread schedule SEED changes.
// Outputs and scratch memory are poisoned before every run, and every case runs twice: the bytes must agree. On a GPU the
// second run is a CUDA graph of the first one.
#include "../../custom-ops/multipole-attention/cuda/pipeline.cuh"
#include "device.h"
#ifndef ONNX_REWRITE_EMULATE_CUDA
#include "../../custom-ops/native/cuda/replay.h"
#endif

namespace {

using namespace onnxrewrite;
using namespace onnxrewrite::multipole;
using namespace onnxrewrite::multipole::cuda;
using onnxrewrite::test::CaseRecord;
using onnxrewrite::test::Device;
using onnxrewrite::test::check;
using onnxrewrite::test::floatsOf;
using onnxrewrite::test::kFloat;
using onnxrewrite::test::kInt32;
using onnxrewrite::test::tensorOf;

Parameters parametersOf(CaseRecord& record) {
  auto integer = [&](const char* name) { return record.attributes.at(name).ints.at(0); };
  auto text = [&](const char* name) { return record.attributes.at(name).text; };
  Parameters p;
  if (record.attributes.count("scale")) p.scale = static_cast<float>(record.attributes["scale"].floats.at(0));
  if (record.attributes.count("causal_offset")) p.causalOffset = integer("causal_offset");
  p.causal = integer("causal") != 0;
  p.exactBelow = integer("exact_below");
  p.exactBelowRows = integer("exact_below_rows");
  p.segment = integer("segment");
  p.window = integer("window");
  p.keyClusters = integer("key_clusters");
  p.keyGrouping = text("key_grouping") == "kmeans" ? KeyGrouping::kmeans : KeyGrouping::contiguous;
  p.queryClusters = integer("query_clusters");
  p.iterations = integer("iterations");
  p.retrieve = record.attributes.at("retrieve").ints;
  p.retrieveMass = static_cast<float>(record.attributes.at("retrieve_mass").floats.at(0));
  p.retrieveError = static_cast<float>(record.attributes.at("retrieve_error").floats.at(0));
  const std::string selection = text("selection");
  p.selection = selection == "tile" ? Selection::tile : selection == "sliding" ? Selection::sliding : Selection::cluster;
  p.group = integer("group");
  return p;
}

Shape shapeOf(CaseRecord& record) {
  auto dims = [&](const char* name, int axis) {
    auto found = record.tensors.find(name);
    return found == record.tensors.end() ? size_t{0} : static_cast<size_t>(found->second.dims.at(axis));
  };
  return {dims("query", 0),      dims("query", 1), dims("key", 1),   dims("query", 2),
          dims("past_query", 2), dims("key", 2),   dims("query", 3), dims("value", 3)};
}

__global__ void poolOfRows(Pools pools, const int* places, int* result) {
  const int head = blockIdx.y, row = blockIdx.x;
  if (threadIdx.x > 0) return;
  const size_t at = static_cast<size_t>(head) * pools.g.rows + row;
  result[at] = pools.g.blockOf(row) < 0 ? -1 : pools.of(head, row, places ? places[at] : 0);
}

/** [B,H,N, clusters]: clusters chosen for each query row, ascending, then -1. */
template <class T>
std::vector<int32_t> chosenClusters(const MultipoleAttention<T>& attention) {
  const Geometry& g = attention.geometry();
  const ChosenClusters& chosen = attention.chosen();
  const int heads = g.batch * g.heads, perHead = attention.pools().count();
  Device<int32_t> rowPools(static_cast<size_t>(heads) * g.rows);
  check(launch(poolOfRows, dim3(g.rows, heads), 32, 0, nullptr, attention.pools(), attention.places(), rowPools.get()),
        "pools");
  const std::vector<int32_t> pools = rowPools.read();
  const auto bits = Device<uint32_t>::copy(chosen.bits, static_cast<size_t>(heads) * perHead * chosen.words);
  std::vector<int32_t> result;
  for (int head = 0; head < heads; head++)
    for (int row = g.past; row < g.rows; row++) {
      const int pool = pools[static_cast<size_t>(head) * g.rows + row];
      int found = 0;
      for (int j = 0; pool >= 0 && j < g.clusters(); j++)
        if (bits[(static_cast<size_t>(head) * perHead + pool) * chosen.words + j / 32] >> j % 32 & 1) {
          result.push_back(j);
          found++;
        }
      for (; found < g.clusters(); found++) result.push_back(-1);
    }
  return result;
}

/** Centroids in the order of the reference: [blocks][B,H,C,D]. */
template <class T>
std::vector<float> centroidsByBlock(const MultipoleAttention<T>& attention) {
  const Geometry& g = attention.geometry();
  const size_t heads = static_cast<size_t>(g.batch) * g.heads, part = static_cast<size_t>(g.queryClusters) * g.headDim;
  const size_t count = heads * g.blocks * part;
  std::vector<float> all = Device<float>::copy(attention.queryCentroids().mean, count), result(count);
  if (attention.roundsCentroids()) {
    const auto rounded = Device<T>::copy(attention.queryCentroids().rounded, count);
    for (size_t i = 0; i < count; i++) all[i] = static_cast<float>(rounded[i]);
  }
  for (size_t head = 0; head < heads; head++)
    for (int block = 0; block < g.blocks; block++)
      for (size_t i = 0; i < part; i++) result[(block * heads + head) * part + i] = all[(head * g.blocks + block) * part + i];
  return result;
}

template <class T>
void runCase(CaseRecord& record, bool hopper, SideStream& side, CaseRecord& result) {
  const Shape shape = shapeOf(record);
  const Parameters parameters = parametersOf(record);
  Device<T> query(record.tensors["query"]), key(record.tensors["key"]), value(record.tensors["value"]),
      past(record.tensors["past_query"]);
  Device<bool> mask(record.tensors["key_mask"]);
  const size_t rows = shape.batch * shape.heads * shape.queries;
  Device<T> output(rows * shape.valueDim);
  Device<T> lse(rows);
  const Tensors<T> tensors{query.get(),      key.get(),    value.get(), mask.getIfAny(),
                           past.getIfAny(), output.get(), lse.get()};
  Device<char> memory(MultipoleAttention<T>(shape, parameters, tensors.mask, nullptr, hopper).bytes());
  MultipoleAttention<T> attention(shape, parameters, tensors.mask, memory.get(), hopper);
  const auto enqueue = [&](cudaStream_t stream) { return attention.run(tensors, stream, side); };
#ifndef ONNX_REWRITE_EMULATE_CUDA
  Replay replay;
#endif
  test::Repeated repeated(record.name);
  for (int repeat = 0; repeat < 2; repeat++) {
    output.poison();
    lse.poison();
    memory.poison();
#ifdef ONNX_REWRITE_EMULATE_CUDA
    check(enqueue(nullptr), "run");
#else
    check(replay.run({}, nullptr, enqueue), "run");
    if (replay.graphs() != static_cast<size_t>(repeat)) throw std::runtime_error(record.name + ": no graph was recorded");
#endif
    check(cudaDeviceSynchronize(), "synchronize");
    repeated.add(output);
    repeated.compare();
  }

  result.tensors["output"] = floatsOf(output.read());
  result.tensors["lse"] = floatsOf(lse.read());
  const Geometry& g = attention.geometry();
  auto labels = [&](const char* name, const uint16_t* from, size_t count) {
    if (!from) return;
    std::vector<int32_t> values;
    for (uint16_t label : Device<uint16_t>::copy(from, count)) values.push_back(label == kNoLabel ? -1 : label);
    result.tensors[name] = tensorOf(kInt32, values);
  };
  labels("key_clusters", attention.keyLabels(), shape.batch * shape.kvHeads * shape.keys);
  if (attention.approximate() && g.blocks > 0 && rows > 0) {
    labels("query_clusters", attention.queryLabels(), shape.batch * shape.heads * g.rows);
    result.tensors["query_centroids"] = tensorOf(kFloat, centroidsByBlock(attention));
    if (attention.chosen().bits) result.tensors["retrieved"] = tensorOf(kInt32, chosenClusters(attention));
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bool hopper = hasHopper() && !(argc > 3 && std::string(argv[3]) == "mma");
#ifdef ONNX_REWRITE_EMULATE_CUDA
  if (argc > 4) emulation::setSchedule(static_cast<unsigned>(std::atoi(argv[4])));
#endif
  SideStream side;
  return test::runCases(argc, argv, "usage: multipole-attention-runner CASES RESULTS [PATH [SEED]]",
                        [&](CaseRecord& record, CaseRecord& result) {
                          test::withType(record, [&](auto type) { runCase<decltype(type)>(record, hopper, side, result); });
                        });
}
