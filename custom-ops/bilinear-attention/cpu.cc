// BilinearAttention on the CPU execution provider: tokens are transformed once, tile by tile, into vectors of all
// heads; attention then goes through the keys without storing scores. The queries of a Block Tensor Train are the
// tokens themselves, one copy for all heads.
#include <cmath>

#include "../native/attention_output.h"
#include "../native/attention_shapes.h"
#include "../native/visible_keys.h"
#include "../structured-matmul/level_product.h"

namespace onnxrewrite::bilinear {
namespace {

using structured::Factor;
using structured::kRows;
using structured::Level;
using structured::LevelProduct;

constexpr const char* kOpType = "BilinearAttention";
constexpr size_t kMostLevels = 8;

enum Input { kX, kValue, kKeyMask, kLeft, kRight, kLevels };
// By level, counted from kLevels + 4 * level.
enum LevelInput { kQueryWeight, kKeyWeight, kQueryNorm, kKeyNorm, kLevelInputs };

[[noreturn]] void refuse(const std::string& message) { onnxrewrite::refuse(kOpType, message); }

// The attributes of a node; operator.ts validates them when a node is made, this checks what a kernel relies on.
struct Parameters {
  explicit Parameters(const NodeAttributes& attributes) {
    const std::string kind = attributes.text("kind").value_or("");
    train = kind == "block-tensor-train";
    if (!train && kind != "multi-level-low-rank") refuse("unknown kind \"" + kind + "\"");
    heads = positive("heads", attributes.integer("heads").value_or(0));
    features = positive("features", attributes.integer("features").value_or(0));
    const auto list = [&](const char* name) { return attributes.integers(name).value_or(std::vector<int64_t>{}); };
    const auto p = list("input_pieces"), q = list("output_pieces"), ranks = list("ranks");
    const auto scales = attributes.reals("level_scale").value_or(std::vector<float>{});
    const size_t count = ranks.size();
    if (count < 1 || count > (train ? 1 : kMostLevels) || p.size() != count || q.size() != count ||
        scales.size() != count) {
      refuse("input_pieces, output_pieces, ranks and level_scale have to describe 1 to 8 levels");
    }
    for (size_t n = 0; n < count; n++) {
      levels.push_back({positive("input_pieces", p[n]), positive("output_pieces", q[n]), positive("ranks", ranks[n]),
                        train, scales[n]});
      if (features % levels[n].inputPieces != 0 || features % levels[n].outputPieces != 0) {
        refuse("level " + std::to_string(n + 1) + " does not fit its sizes");
      }
    }
    const std::string normalization = attributes.text("normalisation").value_or("");
    normalized = normalization == "layer";
    if (!normalized && normalization != "none") refuse("unknown normalisation \"" + normalization + "\"");
    epsilon = attributes.real("epsilon").value_or(0.f);
    causal = attributes.integer("causal").value_or(0) != 0;
  }

  // Dimensions of queries and keys, those of all levels side by side.
  size_t depth() const {
    if (train) return features;
    size_t sum = 0;
    for (const Level& level : levels) sum += level.inputPieces * level.rank;
    return sum;
  }

  bool train, normalized, causal;
  size_t heads, features;
  std::vector<Level> levels;
  float epsilon;

 private:
  static size_t positive(const char* name, int64_t value) {
    if (value < 1 || value > INT32_MAX) refuse(std::string(name) + " holds " + std::to_string(value));
    return static_cast<size_t>(value);
  }
};

int64_t dim(size_t n) { return static_cast<int64_t>(n); }

TensorView weight(const RunContext& context, size_t index, const std::vector<int64_t>& dims) {
  const auto tensor = context.input(index);
  if (!tensor) refuse("input " + std::to_string(index) + " is missing");
  if (tensor->dims != dims) {
    refuse("input " + std::to_string(index) + " has shape " + describe(tensor->dims) + ", not " + describe(dims));
  }
  return *tensor;
}

// Layer normalization without bias of vectors of one size, or nothing.
class Normalization {
 public:
  Normalization(const RunContext& context, size_t index, size_t size, const Parameters& parameters)
      : enabled_(parameters.normalized), size_(size), epsilon_(parameters.epsilon) {
    if (!context.input(index)) return;
    if (!enabled_) refuse("a gain comes with normalisation \"layer\" only");
    gains_.resize(size);
    toFloats(weight(context, index, {dim(size)}), 0, size, gains_.data());
  }

  void apply(float* vector) const {
    if (!enabled_) return;
    const float mean = meanOf([&](size_t n) { return vector[n]; });
    const float variance = meanOf([&](size_t n) { return (vector[n] - mean) * (vector[n] - mean); });
    const float factor = 1.f / std::sqrt(variance + epsilon_);
    for (size_t n = 0; n < size_; n++) vector[n] = (vector[n] - mean) * factor;
    for (size_t n = 0; n < gains_.size(); n++) vector[n] *= gains_[n];
  }

 private:
  // In lanes, which compilers make vectors of.
  template <class Element>
  float meanOf(const Element& element) const {
    float lanes[kLanes] = {}, sum = 0;
    const size_t whole = size_ / kLanes * kLanes;
    for (size_t n = 0; n < whole; n += kLanes) {
      for (size_t lane = 0; lane < kLanes; lane++) lanes[lane] += element(n + lane);
    }
    for (const float lane : lanes) sum += lane;
    for (size_t n = whole; n < size_; n++) sum += element(n);
    return sum / static_cast<float>(size_);
  }

  const bool enabled_;
  const size_t size_;
  const float epsilon_;
  std::vector<float> gains_;
};

// What one run works on. Rows of vectors are padded with zeros to multiples of kLanes.
struct Shape {
  size_t batch, heads, tokens, depth, valueDim;

  size_t padded() const { return roundUpToLanes(depth); }
};

// Calls transform(tile of x, rows, first row in the batch row, batch row, runner) for all tiles of tokens.
template <class Transform>
void forTilesOfTokens(const Environment& environment, const float* x, size_t stride, const Shape& shape,
                      const Transform& transform) {
  const size_t tiles = (shape.tokens + kRows - 1) / kRows;
  environment.parallel.forEach(shape.batch * tiles, [&](size_t item, size_t runner) {
    const size_t b = item / tiles, first = item % tiles * kRows;
    transform(x + (b * shape.tokens + first) * stride, std::min(kRows, shape.tokens - first), first, b, runner);
  });
}

// Keys [batch][heads][tokens][padded] of a Block Tensor Train.
Buffer<float> trainKeys(const RunContext& context, const Environment& environment, const Parameters& parameters,
                        const Shape& shape, const float* x, size_t stride) {
  const size_t heads = parameters.heads, features = parameters.features, padded = shape.padded();
  Level level = parameters.levels[0];
  level.outputPieces *= heads;
  level.scale = 1;
  const size_t piece = features / level.inputPieces, outputPiece = heads * features / level.outputPieces;
  const TensorView left =
      weight(context, kLeft, {dim(level.outputPieces), dim(level.inputPieces * level.rank), dim(outputPiece)});
  const TensorView right =
      weight(context, kRight, {dim(level.inputPieces), dim(piece), dim(level.outputPieces * level.rank)});
  const LevelProduct product(environment, features, heads * features, level, false, heads, left, right);
  const Normalization normalization(context, kLevels + kKeyNorm, features, parameters);
  const size_t scratch = product.scratch(), images = kRows * heads * features, given = kRows * features;
  Buffer<float> keys(environment.allocator, shape.batch * heads * shape.tokens * padded);
  PerRunner<Buffer<float>> buffers(shape.batch * ((shape.tokens + kRows - 1) / kRows));
  forTilesOfTokens(environment, x, stride, shape, [&](const float* tile, size_t rows, size_t first, size_t b, size_t r) {
    float* spare = buffers.get(r, environment.allocator, scratch + images + given).data();
    float *image = spare + scratch, *dense = image + images;
    for (size_t row = 0; row < rows; row++) std::copy_n(tile + row * stride, features, dense + row * features);
    std::fill_n(image, rows * heads * features, 0.f);
    product.add(image, dense, rows, spare);
    for (size_t row = 0; row < rows; row++) {
      for (size_t head = 0; head < heads; head++) {
        float* key = keys.data() + ((b * heads + head) * shape.tokens + first + row) * padded;
        std::copy_n(image + (row * heads + head) * features, features, key);
        std::fill(key + features, key + padded, 0.f);
        normalization.apply(key);
      }
    }
  });
  return keys;
}

// Queries, scaled, or keys [batch][heads][tokens][padded] of all levels.
Buffer<float> levelVectors(const RunContext& context, const Environment& environment, const Parameters& parameters,
                           const Shape& shape, const float* x, size_t stride, bool queries) {
  const size_t heads = parameters.heads, features = parameters.features, padded = shape.padded();
  const size_t count = shape.batch * heads * shape.tokens * padded;
  Buffer<float> vectors(environment.allocator, count);
  std::fill_n(vectors.data(), count, 0.f);
  size_t offset = 0;
  for (size_t l = 0; l < parameters.levels.size(); l++) {
    const Level& level = parameters.levels[l];
    const size_t pieces = level.inputPieces, piece = features / pieces, rank = level.rank, at = kLevels + kLevelInputs * l;
    const TensorView given = weight(context, at + (queries ? kQueryWeight : kKeyWeight),
                                    {dim(pieces), dim(piece), dim(heads * rank)});
    const Factor factor(environment, given, pieces, piece, heads * rank);
    const Normalization normalization(context, at + (queries ? kQueryNorm : kKeyNorm), pieces * rank, parameters);
    const float scale = queries ? level.scale : 1.f;
    PerRunner<Buffer<float>> buffers(shape.batch * ((shape.tokens + kRows - 1) / kRows));
    forTilesOfTokens(environment, x, stride, shape, [&](const float* tile, size_t rows, size_t first, size_t b, size_t r) {
      float* image = buffers.get(r, environment.allocator, kRows * factor.padded).data();
      const auto vector = [&](size_t head, size_t row) {
        return vectors.data() + ((b * heads + head) * shape.tokens + first + row) * padded + offset;
      };
      for (size_t n = 0; n < pieces; n++) {
        structured::multiply(environment.simd, image, factor, rows, tile + n * piece, stride, n, piece);
        for (size_t row = 0; row < rows; row++) {
          for (size_t head = 0; head < heads; head++) {
            std::copy_n(image + row * factor.padded + head * rank, rank, vector(head, row) + n * rank);
          }
        }
      }
      for (size_t row = 0; row < rows; row++) {
        for (size_t head = 0; head < heads; head++) {
          float* whole = vector(head, row);
          normalization.apply(whole);
          for (size_t n = 0; n < pieces * rank; n++) whole[n] *= scale;
        }
      }
    });
    offset += pieces * rank;
  }
  return vectors;
}

// Queries that all heads of a batch row share, or each has its own of.
struct Queries {
  const float* data;
  bool shared;
  // On every logit.
  float scale;
};

// `keys` [batch][heads][tokens][padded depth], `values` [batch][heads][tokens][padded valueDim].
void attend(const Environment& environment, const Shape& shape, bool causal, const Queries& queries, const float* keys,
            const float* values, const bool* keyMask, const AttentionOutput& output) {
  const size_t tokens = shape.tokens, depth = shape.padded(), size = roundUpToLanes(shape.valueDim);
  const size_t tiles = (tokens + kTile - 1) / kTile, heads = shape.batch * shape.heads;
  const VisibleKeys visible(keyMask, shape.batch, tokens);
  std::vector<char> finite(heads, 1);
  if (causal) {
    // Rows of one tile see different keys: a value that is not finite could leak through a weight of zero.
    environment.parallel.forEach(heads, [&](size_t head, size_t) {
      finite[head] = environment.simd.allFinite(values + head * tokens * size, tokens * size);
    });
  }
  PerRunner<TileSoftmax> workspaces(heads * tiles);
  environment.parallel.forEach(heads * tiles, [&](size_t item, size_t runner) {
    // Late tiles see most keys where attention is causal: they come first.
    const size_t head = item / tiles, first = (tiles - 1 - item % tiles) * kTile;
    const size_t count = std::min(kTile, tokens - first), batch = head / shape.heads;
    TileSoftmax& tile = workspaces.get(runner, environment, depth, size);
    const size_t owner = queries.shared ? batch : head;
    tile.start(Rows{queries.data + (owner * tokens + first) * depth, depth}, count, queries.scale * kLog2E);
    const KeyValue kv{keys + head * tokens * depth, values + head * tokens * size, depth, size, finite[head] == 0};
    const VisibleKeys::Part part = visible.in(batch, {0, dim(causal ? first + count : tokens)});
    if (causal) {
      tile.attendCausally(kv, part.index, part.first, part.count, dim(first));
    } else {
      tile.attend(kv, part.index, part.first, part.count);
    }
    std::vector<float> rows(kTile * size);
    const std::vector<float> gain(kTile, 1.f);
    tile.merge(rows.data(), nullptr, nullptr, gain.data());
    for (size_t lane = 0; lane < count; lane++) {
      output.write(environment.simd, head * tokens + first + lane, rows.data() + lane * size, shape.valueDim,
                   tile.max[lane], tile.sum[lane]);
    }
  });
}

class Kernel {
 public:
  Kernel(const ort::Api& api, const NodeAttributes& attributes, const Operator<Kernel>&)
      : api_(api), parameters_(attributes) {
    ort::check(api_, api_.CreateCpuMemoryInfo(ort::kArenaAllocator, ort::kMemoryDefault, &memoryInfo_));
  }
  ~Kernel() { api_.ReleaseMemoryInfo(memoryInfo_); }
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;

  void run(const RunContext& context) const {
    const TensorView x = *context.input(kX), value = *context.input(kValue);
    const auto mask = context.input(kKeyMask);
    const Shape shape = shapeOf(x, value);
    if (mask) checkKeyMask(kOpType, *mask, x.dims[0], x.dims[1]);
    const AttentionOutput output{context.output(0, value.dims), nullptr, x.type == ort::kFloat16};
    if (shape.batch * shape.tokens * shape.valueDim == 0) return;

    SessionMemory memory(context, memoryInfo_);
    SessionThreads threads(context);
    const Environment environment{simd(), memory, threads};
    const size_t stride = roundUpToLanes(parameters_.features);
    const PaddedRows tokens(environment, shape.batch, {&x}, {shape.tokens}, parameters_.features);
    const PaddedRows values(environment, shape.batch * shape.heads, {&value}, {shape.tokens}, shape.valueDim);
    const bool* keyMask = mask ? mask->as<const bool>() : nullptr;
    if (parameters_.train) {
      const Buffer<float> keys = trainKeys(context, environment, parameters_, shape, tokens.data(), stride);
      const Queries queries{tokens.data(), true, parameters_.levels[0].scale};
      attend(environment, shape, parameters_.causal, queries, keys.data(), values.data(), keyMask, output);
    } else {
      const auto vectors = [&](bool queries) {
        return levelVectors(context, environment, parameters_, shape, tokens.data(), stride, queries);
      };
      const Buffer<float> queries = vectors(true), keys = vectors(false);
      attend(environment, shape, parameters_.causal, {queries.data(), false, 1.f}, keys.data(), values.data(), keyMask,
             output);
    }
  }

 private:
  Shape shapeOf(const TensorView& x, const TensorView& value) const {
    requireRank(kOpType, x, "x", 3);
    requireRank(kOpType, value, "value", 4);
    if (x.dims[2] != dim(parameters_.features)) {
      refuse("x " + describe(x.dims) + " has not " + std::to_string(parameters_.features) + " channels");
    }
    if (value.dims[0] != x.dims[0] || value.dims[1] != dim(parameters_.heads) || value.dims[2] != x.dims[1]) {
      refuse("value " + describe(value.dims) + " does not fit x " + describe(x.dims));
    }
    if (x.dims[1] > INT32_MAX) refuse("more than 2^31 tokens");
    const auto size = [](int64_t n) { return static_cast<size_t>(n); };
    return {size(x.dims[0]), parameters_.heads, size(x.dims[1]), parameters_.depth(), size(value.dims[3])};
  }

  const ort::Api& api_;
  const Parameters parameters_;
  ort::MemoryInfo* memoryInfo_ = nullptr;
};

std::vector<Port> inputs(ort::ElementType type) {
  std::vector<Port> ports{{type, ort::kRequired}, {type, ort::kRequired}, {ort::kBool, ort::kOptional}};
  ports.insert(ports.end(), 2 + kLevelInputs * kMostLevels, {type, ort::kOptional});
  return ports;
}

const Operator<Kernel> single(kOpType, nullptr, inputs(ort::kFloat), {{ort::kFloat, ort::kRequired}});
const Operator<Kernel> half(kOpType, nullptr, inputs(ort::kFloat16), {{ort::kFloat16, ort::kRequired}});
const Registration registrations[] = {Registration(single), Registration(half)};

}  // namespace
}  // namespace onnxrewrite::bilinear
