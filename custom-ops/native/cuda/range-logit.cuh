// Logits of rows that each see one run of neighboring keys, as far as a mask shows them.
#pragma once

#include "range.cuh"
#include "softmax-rows.cuh"

namespace onnxrewrite::cuda {

/** A logit object of SoftmaxRows for the keys from `first` on. */
template <class Engine>
struct RangeLogit {
  static constexpr int kHeadroom = 8;
  float scale;
  /** Null where all keys are shown. */
  const bool* mask;
  int first;
  /** Keys that every row of the block sees, and the end of those that some row sees. */
  Range all;
  int end;
  /** What each of a thread's rows sees. */
  Range seen[Engine::kRowTiles][2];
  VisibleColumns<Engine::kRowTiles> visible;
  /** Whether every row of the block sees all of the tile that was prepared. */
  bool whole;

  __device__ void prepare(int tile) {
    const int key = first + tile * kColumns;
    whole = !mask && key >= all.begin && key + kColumns <= all.end;
    if (whole) return;
    const int own = key + static_cast<int>(threadIdx.x) % 32;
    const uint2 shown = mask ? make_uint2(__ballot_sync(kWholeWarp, own < end && mask[own]),
                                          __ballot_sync(kWholeWarp, own + 32 < end && mask[own + 32]))
                             : make_uint2(~0u, ~0u);
    Engine::Rows::eachRow(
        [&](int m, int half) { visible.set(m, half, seen[m][half].begin - key, seen[m][half].end - key, shown); });
  }
  /** Tiles from the first one on that are plain. */
  __device__ int leadingPlain() const {
    return mask || first < all.begin || scale <= 0 ? 0 : Range{first, all.end}.size() / kColumns;
  }
  __device__ bool plain(int) const { return whole && scale > 0; }
  __device__ bool biased(int) const { return whole; }
  __device__ float bias(int, int) const { return 0; }
  __device__ float operator()(int, int m, int half, int column, float product) const {
    return visible.at(m, half, column) ? product * scale : -INFINITY;
  }
  template <class Products, class Peaks>
  __device__ void keep(int, const Products&, const Peaks&) const {}
};

}  // namespace onnxrewrite::cuda
