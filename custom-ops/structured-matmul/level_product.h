// Products with one level of a structured matrix (README.md, "Semantics"), on tiles of rows.
#pragma once

#include <vector>

#include "../native/padded_rows.h"

namespace onnxrewrite::structured {

// Rows that go through a product together.
constexpr size_t kRows = kTile;

struct Level {
  size_t inputPieces, outputPieces, rank;
  bool permuted;
  float scale;
};

// A factor in float32: blocks of rows padded to multiples of kLanes.
class Factor {
 public:
  // tensor [blocks][rows][columns]
  Factor(const Environment& environment, const TensorView& tensor, size_t blocks, size_t rows, size_t columns)
      : padded(roundUpToLanes(columns)),
        block_(rows * padded),
        data_(environment, blocks, {&tensor}, {rows}, columns) {}
  // The transpose of `tensor` [columns][rows] as each of the blocks.
  Factor(const Environment& environment, const TensorView& tensor, size_t rows, size_t columns)
      : padded(roundUpToLanes(columns)), block_(0), data_(transposed(environment, tensor, rows, columns)) {}

  Rows block(size_t n) const { return {data_.data() + n * block_, padded, nullptr}; }

  const size_t padded;

 private:
  PaddedRows transposed(const Environment& environment, const TensorView& tensor, size_t rows, size_t columns) {
    std::vector<float> given(rows * columns);
    toFloats(tensor, 0, given.size(), given.data());
    float* target = turned_.reset(environment.allocator, rows * padded);
    for (size_t row = 0; row < rows; row++) {
      for (size_t column = 0; column < padded; column++) {
        target[row * padded + column] = column < columns ? given[column * rows + row] : 0.f;
      }
    }
    const TensorView view{ort::kFloat, {}, target};
    return PaddedRows(environment, 1, {&view}, {rows}, padded);
  }

  Buffer<float> turned_;
  const size_t block_;
  const PaddedRows data_;
};

// sums [rows][factor.padded] = x [rows][depth] times `block` of `factor`; rows of x are `stride` apart
inline void multiply(const Simd& simd, float* sums, const Factor& factor, size_t rows, const float* x, size_t stride,
                     size_t block, size_t depth) {
  std::fill_n(sums, rows * factor.padded, 0.f);
  simd.accumulateRows(sums, factor.padded, rows, factor.padded, x, stride, 1, factor.block(block), depth);
}

// One level on a tile of rows: y += scale * x M^T.
class LevelProduct {
 public:
  // `tied` as in a Kronecker product. Outputs of a permuted level come in `groups` of equally many pieces, each
  // group interleaved on its own and one after the other: several matrices of the same input.
  LevelProduct(const Environment& environment, size_t in, size_t out, const Level& level, bool tied, size_t groups,
               const TensorView& left, const TensorView& right)
      : simd_(environment.simd),
        level_(level),
        in_(in),
        out_(out),
        piece_(in_ / level.inputPieces),
        outputPiece_(out_ / level.outputPieces),
        interleaved_(level.permuted ? level.outputPieces / groups : 1),
        left_(tied
                  ? Factor(environment, left, level.inputPieces, outputPiece_)
                  : Factor(environment, left, level.outputPieces,
                           level.permuted ? level.inputPieces * level.rank : level.rank, outputPiece_)),
        right_(tied ? Factor(environment, right, piece_, level.outputPieces)
                              : Factor(environment, right, level.inputPieces, piece_,
                                       level.permuted ? level.outputPieces * level.rank : level.rank)) {}

  // Floats of scratch that `add` takes.
  size_t scratch() const {
    return kRows * (left_.padded + right_.padded * (level_.permuted ? level_.inputPieces : 1));
  }

  void add(float* y, const float* x, size_t rows, float* scratch) const {
    float* results = scratch;
    float* middle = scratch + kRows * left_.padded;
    const size_t slab = kRows * right_.padded, rank = level_.rank;
    for (size_t piece = 0; piece < level_.inputPieces; piece++) {
      float* own = middle + (level_.permuted ? piece * slab : 0);
      multiply(simd_, own, right_, rows, x + piece * piece_, in_, piece, piece_);
      if (level_.permuted) continue;
      multiply(simd_, results, left_, rows, own, right_.padded, piece, rank);
      addTo(y + piece * outputPiece_, results, rows);
    }
    if (!level_.permuted) return;
    for (size_t piece = 0; piece < level_.outputPieces; piece++) {
      std::fill_n(results, rows * left_.padded, 0.f);
      for (size_t sigma = 0; sigma < rank; sigma++) {
        const Rows block = left_.block(piece);
        simd_.accumulateRows(results, left_.padded, rows, left_.padded, middle + piece * rank + sigma, right_.padded,
                             slab, {block.base + sigma * block.stride, rank * block.stride, nullptr},
                             level_.inputPieces);
      }
      const size_t group = piece / interleaved_;
      addTo(y + group * interleaved_ * outputPiece_ + piece % interleaved_, results, rows);
    }
  }

 private:
  void addTo(float* y, const float* results, size_t rows) const {
    for (size_t row = 0; row < rows; row++) {
      for (size_t alpha = 0; alpha < outputPiece_; alpha++) {
        y[row * out_ + alpha * interleaved_] += level_.scale * results[row * left_.padded + alpha];
      }
    }
  }

  const Simd& simd_;
  const Level level_;
  const size_t in_, out_, piece_, outputPiece_;
  // Distance of the outputs of one piece.
  const size_t interleaved_;
  const Factor left_, right_;
};

}  // namespace onnxrewrite::structured
