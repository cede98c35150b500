// LocalAttention on the CPU execution provider: tiles of rows, each over the keys that any of its rows sees.
//
// Every row is summed in an order that depends on its position alone: results are the same for any number of
// threads, and a row is bit for bit the same whatever stands beyond its window.
#include "../native/attention_output.h"
#include "../native/padded_rows.h"
#include "../native/visible_keys.h"
#include "signature.h"

namespace onnxrewrite::local {
namespace {

// Row-major in float32, rows padded to kLanes.
struct Operands {
  const float* query;   // [batch][heads][queries][headDim]
  const float* key;     // [batch][kvHeads][keys][headDim]
  const float* value;   // [batch][kvHeads][keys][valueDim]
  const bool* keyMask;  // [batch][keys], or null
};

class Attention {
 public:
  Attention(const Environment& environment, const Parameters& parameters, const Shape& shape,
            const Operands& operands, const AttentionOutput& output)
      : environment_(environment),
        shape_(shape),
        keys_(static_cast<int64_t>(shape.keys)),
        offset_(parameters.offset.value_or(keys_ - static_cast<int64_t>(shape.queries))),
        depth_(roundUpToLanes(shape.headDim)),
        size_(roundUpToLanes(shape.valueDim)),
        multiplier_(parameters.scale.value_or(1.f / std::sqrt(static_cast<float>(shape.headDim))) * kLog2E),
        // No two positions are farther apart.
        left_(parameters.left.value_or(INT32_MAX)),
        right_(parameters.right.value_or(INT32_MAX)),
        operands_(operands),
        output_(output),
        visible_(operands.keyMask, shape.batch, shape.keys) {}

  void run() const {
    const size_t tiles = (shape_.queries + kTile - 1) / kTile, heads = shape_.batch * shape_.heads;
    const std::vector<char> finite = finiteHeads();
    PerRunner<TileSoftmax> workspaces(heads * tiles);
    environment_.parallel.forEach(heads * tiles, [&](size_t item, size_t runner) {
      const size_t head = item / tiles, first = item % tiles * kTile;
      const size_t kvHead = head / shape_.heads * shape_.kvHeads + head % shape_.heads / (shape_.heads / shape_.kvHeads);
      const KeyValue kv{operands_.key + kvHead * shape_.keys * depth_, operands_.value + kvHead * shape_.keys * size_,
                        depth_, size_, !finite[kvHead]};
      attendTile(workspaces.get(runner, environment_, depth_, size_), head, first,
                 std::min(kTile, shape_.queries - first), kv);
    });
  }

 private:
  // By key head, whether a weight of zero keeps every key and value out of a row.
  std::vector<char> finiteHeads() const {
    std::vector<char> finite(shape_.batch * shape_.kvHeads);
    environment_.parallel.forEach(finite.size(), [&](size_t head, size_t) {
      const size_t keys = shape_.keys;
      finite[head] = environment_.simd.allFinite(operands_.key + head * keys * depth_, keys * depth_) &&
                     environment_.simd.allFinite(operands_.value + head * keys * size_, keys * size_);
    });
    return finite;
  }

  void attendTile(TileSoftmax& tile, size_t head, size_t first, size_t count, const KeyValue& kv) const {
    const size_t at = head * shape_.queries + first;
    tile.start(Rows{operands_.query + at * depth_, depth_}, count, multiplier_);
    const int64_t position = static_cast<int64_t>(first) + offset_;
    const Span range{std::max<int64_t>(0, position - left_),
                     std::min(keys_, position + static_cast<int64_t>(count) + right_)};
    const VisibleKeys::Part keys = visible_.in(head / shape_.heads, range);
    if (keys.count > 0) {
      tile.attendWithin(kv, keys.index, keys.first, keys.count, {position - left_, position + right_ + 1});
    }
    output_.writeTile(environment_.simd, tile, at, count, shape_.valueDim);
  }

  const Environment& environment_;
  const Shape& shape_;
  const int64_t keys_, offset_;
  const size_t depth_, size_;
  const float multiplier_;
  const int64_t left_, right_;
  const Operands operands_;
  const AttentionOutput output_;
  const VisibleKeys visible_;
};

class Kernel {
 public:
  Kernel(const ort::Api& api, const NodeAttributes& attributes, const Operator<Kernel>&)
      : arena_(api), parameters_(readParameters(attributes)) {}

  void run(const RunContext& context) const {
    const Tensors tensors(context);
    const Shape& shape = tensors.shape;
    const AttentionOutput output{context.output(kOutput, tensors.outputDims()),
                                 context.output(kLogSumExp, tensors.rowDims()), tensors.query.type == ort::kFloat16};

    SessionMemory memory(context, arena_);
    SessionThreads threads(context);
    const Environment environment{simd(), memory, threads};
    const size_t kvHeads = shape.batch * shape.kvHeads;
    const PaddedRows queries(environment, shape.batch * shape.heads, {&tensors.query}, {shape.queries}, shape.headDim);
    const PaddedRows keys(environment, kvHeads, {&tensors.key}, {shape.keys}, shape.headDim);
    const PaddedRows values(environment, kvHeads, {&tensors.value}, {shape.keys}, shape.valueDim);
    const Operands operands{queries.data(), keys.data(), values.data(), tensors.visible()};
    Attention(environment, parameters_, shape, operands, output).run();
  }

 private:
  const CpuArena arena_;
  const Parameters parameters_;
};

const Operator<Kernel> single(kOpType, nullptr, inputs(ort::kFloat), outputs(ort::kFloat));
const Operator<Kernel> half(kOpType, nullptr, inputs(ort::kFloat16), outputs(ort::kFloat16));
const Registration registrations[] = {Registration(single), Registration(half)};

}  // namespace
}  // namespace onnxrewrite::local
