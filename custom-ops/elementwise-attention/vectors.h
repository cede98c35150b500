// Vector kernels of ElementwiseAttention: channels are lanes, rows follow each other.
#pragma once

#include "parameters.h"

namespace onnxrewrite::elementwise {

// The state of some channels: S_0 ... S_t, Z_0 ... Z_t and the offset, each a row of `lanes` floats.
constexpr size_t stateRows(int order) { return sumsOf(order) + 1; }

// Rows of one batch row, from the same channel on.
struct Tile {
  const float* query;
  const float* key;
  const float* value;
  float* output;
  size_t stride;        // floats from row to row
  size_t rows;
  const bool* visible;  // by row; null where every key is visible
};

// Widths are multiples of kLanes; orders are even, from 2 to kMostOrder.
struct Vectors {
  // Adds the keys of all rows to the state.
  void (*absorb)(float* state, size_t lanes, int order, const Tile& tile);
  // Adds the key of each row, then writes the row's output: what it gives depends on no later row.
  void (*attend)(float* state, size_t lanes, int order, const Tile& tile);
  // Writes the output of every row from the state as it is.
  void (*means)(float* state, size_t lanes, int order, const Tile& tile);
  // Adds the sums of `earlier` to the state.
  void (*join)(float* state, size_t lanes, int order, const float* earlier);
  // Order 0: outputs of rows from all keys, or row n from the first `first` + n + 1 under causality.
  void (*exact)(const Tile& queries, size_t lanes, const Tile& keys, bool causal, size_t first);
};

}  // namespace onnxrewrite::elementwise
