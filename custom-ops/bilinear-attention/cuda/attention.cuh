// One call of BilinearAttention on a stream, without waiting and in memory that the caller provides: vectors of all heads,
// then attention over them as LocalAttention does it, with a window that ends at the row where attention is causal.
#pragma once

#include "../../local-attention/cuda/attention.cuh"
#include "../../native/cuda/arena.h"
#include "vectors.cuh"

namespace onnxrewrite::bilinear::cuda {

/** All on the device, row-major as the README has them; gains and mask may be null. */
template <class T>
struct Operands {
  const T* x;
  const T* value;
  const bool* mask;
  /** Of a Block Tensor Train. */
  const T* left;
  const T* right;
  /** By level; of a Block Tensor Train the keys' gains alone. */
  struct Level {
    const T *queryWeight, *keyWeight, *queryGains, *keyGains;
  } levels[kMostLevels];
};

template <class T>
class BilinearAttention {
 public:
  /** `memory` has bytes() bytes; null where only these are asked for. */
  BilinearAttention(const Shape& shape, const Parameters& parameters, void* memory, bool hopper = hasHopper())
      : parameters_(parameters), hopper_(hopper), batch_(size(shape.batch)), heads_(size(shape.heads)), tokens_(size(shape.tokens)),
        depth_(size(shape.depth)), valueDim_(size(shape.valueDim)) {
    // Vectors that the attention kernels take in pieces of 16 bytes.
    padded_ = parameters.train ? depth_ : ceilDiv(depth_, 8) * 8;
    const size_t rows = shape.batch * shape.tokens, rowBytes = shape.heads * shape.depth * sizeof(float);
    const size_t together = kImageBytes / rowBytes / kProductRows * kProductRows;
    chunk_ = size(rows < together ? rows : together > kProductRows ? together : kProductRows);
    Arena arena(memory);
    images_ = arena.take<float>(static_cast<size_t>(chunk_) * shape.heads * shape.depth);
    if (parameters.train) middle_ = arena.take<T>(static_cast<size_t>(chunk_) * middleSize());
    keys_ = arena.take<T>(rows * shape.heads * padded_);
    if (!parameters.train) queries_ = arena.take<T>(rows * shape.heads * padded_);
    bytes_ = arena.used();
  }

  size_t bytes() const { return bytes_; }

  cudaError_t run(const Operands<T>& in, T* output, cudaStream_t stream) const {
    const int rows = batch_ * tokens_;
    if (rows == 0 || valueDim_ == 0) return cudaSuccess;
    for (int first = 0; first < rows; first += chunk_) {
      const int count = rows - first < chunk_ ? rows - first : chunk_;
      if (parameters_.train) {
        CUDA_TRY(imageTrain(in, first, count, stream));
        CUDA_TRY(normalize(in, false, first, count, keys_, stream));
        continue;
      }
      for (const bool queries : {true, false}) {
        CUDA_TRY(imageLevels(in, queries, first, count, stream));
        CUDA_TRY(normalize(in, queries, first, count, queries ? queries_ : keys_, stream));
      }
    }
    const int everything = static_cast<int>(local::cuda::kMostPosition);
    const local::cuda::Geometry geometry{batch_, heads_, heads_, parameters_.train ? heads_ : 1, tokens_, tokens_, padded_,
                                         valueDim_, everything, parameters_.causal ? 0 : everything, 0,
                                         (parameters_.train ? parameters_.levels[0].scale : 1.f) * kLog2E};
    return local::cuda::LocalAttention<T>(geometry, hopper_)
        .run({parameters_.train ? in.x : queries_, keys_, in.value, in.mask, output, nullptr}, stream);
  }

 private:
  static int size(size_t n) { return static_cast<int>(n); }
  /** Numbers between the two products of a Block Tensor Train, [p][H q s]. */
  size_t middleSize() const {
    const structured::Level& level = parameters_.levels[0];
    return level.inputPieces * parameters_.heads * level.outputPieces * level.rank;
  }

  /** Products of pieces of tokens with the weights of all levels, side by side. */
  cudaError_t imageLevels(const Operands<T>& in, bool queries, int first, int rows, cudaStream_t stream) const {
    const int features = size(parameters_.features);
    for (size_t l = 0, begin = 0; l < parameters_.levels.size(); begin += parameters_.levelSize(l++)) {
      const int pieces = size(parameters_.levels[l].inputPieces), rank = size(parameters_.levels[l].rank);
      const StridedProduct<T, float> product{in.x + static_cast<size_t>(first) * features,
                                             queries ? in.levels[l].queryWeight : in.levels[l].keyWeight,
                                             images_ + begin,
                                             rows,
                                             features / pieces,
                                             heads_ * rank,
                                             pieces,
                                             parameters_.features,
                                             neighbors(features / pieces),
                                             neighbors(1),
                                             static_cast<size_t>(heads_) * depth_,
                                             neighbors(rank),
                                             {rank, depth_, 1}};
      CUDA_TRY(launchProduct(product, stream));
    }
    return cudaSuccess;
  }

  cudaError_t imageTrain(const Operands<T>& in, int first, int rows, cudaStream_t stream) const {
    const structured::Level& level = parameters_.levels[0];
    const int p = size(level.inputPieces), q = size(level.outputPieces), s = size(level.rank), features = size(parameters_.features);
    const int columns = heads_ * q * s;
    const StridedProduct<T, T> right{in.x + static_cast<size_t>(first) * features,
                                     in.right,
                                     middle_,
                                     rows,
                                     features / p,
                                     columns,
                                     p,
                                     parameters_.features,
                                     neighbors(features / p),
                                     neighbors(1),
                                     middleSize(),
                                     neighbors(columns),
                                     neighbors(1)};
    CUDA_TRY(launchProduct(right, stream));
    const StridedProduct<T, float> left{middle_,
                                        in.left,
                                        images_,
                                        rows,
                                        p * s,
                                        features / q,
                                        heads_ * q,
                                        middleSize(),
                                        neighbors(s),
                                        {s, columns, 1},
                                        static_cast<size_t>(heads_) * depth_,
                                        {q, features, 1},
                                        neighbors(q)};
    return launchProduct(left, stream);
  }
  /** Numbers `step` apart. */
  static Runs neighbors(int step) { return {1, step, 0}; }

  cudaError_t normalize(const Operands<T>& in, bool queries, int first, int rows, T* vectors, cudaStream_t stream) const {
    Images<T> images{images_, first, rows, tokens_, heads_, depth_, size(parameters_.levels.size()), {}, {}, {},
                     parameters_.normalized, parameters_.centered, parameters_.epsilon, vectors, padded_};
    int end = 0;
    for (int level = 0; level < images.levels; level++) {
      images.ends[level] = end += size(parameters_.levelSize(static_cast<size_t>(level)));
      images.gains[level] = queries ? in.levels[level].queryGains : in.levels[level].keyGains;
      images.factors[level] = queries ? parameters_.levels[static_cast<size_t>(level)].scale : 1.f;
    }
    return launchNormalize(images, stream);
  }

  /** Images in scratch memory at a time. */
  static constexpr size_t kImageBytes = size_t{64} << 20;

  const Parameters parameters_;
  const bool hopper_;
  const int batch_, heads_, tokens_, depth_, valueDim_;
  int padded_, chunk_;
  float* images_ = nullptr;
  T* middle_ = nullptr;
  T* keys_ = nullptr;
  T* queries_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace onnxrewrite::bilinear::cuda
