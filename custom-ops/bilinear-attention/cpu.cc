// BilinearAttention on the CPU execution provider: tokens are transformed once, tile by tile, into vectors of all
// heads; attention then goes through the keys without storing scores. The queries of a Block Tensor Train are the
// tokens themselves, one copy for all heads.
#include <cstring>
#include <deque>

#include "../native/attention_output.h"
#include "../native/visible_keys.h"
#include "../structured-matmul/level_product.h"
#include "signature.h"

namespace onnxrewrite::bilinear {
namespace {

using structured::Factor;
using structured::floatsOf;
using structured::kRows;
using structured::Level;
using structured::LevelProduct;

// Normalization without bias of vectors of one size, by their deviation or their root mean square, or nothing but a
// factor.
class Normalization {
 public:
  Normalization(const Parameters& parameters, size_t level, const std::optional<TensorView>& gains, float multiplier)
      : enabled_(parameters.normalized),
        centered_(parameters.centered),
        size_(parameters.levelSize(level)),
        epsilon_(parameters.epsilon),
        multiplier_(multiplier) {
    if (gains) gains_ = floatsOf(*gains);
  }

  void apply(const Simd& simd, float* vectors, size_t stride, size_t count) const {
    if (enabled_) {
      const float* gain = gains_.empty() ? nullptr : gains_.data();
      simd.normalizeRows(vectors, stride, count, size_, centered_, epsilon_, gain, multiplier_);
    } else if (multiplier_ != 1) {
      for (size_t row = 0; row < count; row++) {
        for (size_t n = 0; n < size_; n++) vectors[row * stride + n] *= multiplier_;
      }
    }
  }

 private:
  const bool enabled_, centered_;
  const size_t size_;
  const float epsilon_, multiplier_;
  std::vector<float> gains_;
};

// Queries or keys of one level.
struct Image {
  template <class Weights>
  Image(Allocator& allocator, const Parameters& parameters, const Weights& weights, size_t l, bool queries)
      : pieces(parameters.levels[l].inputPieces),
        piece(parameters.features / pieces),
        rank(parameters.levels[l].rank),
        factor(packed(allocator, floatsOf(weights.weight(l, queries ? kQueryWeight : kKeyWeight)), parameters.heads * rank)),
        normalization(parameters, l, weights.gains(l, queries ? kQueryNorm : kKeyNorm),
                      queries ? parameters.levels[l].scale : 1.f) {}

  const size_t pieces, piece, rank;
  const Factor factor;
  const Normalization normalization;

 private:
  Factor packed(Allocator& allocator, const std::vector<float>& weights, size_t columns) const {
    return {allocator, pieces, piece, columns, [&](size_t n, size_t row, size_t column) {
              return weights[(n * piece + row) * columns + column];
            }};
  }
};

// The weights of a node, packed. `inputs(index)` are the inputs of the node.
struct Weights {
  template <class Inputs>
  Weights(Allocator& allocator, const Parameters& parameters, const Inputs& inputs) {
    const WeightReader<Inputs> weights(parameters, inputs);
    if (!parameters.train) {
      for (size_t l = 0; l < parameters.levels.size(); l++) {
        queries.emplace_back(allocator, parameters, weights, l, true);
        keys.emplace_back(allocator, parameters, weights, l, false);
      }
      return;
    }
    // One matrix for all heads: each has output pieces of its own.
    const size_t heads = parameters.heads, features = parameters.features;
    Level level = parameters.levels[0];
    level.outputPieces *= heads;
    level.scale = 1;
    train = structured::packLevel(allocator, features, heads * features, level, false, heads, weights.left(), weights.right());
    trainNorm.emplace(parameters, 0, weights.gains(0, kKeyNorm), 1.f);
  }

  // Keys of a Block Tensor Train.
  std::unique_ptr<LevelProduct> train;
  std::optional<Normalization> trainNorm;
  // By level.
  std::deque<Image> queries, keys;
};

// Vectors [batch][heads][tokens][padded] of all tokens, padded with zeros to multiples of kLanes, tile by tile:
// transform(vectors of the first head, x, rows, scratch) writes the first `written` numbers of rows and adds to the others,
// which are zeros. Rows of one head are `padded` floats apart and heads tokens * padded.
template <class Transform>
Buffer<float> vectorsOf(const Environment& environment, const Shape& shape, const float* x, size_t stride,
                        size_t written, size_t scratch, const Transform& transform) {
  const size_t padded = roundUpToLanes(shape.depth), tiles = (shape.tokens + kRows - 1) / kRows;
  Buffer<float> vectors(environment.allocator, shape.batch * shape.heads * shape.tokens * padded);
  PerRunner<Buffer<float>> buffers(shape.batch * tiles);
  environment.parallel.forEach(shape.batch * tiles, [&](size_t item, size_t runner) {
    const size_t b = item / tiles, first = item % tiles * kRows, rows = std::min(kRows, shape.tokens - first);
    float* target = vectors.data() + (b * shape.heads * shape.tokens + first) * padded;
    for (size_t head = 0; head < shape.heads && written < padded; head++) {
      for (size_t row = 0; row < rows; row++) {
        std::fill_n(target + (head * shape.tokens + row) * padded + written, padded - written, 0.f);
      }
    }
    transform(target, x + (b * shape.tokens + first) * stride, rows,
              buffers.get(runner, environment.allocator, scratch).data());
  });
  return vectors;
}

Buffer<float> trainKeys(const Environment& environment, const Weights& weights, const Shape& shape, const float* x,
                        size_t stride) {
  const size_t padded = roundUpToLanes(shape.depth), head = shape.tokens * padded;
  return vectorsOf(environment, shape, x, stride, 0, weights.train->scratch(),
                   [&](float* keys, const float* tile, size_t rows, float* scratch) {
                     weights.train->add(environment.simd, {keys, padded, head}, tile, stride, rows, scratch);
                     for (size_t h = 0; h < shape.heads; h++) {
                       weights.trainNorm->apply(environment.simd, keys + h * head, padded, rows);
                     }
                   });
}

// std::copy_n for few floats, without a call.
inline void copyFew(const float* from, size_t count, float* to) {
  size_t n = 0;
  for (; n + 4 <= count; n += 4) std::memcpy(to + n, from + n, 4 * sizeof(float));
  for (; n < count; n++) to[n] = from[n];
}

// Queries or keys of all levels side by side.
Buffer<float> levelVectors(const Environment& environment, const std::deque<Image>& levels, const Shape& shape,
                           const float* x, size_t stride) {
  const size_t padded = roundUpToLanes(shape.depth);
  size_t widest = 0;
  for (const Image& level : levels) widest = std::max(widest, level.factor.padded);
  const auto transform = [&](float* vectors, const float* tile, size_t rows, float* image) {
    for (const Image& level : levels) {
      const size_t rank = level.rank, width = level.factor.padded;
      for (size_t n = 0; n < level.pieces; n++) {
        level.factor.product(environment.simd, image, width, n, tile + n * level.piece, stride, rows);
        for (size_t head = 0; head < shape.heads; head++) {
          float* to = vectors + head * shape.tokens * padded + n * rank;
          for (size_t row = 0; row < rows; row++) copyFew(image + row * width + head * rank, rank, to + row * padded);
        }
      }
      for (size_t head = 0; head < shape.heads; head++) {
        level.normalization.apply(environment.simd, vectors + head * shape.tokens * padded, padded, rows);
      }
      vectors += level.pieces * rank;
    }
  };
  return vectorsOf(environment, shape, x, stride, shape.depth, kRows * widest, transform);
}

// Queries that all heads of a batch row share, or each has its own of.
struct Queries {
  const float* data;
  bool shared;
  // On every logit.
  float scale;
};

// What a thread keeps from tile to tile.
struct Workspace {
  Workspace(const Environment& environment, size_t depth, size_t size)
      : tile(environment, depth, size), rows(environment.allocator, kTile * size) {}

  TileSoftmax tile;
  Buffer<float> rows;
  // The queries that `tile` holds.
  const float* loaded = nullptr;
};

// `keys` [batch][heads][tokens][padded depth], `values` [batch][heads][tokens][padded valueDim].
void attend(const Environment& environment, const Shape& shape, bool causal, const Queries& queries, const float* keys,
            const float* values, const bool* keyMask, const AttentionOutput& output) {
  const size_t tokens = shape.tokens, depth = roundUpToLanes(shape.depth), size = roundUpToLanes(shape.valueDim);
  const size_t tiles = (tokens + kTile - 1) / kTile, heads = shape.batch * shape.heads;
  const VisibleKeys visible(keyMask, shape.batch, tokens);
  std::vector<char> finite(heads, 1);
  if (causal) {
    // Rows of one tile see different keys: a value that is not finite could leak through a weight of zero.
    environment.parallel.forEach(heads, [&](size_t head, size_t) {
      finite[head] = environment.simd.allFinite(values + head * tokens * size, tokens * size);
    });
  }
  PerRunner<Workspace> workspaces(heads * tiles);
  environment.parallel.forEach(heads * tiles, [&](size_t item, size_t runner) {
    // Late tiles see most keys where attention is causal: they come first. Heads that share queries take them in turns.
    const size_t part = queries.shared ? item / shape.heads : item;
    const size_t batch = queries.shared ? part / tiles : item / tiles / shape.heads;
    const size_t head = queries.shared ? batch * shape.heads + item % shape.heads : item / tiles;
    const size_t first = (tiles - 1 - part % tiles) * kTile, count = std::min(kTile, tokens - first);
    Workspace& workspace = workspaces.get(runner, environment, depth, size);
    TileSoftmax& tile = workspace.tile;
    const float* rows = queries.data + ((queries.shared ? batch : head) * tokens + first) * depth;
    if (workspace.loaded == rows) {
      tile.restart();
    } else {
      tile.start(Rows{rows, depth}, count, queries.scale * kLog2E);
      workspace.loaded = rows;
    }
    const KeyValue kv{keys + head * tokens * depth, values + head * tokens * size, depth, size, finite[head] == 0};
    const VisibleKeys::Part seen = visible.in(batch, {0, dim(causal ? first + count : tokens)});
    if (causal) {
      tile.attendCausally(kv, seen.index, seen.first, seen.count, dim(first));
    } else {
      tile.attend(kv, seen.index, seen.first, seen.count);
    }
    float gain[kTile];
    std::fill_n(gain, kTile, 1.f);
    float* sums = workspace.rows.data();
    tile.merge(sums, nullptr, nullptr, gain);
    for (size_t lane = 0; lane < count; lane++) {
      output.write(environment.simd, head * tokens + first + lane, sums + lane * size, shape.valueDim,
                   tile.max[lane], tile.sum[lane]);
    }
  });
}

class Kernel {
 public:
  Kernel(const ort::Api& api, const NodeAttributes& attributes, const Operator<Kernel>&)
      : arena_(api), parameters_(readParameters(attributes)) {
    bool constant = true;
    for (const size_t n : weightInputs(parameters_)) {
      constant = constant && (attributes.constant(n) || !attributes.connects(n));
    }
    if (constant) constant_.emplace(heap_, parameters_, [&](size_t n) { return attributes.constant(n); });
  }

  void run(const RunContext& context) const {
    const TensorView x = *context.input(kX), value = *context.input(kValue);
    const auto mask = context.input(kKeyMask);
    const Shape shape = shapeOf(parameters_, x, value, mask);
    const AttentionOutput output{context.output(0, value.dims), nullptr, x.type == ort::kFloat16};
    if (shape.batch * shape.tokens * shape.valueDim == 0) return;

    SessionMemory memory(context, arena_);
    SessionThreads threads(context);
    const Environment environment{simd(), memory, threads};
    const size_t stride = roundUpToLanes(parameters_.features);
    const PaddedRows tokens(environment, shape.batch, {&x}, {shape.tokens}, parameters_.features);
    const PaddedRows values(environment, shape.batch * shape.heads, {&value}, {shape.tokens}, shape.valueDim);
    const bool* keyMask = mask ? mask->as<const bool>() : nullptr;
    std::optional<Weights> own;
    if (!constant_) own.emplace(memory, parameters_, [&](size_t n) { return context.input(n); });
    const Weights& weights = constant_ ? *constant_ : *own;
    const auto attendTo = [&](const Queries& queries, const Buffer<float>& keys) {
      attend(environment, shape, parameters_.causal, queries, keys.data(), values.data(), keyMask, output);
    };
    if (parameters_.train) {
      attendTo({tokens.data(), true, parameters_.levels[0].scale},
               trainKeys(environment, weights, shape, tokens.data(), stride));
    } else {
      const Buffer<float> queries = levelVectors(environment, weights.queries, shape, tokens.data(), stride);
      attendTo({queries.data(), false, 1.f}, levelVectors(environment, weights.keys, shape, tokens.data(), stride));
    }
  }

 private:
  const CpuArena arena_;
  const Parameters parameters_;
  HeapMemory heap_;
  // Where no run can change the weights.
  std::optional<Weights> constant_;
};

const Operator<Kernel> single(kOpType, nullptr, inputs(ort::kFloat), outputs(ort::kFloat));
const Operator<Kernel> half(kOpType, nullptr, inputs(ort::kFloat16), outputs(ort::kFloat16));
const Registration registrations[] = {Registration(single), Registration(half)};

}  // namespace
}  // namespace onnxrewrite::bilinear
