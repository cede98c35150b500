// MultiLevelAttention on the CPU execution provider.
#include <cstring>

#include "../native/attention_shapes.h"
#include "../native/padded_rows.h"
#include "attributes.h"
#include "cpu_attention.h"

namespace onnxrewrite::multilevel {
namespace {

enum Input { kQuery, kKey, kValue, kKeyMask, kPastValue, kPastKey };
enum Result { kOutput, kLogSumExp, kPresentValue, kPresentKey };

// The inputs of one run, and what follows from their shapes.
struct Tensors {
  Tensors(const RunContext& context, const Parameters& parameters)
      : query(*context.input(kQuery)),
        key(*context.input(kKey)),
        value(*context.input(kValue)),
        mask(context.input(kKeyMask)),
        pastValue(context.input(kPastValue)) {
    for (size_t level = 0; level < kMostLevels; level++) pastKeys.push_back(context.input(kPastKey + level));
    checkShapes(kOpType, query, key, value);
    const auto &q = query.dims, &k = key.dims, &v = value.dims;
    int64_t dimensions = 0;
    for (const int64_t rank : parameters.ranks) dimensions += rank;
    if (q[3] != dimensions) {
      refuse("query " + describe(q) + " has not the " + std::to_string(dimensions) + " dimensions of ranks");
    }
    const int64_t past = checkPast(parameters);
    const int64_t keys = past + k[2];
    if (mask) checkKeyMask(kOpType, *mask, q[0], keys);
    if (keys > INT32_MAX || q[2] > INT32_MAX) refuse("more than 2^31 queries or keys");
    const auto size = [](int64_t n) { return static_cast<size_t>(n); };
    shape = {size(q[0]), size(q[1]), size(k[1]), size(q[2]), size(past), size(k[2]), size(q[3]), size(v[3])};
  }

  TensorView query, key, value;
  std::optional<TensorView> mask, pastValue;
  std::vector<std::optional<TensorView>> pastKeys;
  Shape shape;

 private:
  // Tokens in the cache.
  int64_t checkPast(const Parameters& parameters) const {
    const size_t levels = parameters.levels();
    for (size_t level = 0; level < kMostLevels; level++) {
      if (pastKeys[level].has_value() != (pastValue.has_value() && level < levels)) {
        refuse("past_value and past_key_1 to past_key_" + std::to_string(levels) + " come together or not at all");
      }
    }
    if (!pastValue) return 0;
    const auto &k = key.dims, &v = value.dims, &pv = pastValue->dims;
    requireRank(kOpType, *pastValue, "past_value", 4);
    if (pv[0] != v[0] || pv[1] != v[1] || pv[3] != v[3]) {
      refuse("past_value " + describe(pv) + " does not fit value " + describe(v));
    }
    if (query.dims[2] != k[2] || parameters.causalOffset) {
      refuse("after a cache there are as many queries as keys, and no causal_offset");
    }
    for (size_t level = 0; level < levels; level++) {
      const int64_t cached = level == 0 ? pv[2] : pv[2] % parameters.blockLength(level);
      const std::vector<int64_t> expected{k[0], k[1], cached, parameters.ranks[level]};
      if (pastKeys[level]->dims != expected) {
        refuse("past_key_" + std::to_string(level + 1) + " has shape " + describe(pastKeys[level]->dims) + ", not " +
               describe(expected) + " after " + std::to_string(pv[2]) + " tokens");
      }
    }
    return pv[2];
  }
};

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
    const std::vector<int64_t> dims{static_cast<int64_t>(s.batch), static_cast<int64_t>(s.kvHeads),
                                    static_cast<int64_t>(rows), static_cast<int64_t>(size)};
    return static_cast<char*>(context.output(index, dims));
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
    const size_t kept = level == 0 ? s.keys() : s.keys() % static_cast<size_t>(parameters.blockLength(level));
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
      : api_(api), parameters_(readParameters(attributes)) {
    ort::check(api_, api_.CreateCpuMemoryInfo(ort::kArenaAllocator, ort::kMemoryDefault, &memoryInfo_));
  }
  ~Kernel() { api_.ReleaseMemoryInfo(memoryInfo_); }
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;

  void run(const RunContext& context) const {
    const Tensors tensors(context, parameters_);
    const Shape& shape = tensors.shape;
    const auto dims = [](std::initializer_list<size_t> sizes) {
      return std::vector<int64_t>(sizes.begin(), sizes.end());
    };
    const AttentionOutput output{
        context.output(kOutput, dims({shape.batch, shape.heads, shape.queries, shape.valueDim})),
        context.output(kLogSumExp, dims({shape.batch, shape.heads, shape.queries})),
        tensors.query.type == ort::kFloat16};

    SessionMemory memory(context, memoryInfo_);
    SessionThreads threads(context);
    const Environment environment{simd(), memory, threads};
    const size_t heads = shape.batch * shape.heads, kvHeads = shape.batch * shape.kvHeads;
    const PaddedRows queries(environment, heads, {&tensors.query}, {shape.queries}, shape.headDim);
    if (tensors.pastValue) {
      const JoinedKeys keys(environment, parameters_, tensors);
      const PaddedRows values(environment, kvHeads, {&*tensors.pastValue, &tensors.value}, {shape.past, shape.fresh},
                              shape.valueDim);
      attend(environment, tensors, {queries.data(), keys.data(), shape.headDim, values.data(), maskOf(tensors)}, output);
    } else {
      const PaddedRows keys(environment, kvHeads, {&tensors.key}, {shape.fresh}, shape.headDim);
      const PaddedRows values(environment, kvHeads, {&tensors.value}, {shape.fresh}, shape.valueDim);
      attend(environment, tensors,
             {queries.data(), keys.data(), roundUpToLanes(shape.headDim), values.data(), maskOf(tensors)}, output);
    }
    writePresent(context, environment, parameters_, tensors);
  }

 private:
  static const bool* maskOf(const Tensors& tensors) { return tensors.mask ? tensors.mask->as<const bool>() : nullptr; }

  void attend(const Environment& environment, const Tensors& tensors, const Operands& operands,
              const AttentionOutput& output) const {
    Attention(environment, parameters_, tensors.shape, operands, output).run();
  }

  const ort::Api& api_;
  const Parameters parameters_;
  ort::MemoryInfo* memoryInfo_ = nullptr;
};

std::vector<Port> inputs(ort::ElementType type) {
  std::vector<Port> ports{{type, ort::kRequired}, {type, ort::kRequired}, {type, ort::kRequired},
                          {ort::kBool, ort::kOptional}, {type, ort::kOptional}};
  ports.insert(ports.end(), kMostLevels, {type, ort::kOptional});
  return ports;
}
std::vector<Port> outputs(ort::ElementType type) {
  std::vector<Port> ports{{type, ort::kRequired}, {type, ort::kOptional}, {type, ort::kOptional}};
  ports.insert(ports.end(), kMostLevels, {type, ort::kOptional});
  return ports;
}

const Operator<Kernel> single(kOpType, nullptr, inputs(ort::kFloat), outputs(ort::kFloat));
const Operator<Kernel> half(kOpType, nullptr, inputs(ort::kFloat16), outputs(ort::kFloat16));
const Registration registrations[] = {Registration(single), Registration(half)};

}  // namespace
}  // namespace onnxrewrite::multilevel
