// StructuredMatMul on the CPU execution provider.
#include <algorithm>
#include <deque>
#include <string>
#include <vector>

#include "../native/attention_shapes.h"
#include "level_product.h"

namespace onnxrewrite::structured {
namespace {

constexpr const char* kOpType = "StructuredMatMul";
constexpr size_t kMostLevels = 8;

[[noreturn]] void refuse(const std::string& message) { onnxrewrite::refuse(kOpType, message); }

// The attributes of a node; operator.ts validates them when a node is made, this checks what a kernel relies on.
struct Structure {
  explicit Structure(const NodeAttributes& attributes) {
    const std::string kind = attributes.text("kind").value_or("");
    butterfly = kind == "butterfly";
    tied = kind == "kronecker";
    in = positive("in_features", attributes.integer("in_features").value_or(0));
    out = positive("out_features", attributes.integer("out_features").value_or(0));
    if (butterfly) {
      if (in != out || in < 2 || (in & (in - 1)) != 0) refuse("a butterfly is square, its size a power of two");
      return;
    }
    const auto list = [&](const char* name) { return attributes.integers(name).value_or(std::vector<int64_t>{}); };
    const auto p = list("input_pieces"), q = list("output_pieces"), ranks = list("ranks"), permuted = list("permuted");
    const auto scales = attributes.reals("level_scale").value_or(std::vector<float>(ranks.size(), 1.f));
    const size_t count = ranks.size();
    if (count < 1 || count > (tied ? 1 : kMostLevels) || p.size() != count || q.size() != count ||
        permuted.size() != count || scales.size() != count) {
      refuse("input_pieces, output_pieces, ranks, permuted and level_scale have to describe 1 to 8 levels");
    }
    for (size_t n = 0; n < count; n++) {
      const Level level{positive("input_pieces", p[n]), positive("output_pieces", q[n]), positive("ranks", ranks[n]),
                        permuted[n] != 0, scales[n]};
      if (in % level.inputPieces != 0 || out % level.outputPieces != 0 ||
          (!level.permuted && level.inputPieces != level.outputPieces) || (tied && level.rank != 1)) {
        refuse("level " + std::to_string(n + 1) + " does not fit its sizes");
      }
      levels.push_back(level);
    }
  }

  bool butterfly, tied;
  size_t in, out;
  std::vector<Level> levels;

 private:
  static size_t positive(const char* name, int64_t value) {
    if (value < 1 || value > INT32_MAX) refuse(std::string(name) + " holds " + std::to_string(value));
    return static_cast<size_t>(value);
  }
};

// The stages of a butterfly on one row; weights are kept as four planes, so that neighbours share vectors.
class Butterfly {
 public:
  Butterfly(const Environment& environment, size_t size, const TensorView& factors) : size_(size) {
    while ((size_t{1} << stages_) < size) stages_++;
    const size_t pairs = stages_ * size / 2;
    std::vector<float> given(4 * pairs);
    toFloats(factors, 0, given.size(), given.data());
    float* planes = planes_.reset(environment.allocator, 4 * pairs);
    for (size_t pair = 0; pair < pairs; pair++) {
      for (size_t entry = 0; entry < 4; entry++) planes[entry * pairs + pair] = given[4 * pair + entry];
    }
  }

  // y = M x; `spare` holds one row.
  void apply(float* y, const float* x, float* spare) const {
    const size_t half = size_ / 2, pairs = stages_ * half;
    const float* from = x;
    for (size_t stage = 0; stage < stages_; stage++) {
      float* to = (stages_ - stage) % 2 == 1 ? y : spare;
      const size_t stride = size_t{1} << stage;
      for (size_t pair = 0; pair < half; pair += stride) {
        const float* w = planes_.data() + stage * half + pair;
        const float *low = from + 2 * pair, *high = low + stride;
        float *lowOut = to + 2 * pair, *highOut = lowOut + stride;
        for (size_t i = 0; i < stride; i++) {
          lowOut[i] = w[i] * low[i] + w[pairs + i] * high[i];
          highOut[i] = w[2 * pairs + i] * low[i] + w[3 * pairs + i] * high[i];
        }
      }
      from = to;
    }
  }

 private:
  const size_t size_;
  size_t stages_ = 0;
  Buffer<float> planes_;
};

class Kernel {
 public:
  Kernel(const ort::Api& api, const NodeAttributes& attributes, const Operator<Kernel>&)
      : api_(api), structure_(attributes) {
    ort::check(api_, api_.CreateCpuMemoryInfo(ort::kArenaAllocator, ort::kMemoryDefault, &memoryInfo_));
  }
  ~Kernel() { api_.ReleaseMemoryInfo(memoryInfo_); }
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;

  void run(const RunContext& context) const {
    const TensorView x = *context.input(0);
    if (x.dims.empty() || x.dims.back() != static_cast<int64_t>(structure_.in)) {
      refuse("x " + describe(x.dims) + " has not " + std::to_string(structure_.in) + " columns");
    }
    size_t rows = 1;
    for (size_t axis = 0; axis + 1 < x.dims.size(); axis++) rows *= static_cast<size_t>(x.dims[axis]);
    std::vector<int64_t> dims = x.dims;
    dims.back() = static_cast<int64_t>(structure_.out);
    void* output = context.output(0, dims);
    if (rows == 0) return;

    SessionMemory memory(context, memoryInfo_);
    SessionThreads threads(context);
    const Environment environment{simd(), memory, threads};
    if (structure_.butterfly) {
      const Butterfly stages(environment, structure_.in, factor(context, 1, stageDims()));
      inTiles(environment, x, output, rows, structure_.in, [&](float* y, const float* tile, size_t count, float* spare) {
        for (size_t row = 0; row < count; row++) {
          stages.apply(y + row * structure_.out, tile + row * structure_.in, spare);
        }
      });
      return;
    }
    std::deque<LevelProduct> products;
    size_t scratch = 0;
    for (size_t n = 0; n < structure_.levels.size(); n++) {
      const Level& level = structure_.levels[n];
      products.emplace_back(environment, structure_.in, structure_.out, level, structure_.tied, 1, factor(context, 1 + 2 * n, leftDims(level)),
                            factor(context, 2 + 2 * n, rightDims(level)));
      scratch = std::max(scratch, products.back().scratch());
    }
    inTiles(environment, x, output, rows, scratch, [&](float* y, const float* tile, size_t count, float* spare) {
      std::fill_n(y, count * structure_.out, 0.f);
      for (const LevelProduct& product : products) product.add(y, tile, count, spare);
    });
  }

 private:
  using Dims = std::vector<int64_t>;

  static int64_t dim(size_t n) { return static_cast<int64_t>(n); }

  Dims stageDims() const {
    int64_t stages = 0;
    while ((size_t{1} << stages) < structure_.in) stages++;
    return {stages, dim(structure_.in / 2), 2, 2};
  }
  Dims leftDims(const Level& level) const {
    const size_t outputPiece = structure_.out / level.outputPieces;
    if (structure_.tied) return {dim(outputPiece), dim(level.inputPieces)};
    return {dim(level.outputPieces), dim(level.permuted ? level.inputPieces * level.rank : level.rank),
            dim(outputPiece)};
  }
  Dims rightDims(const Level& level) const {
    const size_t piece = structure_.in / level.inputPieces;
    if (structure_.tied) return {dim(level.outputPieces), dim(piece)};
    return {dim(level.inputPieces), dim(piece), dim(level.permuted ? level.outputPieces * level.rank : level.rank)};
  }

  static TensorView factor(const RunContext& context, size_t index, const Dims& dims) {
    const auto tensor = context.input(index);
    if (!tensor) refuse("input " + std::to_string(index) + " is missing");
    if (tensor->dims != dims) {
      refuse("input " + std::to_string(index) + " has shape " + describe(tensor->dims) + ", not " + describe(dims));
    }
    return *tensor;
  }

  // Calls product(y, x, rows, scratch) for tiles of rows in float32.
  template <class Product>
  void inTiles(const Environment& environment, const TensorView& x, void* output, size_t rows, size_t scratch,
               const Product& product) const {
    const size_t in = structure_.in, out = structure_.out, tiles = (rows + kRows - 1) / kRows;
    const bool half = x.type == ort::kFloat16;
    PerRunner<Buffer<float>> buffers(tiles);
    environment.parallel.forEach(tiles, [&](size_t tile, size_t runner) {
      const size_t first = tile * kRows, count = std::min(kRows, rows - first);
      float* spare = buffers.get(runner, environment.allocator, scratch + (half ? kRows * (in + out) : 0)).data();
      if (!half) {
        product(static_cast<float*>(output) + first * out, x.as<const float>() + first * in, count, spare);
        return;
      }
      float *given = spare + scratch, *result = given + kRows * in;
      toFloats(x, first * in, count * in, given);
      product(result, given, count, spare);
      uint16_t* narrow = static_cast<uint16_t*>(output) + first * out;
      for (size_t n = 0; n < count * out; n++) narrow[n] = toHalf(result[n]);
    });
  }

  const ort::Api& api_;
  const Structure structure_;
  ort::MemoryInfo* memoryInfo_ = nullptr;
};

std::vector<Port> inputs(ort::ElementType type) {
  std::vector<Port> ports{{type, ort::kRequired}, {type, ort::kRequired}};
  ports.insert(ports.end(), 2 * kMostLevels - 1, {type, ort::kOptional});
  return ports;
}

const Operator<Kernel> single(kOpType, nullptr, inputs(ort::kFloat), {{ort::kFloat, ort::kRequired}});
const Operator<Kernel> half(kOpType, nullptr, inputs(ort::kFloat16), {{ort::kFloat16, ort::kRequired}});
const Registration registrations[] = {Registration(single), Registration(half)};

}  // namespace
}  // namespace onnxrewrite::structured
