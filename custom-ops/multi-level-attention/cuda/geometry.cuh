// Sizes, positions and levels of one MultiLevelAttention call (README, "Semantics"), the same for all kernels.
#pragma once

#include "../../native/cuda/mma.cuh"
#include "../../native/cuda/range.cuh"
#include "../parameters.h"

namespace onnxrewrite::multilevel::cuda {

using namespace onnxrewrite::cuda;

/** How many levels the pairs of a tile of rows and keys share: between `least` and `most`. */
struct TileShares {
  int least, most;
};

struct Geometry {
  int batch, heads, kvHeads, queries, keys, headDim, valueDim;
  /** Tokens in the cache. */
  int past;
  /** Position of row 0. */
  int offset;
  bool causal;
  int levels;
  /** Tokens in a block of the last level. */
  int block;
  /** By level, the dimension after its last, and the factor on its products. */
  int ends[kMostLevels];
  float weights[kMostLevels];
  bool weighted;
  /** By the number of levels shared less one, the factor that makes weighted products logits in base 2; never below 0. */
  float factors[kMostLevels];

  __host__ __device__ int kvHeadOf(int head) const {
    return head / heads * kvHeads + head % heads / (heads / kvHeads);
  }
  __device__ int position(int row) const { return row + offset; }
  /** Keys that a row sees as far as position goes. */
  __device__ int visibleEnd(int row) const { return causal ? min(max(position(row) + 1, 0), keys) : keys; }

  /** Index of the last level's block that holds a position. */
  __device__ int blockOf(int position) const {
    return position >= 0 ? position / block : -1 - (-1 - position) / block;
  }
  /** Levels that all positions share whose block indices differ in no other bits than these: blocks halve. */
  __device__ int sharedBut(int bits) const { return max(1, levels - (32 - __clz(bits))); }
  /** Levels that two positions share, given by their blocks. */
  __device__ int shared(int a, int b) const { return sharedBut(a ^ b); }
  __device__ TileShares shares(Range rowBlocks, Range keyBlocks) const {
    const int a = rowBlocks.begin, b = rowBlocks.end, c = keyBlocks.begin, d = keyBlocks.end;
    const int most = c > b ? shared(b, c) : a > d ? shared(d, a) : levels;
    return {sharedBut(a ^ b | a ^ c | a ^ d), most};
  }

  /** Factor on the dimension of a query. */
  __device__ float weightOf(int dimension) const {
    int level = 0;
    while (dimension >= ends[level]) level++;
    return weights[level];
  }
};

template <class T>
struct Operands {
  const T* query;
  const T* key;
  const T* value;
  /** [batch, keys], or null where all are visible. */
  const bool* visible;
  /** Of the cache: values, and the keys of each level that it still has; null without one. */
  const T* pastValue;
  const T* pastKeys[kMostLevels];
  /** Rows of pastKeys. */
  int cached[kMostLevels];
};

/** [B,H,N,E], and [B,H,N] or null. */
template <class T>
struct Results {
  T* output;
  T* lse;
};

}  // namespace onnxrewrite::multilevel::cuda
