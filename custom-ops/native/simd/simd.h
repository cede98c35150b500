// Vector kernels shared by the CPU operators, one table per instruction set, chosen once at run time.
//
// Two families of matrix kernels cover every product of an attention operator:
//  - tile kernels keep one query per lane: a tile is [depth][width], a key or value element is broadcast to
//    all lanes. Keys and values are read in place, through an index list where they are scattered.
//  - row kernels keep one key (or one value channel) per lane and broadcast query elements; keys then come
//    packed in panels.
// Within a lane every product is summed in the order of its index, whatever the tile width or the number of
// rows handled together: a result never depends on which other queries share the call.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../../elementwise-attention/vectors.h"

namespace onnxrewrite {

// Widths, depths and panel sizes of all kernels are multiples of this many floats.
constexpr size_t kLanes = 16;
// Most queries, keys or centroids that the operators put in one tile of lanes.
constexpr size_t kTile = 64;

// Most keys in the panels of one call of attendRows.
constexpr size_t kPackedKeys = 128;

constexpr size_t roundUpToLanes(size_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// Rows of a matrix, in order (index null) or picked by an index list.
struct Rows {
  const float* base;
  size_t stride;
  const int32_t* index = nullptr;

  const float* operator[](size_t n) const {
    return base + static_cast<size_t>(index ? index[n] : static_cast<int32_t>(n)) * stride;
  }
  Rows from(size_t n) const {
    return index ? Rows{base, stride, index + n} : Rows{base + n * stride, stride, nullptr};
  }
};

// Lanes that follow each other, all those of a tile or some; the tile's rows are `stride` floats apart.
struct Lanes {
  Lanes(size_t width) : count(width), stride(width) {}
  Lanes(size_t count, size_t stride) : count(count), stride(stride) {}

  size_t count, stride;
};

struct Simd {
  const char* name;

  // ---- tile kernels: numbers of lanes, and the depth of whole rows, are multiples of kLanes ----

  // tile[d][lane] = multiplier * rows[lane][d]; lanes from `count` on are zero.
  void (*loadTile)(float* tile, size_t width, Rows rows, size_t count, size_t depth, float multiplier);
  // Row[d] = row[d] * keep[lane] + tile[d][lane] * gain[lane] for the first `count` lanes, where row is
  // number index[lane] (number `lane` when index is null); with `keep` null the rows are only written.
  void (*mergeTile)(float* rows, size_t stride, const int32_t* index, size_t count, const float* tile,
                    size_t width, size_t depth, const float* keep, const float* gain);
  // scores[n][lane] = keys[n] . tile[][lane] over the first `depth` dimensions, any number
  void (*scoreTile)(float* scores, const float* tile, Lanes lanes, size_t depth, Rows keys, size_t count);
  // sums[e][lane] += sum over n of weights[n][lane] * values[n][e]
  void (*accumulateTile)(float* sums, Lanes lanes, size_t size, const float* weights, Rows values, size_t count);
  // The same, but a weight of zero takes no part even where the value is not finite.
  void (*accumulateTileGuarded)(float* sums, Lanes lanes, size_t size, const float* weights, Rows values,
                                size_t count);
  // One step of an online softmax in base 2: raises max to cover scores, replaces scores by
  // exp2(scores - max), adds them to sum, and writes into factor what earlier sums have to be scaled by.
  // Returns whether any factor differs from 1.
  bool (*softmaxTile)(float* scores, Lanes lanes, size_t count, float* max, float* sum, float* factor);
  // sums[e][lane] *= factor[lane]
  void (*scaleTile)(float* sums, Lanes lanes, size_t size, const float* factor);
  // index[lane] = the n with the largest scores[n][lane] + bias[n], ties to the lowest n.
  void (*argmaxTile)(int32_t* index, const float* scores, const float* bias, size_t width, size_t count);
  // scores[n][lane] = -infinity where lane < first + index[n] (first + n when index is null).
  void (*hideEarlierLanes)(float* scores, Lanes lanes, size_t count, const int32_t* index, int32_t first);

  // ---- row kernels: panels are [depth][kLanes] ----

  // scores[r][n] = bias[n] + rows[r] . (column n of the panels), for panelCount * kLanes columns.
  void (*scoreRows)(float* scores, size_t scoreStride, const float* rows, size_t rowStride, size_t count,
                    const float* panels, size_t panelCount, size_t depth, const float* bias);
  // sums[r][e] += sum over n of weights[r * weightRow + n * weightColumn] * values[n][e]
  void (*accumulateRows)(float* sums, size_t sumStride, size_t rowCount, size_t size, const float* weights,
                         size_t weightRow, size_t weightColumn, Rows values, size_t count);
  // The same, but a weight of zero takes no part even where the value is not finite.
  void (*accumulateRowsGuarded)(float* sums, size_t sumStride, size_t rowCount, size_t size,
                                const float* weights, size_t weightRow, size_t weightColumn, Rows values,
                                size_t count);
  // Lets rows attend to keyCount <= kPackedKeys keys, in panels, by an online softmax in base 2: for the rows
  // rows.index[0 .. count) raises max[row] to cover the products row . key, scales sum[row] and sums[row][] to it,
  // and adds exp2(product - max) and what values weigh by it. The index is not null and names no row twice.
  void (*attendRows)(float* max, float* sum, float* sums, size_t size, Rows rows, size_t count, size_t depth,
                     const float* panels, Rows values, size_t keyCount);
  // One product for each lane: sums[r][c][lane] += sum over n of weights[n][c][lane] * values[r][n][lane], where rows
  // r of sums are sumRow floats apart, rows and terms n of values valueRow and valueTerm.
  void (*accumulateLanes)(float* sums, size_t sumRow, size_t rowCount, size_t columns, size_t lanes,
                          const float* weights, const float* values, size_t valueRow, size_t valueTerm,
                          size_t count);
  // Normalization without bias of `size` numbers, any number, of each row, in place:
  // (x - mean) / sqrt(variance + epsilon) * multiplier, times gain[] unless that is null; where not `centered`, zero
  // stands for the mean.
  void (*normalizeRows)(float* rows, size_t stride, size_t count, size_t size, bool centered, float epsilon,
                        const float* gain, float multiplier);
  // rows[r][] *= factor[r]
  void (*scaleRows)(float* rows, size_t stride, size_t count, size_t size, const float* factor);
  // sums[target[n]][] += rows[n][]; sums has rows of `size` floats.
  void (*scatterRows)(float* sums, Rows rows, const int32_t* target, size_t count, size_t size);
  // norms[n] = rows[n] . rows[n]
  void (*squaredNorms)(float* norms, Rows rows, size_t count, size_t size);

  // ---- vectors: counts are multiples of kLanes ----

  // Largest of `count` values, at least `floor`; NaN spreads.
  float (*maxRow)(const float* values, size_t count, float floor);
  // values = exp2(values - max); returns their sum.
  float (*exp2Row)(float* values, size_t count, float max);
  float (*sumRow)(const float* values, size_t count);
  // sums += factor * values
  void (*addScaled)(float* sums, const float* values, size_t count, float factor);
  // Whether no value is infinite or NaN.
  bool (*allFinite)(const float* values, size_t count);
  // Indices of the `wanted` largest strictly positive values, ascending, ties to the lowest index; no value
  // is negative. Returns how many there are.
  size_t (*selectLargest)(int32_t* chosen, const float* values, size_t count, size_t wanted);

  // ---- kernels of one operator, declared in its folder ----

  const elementwise::Vectors* elementwise;
};

// The best table for this processor. The environment variable ONNX_REWRITE_SIMD (avx512, avx2, baseline)
// lowers the choice; a name that this processor cannot run is ignored.
const Simd& simd();

}  // namespace onnxrewrite
