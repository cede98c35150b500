// ElementwiseAttention on the CPU execution provider.
#include "../native/attention_shapes.h"
#include "../native/padded_rows.h"
#include "cpu_attention.h"

namespace onnxrewrite::elementwise {
namespace {

constexpr const char* kOpType = "ElementwiseAttention";

enum Input { kQuery, kKey, kValue, kKeyMask, kPastState, kPastOffset };
enum Result { kOutput, kPresentState, kPresentOffset };

// The inputs of one run, with shapes that fit each other and the attributes.
struct Tensors {
  Tensors(const RunContext& context, int order, bool causal)
      : query(*context.input(kQuery)),
        key(*context.input(kKey)),
        value(*context.input(kValue)),
        mask(context.input(kKeyMask)),
        pastState(context.input(kPastState)),
        pastOffset(context.input(kPastOffset)) {
    requireRank(kOpType, query, "query", 3);
    requireRank(kOpType, key, "key", 3);
    const auto &q = query.dims, &k = key.dims;
    if (k[0] != q[0] || k[2] != q[2]) refuse(kOpType, "key " + describe(k) + " does not fit query " + describe(q));
    if (value.dims != k) refuse(kOpType, "value " + describe(value.dims) + " does not fit key " + describe(k));
    if (causal && q[1] != k[1]) {
      refuse(kOpType, "causal needs as many queries as keys, not " + describe(q) + " and " + describe(k));
    }
    if (mask) checkKeyMask(kOpType, *mask, k[0], k[1]);
    if (pastState.has_value() != pastOffset.has_value()) {
      refuse(kOpType, "past_state and past_offset come together or not at all");
    }
    if (!pastState) return;
    if (order == 0) refuse(kOpType, "order 0 has no finite state: past_state cannot be connected");
    expect(*pastState, "past_state", {q[0], 2, order + 1, q[2]});
    expect(*pastOffset, "past_offset", {q[0], q[2]});
  }

  Shape shape() const {
    const auto size = [](int64_t n) { return static_cast<size_t>(n); };
    return {size(query.dims[0]), size(query.dims[1]), size(key.dims[1]), size(query.dims[2])};
  }

  TensorView query, key, value;
  std::optional<TensorView> mask, pastState, pastOffset;

 private:
  static void expect(const TensorView& tensor, const char* name, const std::vector<int64_t>& dims) {
    if (tensor.dims != dims) {
      refuse(kOpType, std::string(name) + " has shape " + describe(tensor.dims) + ", not " + describe(dims));
    }
  }
};

class Kernel {
 public:
  Kernel(const ort::Api& api, const NodeAttributes& attributes, const Operator<Kernel>&)
      : api_(api),
        order_(static_cast<int>(attributes.integer("order").value_or(2))),
        causal_(attributes.integer("causal").value_or(0) != 0) {
    if (order_ < 0 || order_ % 2 != 0 || order_ > kMostOrder) {
      refuse(kOpType, "order is " + std::to_string(order_) + ", not an even number up to " + std::to_string(kMostOrder));
    }
    ort::check(api_, api_.CreateCpuMemoryInfo(ort::kArenaAllocator, ort::kMemoryDefault, &memoryInfo_));
  }
  ~Kernel() { api_.ReleaseMemoryInfo(memoryInfo_); }
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;

  void run(const RunContext& context) const {
    const Tensors tensors(context, order_, causal_);
    const Shape shape = tensors.shape();
    SessionMemory memory(context, memoryInfo_);
    SessionThreads threads(context);
    const Environment environment{simd(), memory, threads};

    // Each row by itself is what PaddedRows calls a head: rows are what its threads share.
    const PaddedRows query(environment, shape.batch * shape.rows, {&tensors.query}, {1}, shape.channels);
    const PaddedRows key(environment, shape.batch * shape.keys, {&tensors.key}, {1}, shape.channels);
    const PaddedRows value(environment, shape.batch * shape.keys, {&tensors.value}, {1}, shape.channels);
    void* result = context.output(kOutput, tensors.query.dims);
    const bool isHalf = tensors.query.type == ort::kFloat16;
    const size_t stride = roundUpToLanes(shape.channels), rows = shape.batch * shape.rows;
    const bool inPlace = !isHalf && stride == shape.channels;
    Buffer<float> padded;
    float* output = inPlace ? static_cast<float*>(result) : padded.reset(memory, std::max<size_t>(1, rows * stride));

    const Operands operands{query.data(), key.data(), value.data(),
                            tensors.mask ? tensors.mask->as<const bool>() : nullptr, output};
    const Attention attention(environment, shape, operands);
    if (order_ == 0) {
      attention.runExact(causal_);
    } else {
      attention.runSeries(order_, causal_, states(context, tensors));
    }
    if (inPlace) return;
    threads.forEach(rows, [&](size_t row, size_t) {
      const float* from = output + row * stride;
      if (isHalf) {
        std::transform(from, from + shape.channels, static_cast<uint16_t*>(result) + row * shape.channels, toHalf);
      } else {
        std::copy_n(from, shape.channels, static_cast<float*>(result) + row * shape.channels);
      }
    });
  }

 private:
  States states(const RunContext& context, const Tensors& tensors) const {
    const auto &q = tensors.query.dims;
    const auto data = [](const std::optional<TensorView>& tensor) {
      return tensor ? tensor->as<const float>() : nullptr;
    };
    return {data(tensors.pastState), data(tensors.pastOffset),
            static_cast<float*>(context.output(kPresentState, {q[0], 2, order_ + 1, q[2]})),
            static_cast<float*>(context.output(kPresentOffset, {q[0], q[2]}))};
  }

  const ort::Api& api_;
  const int order_;
  const bool causal_;
  ort::MemoryInfo* memoryInfo_ = nullptr;
};

std::vector<Port> inputs(ort::ElementType type) {
  return {{type, ort::kRequired},      {type, ort::kRequired},       {type, ort::kRequired},
          {ort::kBool, ort::kOptional}, {ort::kFloat, ort::kOptional}, {ort::kFloat, ort::kOptional}};
}
std::vector<Port> outputs(ort::ElementType type) {
  return {{type, ort::kRequired}, {ort::kFloat, ort::kOptional}, {ort::kFloat, ort::kOptional}};
}

const Operator<Kernel> single(kOpType, nullptr, inputs(ort::kFloat), outputs(ort::kFloat));
const Operator<Kernel> half(kOpType, nullptr, inputs(ort::kFloat16), outputs(ort::kFloat16));
const Registration registrations[] = {Registration(single), Registration(half)};

}  // namespace
}  // namespace onnxrewrite::elementwise
