// StructuredMatMul on the CPU execution provider.
#include "level_product.h"
#include "signature.h"

namespace onnxrewrite::structured {
namespace {

// The stages of a butterfly on one row; weights are kept as four planes, so that neighbors share vectors.
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
      return checkedFactor(index, factors(index), dims);
    };
    if (structure.butterfly) butterfly_.emplace(allocator, in_, factor(kFactors, stageDims(structure)));
    for (size_t n = 0; n < structure.levels.size(); n++) {
      const Level& level = structure.levels[n];
      levels_.push_back(packLevel(allocator, in_, out_, level, structure.tied, 1,
                                  factor(kFactors + 2 * n, leftDims(structure, level)),
                                  factor(kFactors + 2 * n + 1, rightDims(structure, level))));
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
    const TensorView x = *context.input(kX);
    const size_t rows = rowsOf(structure_, x);
    void* output = context.output(0, outputDims(structure_, x));
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

const Operator<Kernel> single(kOpType, nullptr, inputs(ort::kFloat), outputs(ort::kFloat));
const Operator<Kernel> half(kOpType, nullptr, inputs(ort::kFloat16), outputs(ort::kFloat16));
const Registration registrations[] = {Registration(single), Registration(half)};

}  // namespace
}  // namespace onnxrewrite::structured
