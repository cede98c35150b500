// Products with one level of a structured matrix (README.md, "Semantics"), on tiles of rows. Factors are packed once:
// in float32, scaled, in the order in which products read them.
#pragma once

#include <memory>
#include <vector>

#include "../native/padded_rows.h"
#include "level.h"

namespace onnxrewrite::structured {

// Rows that go through a product together.
constexpr size_t kRows = kTile;

// A tensor of float32 or float16 in float32.
inline std::vector<float> floatsOf(const TensorView& tensor) {
  size_t count = 1;
  for (const int64_t dim : tensor.dims) count *= static_cast<size_t>(dim);
  std::vector<float> values(count);
  toFloats(tensor, 0, count, values.data());
  return values;
}

// Matrices of one shape. Columns lie in panels of kPanel, padded to multiples of kLanes.
class Factor {
 public:
  // entry(block, row, column) is the number there.
  template <class Entry>
  Factor(Allocator& allocator, size_t blocks, size_t rows, size_t columns, const Entry& entry)
      : padded(roundUpToLanes(columns)), rows_(rows), data_(allocator, blocks * rows * padded) {
    float* out = data_.data();
    for (size_t block = 0; block < blocks; block++) {
      for (size_t panel = 0; panel < padded; panel += kPanel) {
        const size_t end = std::min(padded, panel + kPanel);
        for (size_t row = 0; row < rows; row++) {
          for (size_t column = panel; column < end; column++) {
            *out++ = column < columns ? entry(block, row, column) : 0.f;
          }
        }
      }
    }
  }

  // sums [count][padded] += x [count][rows] times a block; rows are sumRow and xRow floats apart.
  void addProduct(const Simd& simd, float* sums, size_t sumRow, size_t block, const float* x, size_t xRow,
                  size_t count) const {
    const float* panels = data_.data() + block * rows_ * padded;
    for (size_t panel = 0; panel < padded; panel += kPanel) {
      const size_t width = std::min(kPanel, padded - panel);
      for (size_t row = 0; row < rows_; row += kDepth) {
        const Rows part{panels + panel * rows_ + row * width, width};
        simd.accumulateRows(sums + panel, sumRow, count, width, x + row, xRow, 1, part, std::min(kDepth, rows_ - row));
      }
    }
  }
  // The same into sums that are not read before.
  void product(const Simd& simd, float* sums, size_t sumRow, size_t block, const float* x, size_t xRow,
               size_t count) const {
    for (size_t row = 0; row < count; row++) std::fill_n(sums + row * sumRow, padded, 0.f);
    addProduct(simd, sums, sumRow, block, x, xRow, count);
  }
  // One product after the other: of `pieces` pieces of x, which follow each other in its rows, each with the block of
  // its number. Sums of a piece are `slab` floats behind those of the one before.
  void products(const Simd& simd, float* sums, size_t slab, size_t pieces, const float* x, size_t xRow,
                size_t count) const {
    for (size_t piece = 0; piece < pieces; piece++) {
      product(simd, sums + piece * slab, padded, piece, x + piece * rows_, xRow, count);
    }
  }

  const size_t padded;

 private:
  // As many columns as the widest kernel takes at a time, and rows that stay in the first-level cache with them.
  static constexpr size_t kPanel = 64;
  static constexpr size_t kDepth = 64;

  const size_t rows_;
  Buffer<float> data_;
};

// Where results go: row r of group g begins at data + g * group + r * row. Groups are matrices of the same input, whose
// output pieces follow each other.
struct Target {
  float* data;
  size_t row, group;

  Target from(size_t n) const { return {data + n * row, row, group}; }
};

// One level on up to kRows rows: y += scale * x M^T.
class LevelProduct {
 public:
  virtual ~LevelProduct() = default;
  // Floats of scratch that `add` takes.
  virtual size_t scratch() const = 0;
  // Rows of x are xRow floats apart.
  virtual void add(const Simd& simd, const Target& y, const float* x, size_t xRow, size_t rows,
                   float* scratch) const = 0;

 protected:
  // Rows of `size` numbers that lie in parts of `part`, padded to `padded`, are added to y without the padding.
  static void addParts(float* y, size_t yRow, const float* results, size_t rows, size_t parts, size_t part,
                       size_t padded) {
    for (size_t row = 0; row < rows; row++) {
      for (size_t n = 0; n < parts; n++) {
        const float* from = results + (row * parts + n) * padded;
        float* to = y + row * yRow + n * part;
        for (size_t i = 0; i < part; i++) to[i] += from[i];
      }
    }
  }
};

// Each output piece from its own input piece.
class BlockDiagonal : public LevelProduct {
 public:
  BlockDiagonal(Allocator& allocator, size_t in, size_t out, const Level& level, const float* left, const float* right)
      : pieces_(level.inputPieces),
        piece_(in / pieces_),
        outputPiece_(out / pieces_),
        right_(allocator, pieces_, piece_, level.rank,
               [&](size_t n, size_t delta, size_t sigma) { return right[(n * piece_ + delta) * level.rank + sigma]; }),
        left_(allocator, pieces_, level.rank, outputPiece_, [&](size_t n, size_t sigma, size_t alpha) {
          return level.scale * left[(n * level.rank + sigma) * outputPiece_ + alpha];
        }) {}

  size_t scratch() const override { return kRows * (right_.padded + left_.padded); }

  void add(const Simd& simd, const Target& y, const float* x, size_t xRow, size_t rows,
           float* scratch) const override {
    float *middle = scratch, *results = scratch + kRows * right_.padded;
    for (size_t piece = 0; piece < pieces_; piece++) {
      right_.product(simd, middle, right_.padded, piece, x + piece * piece_, xRow, rows);
      float* to = y.data + piece * outputPiece_;
      if (left_.padded == outputPiece_) {
        left_.addProduct(simd, to, y.row, piece, middle, right_.padded, rows);
      } else {
        left_.product(simd, results, left_.padded, piece, middle, right_.padded, rows);
        addParts(to, y.row, results, rows, 1, outputPiece_, left_.padded);
      }
    }
  }

 private:
  const size_t pieces_, piece_, outputPiece_;
  const Factor right_, left_;
};

// Sizes of a permuted level whose output pieces fall into groups.
struct PermutedSizes {
  PermutedSizes(size_t in, size_t out, const Level& level, size_t groups)
      : inputPieces(level.inputPieces),
        outputPieces(level.outputPieces / groups),
        rank(level.rank),
        groups(groups),
        piece(in / level.inputPieces),
        outputPiece(out / level.outputPieces) {}

  // Of `left` and `right` as the operator has them; beta counts the output pieces of all groups.
  size_t leftAt(size_t beta, size_t gamma, size_t sigma, size_t alpha) const {
    return ((beta * inputPieces + gamma) * rank + sigma) * outputPiece + alpha;
  }
  size_t rightAt(size_t gamma, size_t delta, size_t beta, size_t sigma) const {
    return ((gamma * piece + delta) * groups * outputPieces + beta) * rank + sigma;
  }

  const size_t inputPieces, outputPieces, rank, groups, piece, outputPiece;
};

// Output pieces as lanes: what a row has of all pieces lies side by side, in the middle as in the output.
class PermutedByPiece : public LevelProduct {
 public:
  PermutedByPiece(Allocator& allocator, const PermutedSizes& sizes, float scale, const float* left, const float* right)
      : sizes_(sizes),
        lanes_(roundUpToLanes(sizes.outputPieces)),
        right_(allocator, sizes.inputPieces, sizes.piece, sizes.rank * sizes.groups * lanes_,
               [&](size_t gamma, size_t delta, size_t column) {
                 const size_t lane = column % lanes_, group = column / lanes_ % sizes.groups;
                 const size_t beta = group * sizes.outputPieces + lane, sigma = column / lanes_ / sizes.groups;
                 return lane < sizes.outputPieces ? right[sizes.rightAt(gamma, delta, beta, sigma)] : 0.f;
               }),
        left_(allocator, sizes.groups * sizes.rank * term() * sizes.inputPieces) {
    float* out = left_.data();
    for (size_t group = 0; group < sizes.groups; group++) {
      for (size_t sigma = 0; sigma < sizes.rank; sigma++) {
        for (size_t gamma = 0; gamma < sizes.inputPieces; gamma++) {
          for (size_t alpha = 0; alpha < sizes.outputPiece; alpha++) {
            for (size_t lane = 0; lane < lanes_; lane++) {
              const size_t at = sizes.leftAt(group * sizes.outputPieces + lane, gamma, sigma, alpha);
              *out++ = lane < sizes.outputPieces ? scale * left[at] : 0.f;
            }
          }
        }
      }
    }
  }

  // Multiply-adds of a row, those with padding included.
  static size_t cost(const PermutedSizes& sizes) {
    const size_t each = sizes.rank * sizes.groups * roundUpToLanes(sizes.outputPieces) * sizes.inputPieces;
    return each * (sizes.piece + sizes.outputPiece);
  }

  size_t scratch() const override {
    return rowsAtOnce() * (sizes_.inputPieces * right_.padded + (inPlace() ? 0 : term()));
  }

  void add(const Simd& simd, const Target& y, const float* x, size_t xRow, size_t rows,
           float* scratch) const override {
    const size_t most = rowsAtOnce();
    for (size_t first = 0; first < rows; first += most) {
      addSome(simd, y.from(first), x + first * xRow, xRow, std::min(most, rows - first), scratch);
    }
  }

 private:
  // Floats of the middle that stay in the second-level cache, and rows that make good use of a factor.
  static constexpr size_t kMiddle = 1 << 15;
  static constexpr size_t kLeastRows = 12;

  size_t rowsAtOnce() const {
    return std::clamp(kMiddle / (sizes_.inputPieces * right_.padded), kLeastRows, kRows);
  }
  bool inPlace() const { return lanes_ == sizes_.outputPieces; }
  // Weights of a piece and rank, results of a row and group.
  size_t term() const { return sizes_.outputPiece * lanes_; }

  void addSome(const Simd& simd, const Target& y, const float* x, size_t xRow, size_t rows, float* scratch) const {
    const size_t slab = rows * right_.padded;
    float *middle = scratch, *results = scratch + sizes_.inputPieces * slab;
    right_.products(simd, middle, slab, sizes_.inputPieces, x, xRow, rows);
    for (size_t group = 0; group < sizes_.groups; group++) {
      float* to = y.data + group * y.group;
      if (!inPlace()) std::fill_n(results, rows * term(), 0.f);
      for (size_t sigma = 0; sigma < sizes_.rank; sigma++) {
        simd.accumulateLanes(inPlace() ? to : results, inPlace() ? y.row : term(), rows, sizes_.outputPiece, lanes_,
                             left_.data() + (group * sizes_.rank + sigma) * sizes_.inputPieces * term(),
                             middle + (sigma * sizes_.groups + group) * lanes_, right_.padded, slab,
                             sizes_.inputPieces);
      }
      if (!inPlace()) addParts(to, y.row, results, rows, sizes_.outputPiece, sizes_.outputPieces, lanes_);
    }
  }

  const PermutedSizes sizes_;
  const size_t lanes_;
  const Factor right_;
  Buffer<float> left_;
};

// Numbers of an output piece as lanes, for few output pieces: results are scattered to the output.
class PermutedByNumber : public LevelProduct {
 public:
  PermutedByNumber(Allocator& allocator, const PermutedSizes& sizes, float scale, const float* left,
                   const float* right)
      : sizes_(sizes),
        lanes_(roundUpToLanes(sizes.outputPiece)),
        right_(allocator, sizes.inputPieces, sizes.piece, sizes.groups * sizes.outputPieces * sizes.rank,
               [&](size_t gamma, size_t delta, size_t column) {
                 return right[sizes.rightAt(gamma, delta, column / sizes.rank, column % sizes.rank)];
               }),
        left_(allocator, sizes.groups * sizes.outputPieces * sizes.rank * sizes.inputPieces * lanes_) {
    float* out = left_.data();
    for (size_t beta = 0; beta < sizes.groups * sizes.outputPieces; beta++) {
      for (size_t sigma = 0; sigma < sizes.rank; sigma++) {
        for (size_t gamma = 0; gamma < sizes.inputPieces; gamma++) {
          for (size_t alpha = 0; alpha < lanes_; alpha++) {
            *out++ = alpha < sizes.outputPiece ? scale * left[sizes.leftAt(beta, gamma, sigma, alpha)] : 0.f;
          }
        }
      }
    }
  }

  // Multiply-adds of a row, those with padding included; a scattered number counts as a vector of them.
  static size_t cost(const PermutedSizes& sizes) {
    const size_t pieces = sizes.groups * sizes.outputPieces;
    return sizes.inputPieces * (sizes.piece * roundUpToLanes(pieces * sizes.rank) +
                                pieces * sizes.rank * roundUpToLanes(sizes.outputPiece)) +
           pieces * sizes.outputPiece * kLanes;
  }

  size_t scratch() const override { return kRows * (lanes_ + right_.padded * sizes_.inputPieces); }

  void add(const Simd& simd, const Target& y, const float* x, size_t xRow, size_t rows,
           float* scratch) const override {
    const size_t slab = kRows * right_.padded, rank = sizes_.rank, terms = sizes_.inputPieces;
    float *results = scratch, *middle = scratch + kRows * lanes_;
    right_.products(simd, middle, slab, terms, x, xRow, rows);
    for (size_t beta = 0; beta < sizes_.groups * sizes_.outputPieces; beta++) {
      std::fill_n(results, rows * lanes_, 0.f);
      for (size_t sigma = 0; sigma < rank; sigma++) {
        const Rows block{left_.data() + (beta * rank + sigma) * terms * lanes_, lanes_};
        simd.accumulateRows(results, lanes_, rows, lanes_, middle + beta * rank + sigma, right_.padded, slab, block,
                            terms);
      }
      float* to = y.data + beta / sizes_.outputPieces * y.group + beta % sizes_.outputPieces;
      for (size_t row = 0; row < rows; row++) {
        for (size_t alpha = 0; alpha < sizes_.outputPiece; alpha++) {
          to[row * y.row + alpha * sizes_.outputPieces] += results[row * lanes_ + alpha];
        }
      }
    }
  }

 private:
  const PermutedSizes sizes_;
  const size_t lanes_;
  const Factor right_;
  Buffer<float> left_;
};

// A (x) B: every row as a matrix X [inputPieces, piece] gives A X B^T.
class Kronecker : public LevelProduct {
 public:
  Kronecker(Allocator& allocator, const PermutedSizes& sizes, float scale, const float* left, const float* right)
      : sizes_(sizes),
        right_(allocator, 1, sizes.piece, sizes.outputPieces,
               [&](size_t, size_t delta, size_t beta) { return right[beta * sizes.piece + delta]; }),
        left_(allocator, sizes.outputPiece * sizes.inputPieces) {
    for (size_t n = 0; n < left_.size(); n++) left_[n] = scale * left[n];
  }

  size_t scratch() const override { return (kRows * sizes_.inputPieces + sizes_.outputPiece) * right_.padded; }

  void add(const Simd& simd, const Target& y, const float* x, size_t xRow, size_t rows,
           float* scratch) const override {
    const size_t pieces = sizes_.inputPieces, lanes = right_.padded;
    const bool inPlace = lanes == sizes_.outputPieces;
    float *middle = scratch, *results = scratch + kRows * pieces * lanes;
    // Where rows follow each other their pieces do.
    const size_t together = xRow == pieces * sizes_.piece ? rows : 1;
    for (size_t row = 0; row < rows; row += together) {
      right_.product(simd, middle + row * pieces * lanes, lanes, 0, x + row * xRow, sizes_.piece, together * pieces);
    }
    for (size_t row = 0; row < rows; row++) {
      float* to = y.data + row * y.row;
      if (!inPlace) std::fill_n(results, sizes_.outputPiece * lanes, 0.f);
      simd.accumulateRows(inPlace ? to : results, lanes, sizes_.outputPiece, lanes, left_.data(), pieces, 1,
                          Rows{middle + row * pieces * lanes, lanes}, pieces);
      if (!inPlace) addParts(to, 0, results, 1, sizes_.outputPiece, sizes_.outputPieces, lanes);
    }
  }

 private:
  const PermutedSizes sizes_;
  const Factor right_;
  Buffer<float> left_;
};

// A level by its factors in the layout of the operator; `tied` as in a Kronecker product. Output pieces of permuted
// levels fall into `groups`, see Target. Memory of `allocator` is held as long as the result is.
inline std::unique_ptr<LevelProduct> packLevel(Allocator& allocator, size_t in, size_t out, const Level& level,
                                               bool tied, size_t groups, const TensorView& left,
                                               const TensorView& right) {
  const std::vector<float> lefts = floatsOf(left), rights = floatsOf(right);
  const float *l = lefts.data(), *r = rights.data();
  if (!level.permuted) return std::make_unique<BlockDiagonal>(allocator, in, out, level, l, r);
  const PermutedSizes sizes(in, out, level, groups);
  if (tied) return std::make_unique<Kronecker>(allocator, sizes, level.scale, l, r);
  if (PermutedByPiece::cost(sizes) <= PermutedByNumber::cost(sizes)) {
    return std::make_unique<PermutedByPiece>(allocator, sizes, level.scale, l, r);
  }
  return std::make_unique<PermutedByNumber>(allocator, sizes, level.scale, l, r);
}

}  // namespace onnxrewrite::structured
