// StructuredMatMul on the CPU execution provider.
#include <algorithm>
#include <optional>
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
  Butterfly(Allocator& allocator, size_t size, const TensorView& factors) : size_(size) {
    while ((size_t{1} << stages_) < size) stages_++;
    const size_t pairs = stages_ * size / 2;
    const std::vector<float> given = floatsOf(factors);
    float* planes = planes_.reset(allocator, 4 * pairs);
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

using Dims = std::vector<int64_t>;

int64_t dim(size_t n) { return static_cast<int64_t>(n); }

Dims stageDims(const Structure& structure) {
  int64_t stages = 0;
  while ((size_t{1} << stages) < structure.in) stages++;
  return {stages, dim(structure.in / 2), 2, 2};
}
Dims leftDims(const Structure& structure, const Level& level) {
  const size_t outputPiece = structure.out / level.outputPieces;
  if (structure.tied) return {dim(outputPiece), dim(level.inputPieces)};
  return {dim(level.outputPieces), dim(level.permuted ? level.inputPieces * level.rank : level.rank),
          dim(outputPiece)};
}
Dims rightDims(const Structure& structure, const Level& level) {
  const size_t piece = structure.in / level.inputPieces;
  if (structure.tied) return {dim(level.outputPieces), dim(piece)};
  return {dim(level.inputPieces), dim(piece), dim(level.permuted ? level.outputPieces * level.rank : level.rank)};
}

// The matrix, packed. `factors(index)` are the inputs of the node.
class Matrix {
 public:
  template <class Factors>
  Matrix(Allocator& allocator, const Structure& structure, const Factors& factors)
      : in_(structure.in), out_(structure.out) {
    const auto factor = [&](size_t index, const Dims& dims) {
      const std::optional<TensorView> tensor = factors(index);
      if (!tensor) refuse("input " + std::to_string(index) + " is missing");
      if (tensor->dims != dims) {
        refuse("input " + std::to_string(index) + " has shape " + describe(tensor->dims) + ", not " + describe(dims));
      }
      return *tensor;
    };
    if (structure.butterfly) butterfly_.emplace(allocator, in_, factor(1, stageDims(structure)));
    for (size_t n = 0; n < structure.levels.size(); n++) {
      const Level& level = structure.levels[n];
      levels_.push_back(packLevel(allocator, in_, out_, level, structure.tied, 1,
                                  factor(1 + 2 * n, leftDims(structure, level)),
                                  factor(2 + 2 * n, rightDims(structure, level))));
    }
  }

  // Floats of scratch that `multiply` takes.
  size_t scratch() const {
    size_t most = butterfly_ ? in_ : 0;
    for (const auto& level : levels_) most = std::max(most, level->scratch());
    return most;
  }

  // y = x M^T for up to kRows rows.
  void multiply(const Simd& simd, float* y, const float* x, size_t rows, float* scratch) const {
    if (butterfly_) {
      for (size_t row = 0; row < rows; row++) butterfly_->apply(y + row * out_, x + row * in_, scratch);
      return;
    }
    std::fill_n(y, rows * out_, 0.f);
    for (const auto& level : levels_) level->add(simd, {y, out_, 0}, x, in_, rows, scratch);
  }

 private:
  const size_t in_, out_;
  std::optional<Butterfly> butterfly_;
  std::vector<std::unique_ptr<LevelProduct>> levels_;
};

class Kernel {
 public:
  Kernel(const ort::Api& api, const NodeAttributes& attributes, const Operator<Kernel>&)
      : arena_(api), structure_(attributes) {
    const size_t factors = structure_.butterfly ? 1 : 2 * structure_.levels.size();
    bool constant = true;
    for (size_t n = 1; n <= factors; n++) constant = constant && attributes.constant(n);
    if (constant) constant_.emplace(heap_, structure_, [&](size_t n) { return attributes.constant(n); });
  }

  void run(const RunContext& context) const {
    const TensorView x = *context.input(0);
    if (x.dims.empty() || x.dims.back() != dim(structure_.in)) {
      refuse("x " + describe(x.dims) + " has not " + std::to_string(structure_.in) + " columns");
    }
    size_t rows = 1;
    for (size_t axis = 0; axis + 1 < x.dims.size(); axis++) rows *= static_cast<size_t>(x.dims[axis]);
    Dims dims = x.dims;
    dims.back() = dim(structure_.out);
    void* output = context.output(0, dims);
    if (rows == 0) return;

    SessionMemory memory(context, arena_);
    SessionThreads threads(context);
    const Environment environment{simd(), memory, threads};
    if (constant_) {
      multiply(environment, *constant_, x, output, rows);
    } else {
      multiply(environment, Matrix(memory, structure_, [&](size_t n) { return context.input(n); }), x, output, rows);
    }
  }

 private:
  // In tiles of rows, in float32.
  void multiply(const Environment& environment, const Matrix& matrix, const TensorView& x, void* output,
                size_t rows) const {
    const size_t in = structure_.in, out = structure_.out, tiles = (rows + kRows - 1) / kRows;
    const size_t scratch = matrix.scratch();
    const bool half = x.type == ort::kFloat16;
    PerRunner<Buffer<float>> buffers(tiles);
    environment.parallel.forEach(tiles, [&](size_t tile, size_t runner) {
      const size_t first = tile * kRows, count = std::min(kRows, rows - first);
      float* spare = buffers.get(runner, environment.allocator, scratch + (half ? kRows * (in + out) : 0)).data();
      if (!half) {
        float* y = static_cast<float*>(output) + first * out;
        matrix.multiply(environment.simd, y, x.as<const float>() + first * in, count, spare);
        return;
      }
      float *given = spare + scratch, *result = given + kRows * in;
      toFloats(x, first * in, count * in, given);
      matrix.multiply(environment.simd, result, given, count, spare);
      uint16_t* narrow = static_cast<uint16_t*>(output) + first * out;
      for (size_t n = 0; n < count * out; n++) narrow[n] = toHalf(result[n]);
    });
  }

  const CpuArena arena_;
  const Structure structure_;
  HeapMemory heap_;
  // Where no run can change the factors.
  std::optional<Matrix> constant_;
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
