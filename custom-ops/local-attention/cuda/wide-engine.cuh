// Wide heads on tensor cores, of 16-bit types: keys are longer than values, and queries stay in registers.
#pragma once

#include "tiles.cuh"

namespace onnxrewrite::local::cuda {

/** An engine as MmaEngine: eight warps of 16 rows each, two stages of columns. */
template <class Element, int KeyDim, int ValueDim>
class WideEngine {
 public:
  using T = Element;
  static constexpr int kRowTiles = 1, kWarpRows = 16;
  static constexpr int kGroupThreads = 32, kGroupRows = kWarpRows;
  static constexpr int kThreads = 256, kRows = 8 * kWarpRows;
  static constexpr int kBlocksPerMultiprocessor = 1;
  static constexpr bool kCompiled = true;
  using Rows = SoftmaxRows<T, ValueDim, kRowTiles>;

  struct Shared {
    T rows[kRows * KeyDim];
    struct Stage {
      T key[kColumns * KeyDim];
      T value[kColumns * ValueDim];
    } stage[2];
  };

  __device__ explicit WideEngine(unsigned char* shared) : shared_(*reinterpret_cast<Shared*>(shared)) {}

  __device__ SharedMatrix<T, KeyDim> queryRows() { return {warpRows()}; }
  /** Where the queries were. */
  __device__ SharedMatrix<T, ValueDim> meanRows() { return {warpRows()}; }

  __device__ void start(const Columns<T>& columns, int tiles) {
    if (tiles > 0) load(columns, 0);
  }

  template <bool Long, class Logit, class LoadMeans>
  __device__ void run(Rows& softmax, const Columns<T>& columns, int tiles, int own, Logit& logit, LoadMeans loadMeans) {
    waitForCopies<0>();
    __syncthreads();
    OperandPart<T> query[kRowTiles][KeyDim / 16];
#pragma unroll
    for (int k = 0; k < KeyDim / 16; k++) loadLeft(query[0][k], queryRows(), 0, k);
    __syncwarp();
    loadMeans();
    for (int tile = 0; tile < tiles; tile++) {
      if (tile > 0) {
        waitForCopies<0>();
        __syncthreads();
      }
      if (tile + 1 < tiles) load(columns, tile + 1);
      if (tile >= own) continue;
      auto& stage = shared_.stage[tile % 2];
      typename Rows::Products s;
      typename Rows::Weights weights;
      typename Rows::PerRow shrink;
      logit.prepare(tile);
      multiplyKeys<T, KeyDim, kRowTiles, kColumns>(s, query, SharedMatrix<T, KeyDim>{stage.key});
      softmax.exponentiate(s, shrink, tile, logit);
      softmax.template rescale<Logit::kHeadroom>(shrink);
      Rows::pack(s, weights);
      multiplyValues<T, ValueDim, kRowTiles, kColumns>(softmax.sum, weights, SharedMatrix<T, ValueDim>{stage.value});
    }
  }

 private:
  __device__ T* warpRows() { return shared_.rows + threadIdx.x / 32 * kWarpRows * KeyDim; }

  __device__ void load(const Columns<T>& columns, int tile) {
    const int from = tile * kColumns, thread = threadIdx.x;
    auto& stage = shared_.stage[tile % 2];
    const auto column = [&](int local) { return from + local < columns.count ? from + local : -1; };
    loadRows(SharedMatrix<T, KeyDim>{stage.key}, kColumns, columns.key, columns.keyDim, thread, kThreads, column);
    loadRows(SharedMatrix<T, ValueDim>{stage.value}, kColumns, columns.value, columns.valueDim, thread, kThreads, column);
    commitCopies();
  }

  Shared& shared_;
};

}  // namespace onnxrewrite::local::cuda
