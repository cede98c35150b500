// How a block streams columns (keys or summaries) past its rows: with mma products and asynchronous copies on any
// chip from sm_80 on, or with warpgroup products and the copy engine on Hopper. Both keep partial softmaxes of
// rows by warp in the same layout, so the passes are written once.
#pragma once

#include "hopper.cuh"
#include "row-tiles.cuh"
#include "softmax-rows.cuh"

#include <type_traits>

namespace onnxrewrite::cuda {

/** Columns [0, count) of one pass of a block; without `value` the pass is after the totals alone. */
template <class T>
struct Columns {
  const T* key;
  const T* value;
  int keyDim, valueDim;
  /** Added to the logits, in base 2; null for nothing. */
  const float* bias;
  int count;
  /** Where column 0 lies for the copy engine. */
  const TensorMap* keyMap;
  const TensorMap* valueMap;
  int mapRow, mapPart;
};

/** Warps of RowTiles * 16 rows each, two stages of columns, whose values may be shorter than their keys. */
template <class Element, int PaddedDim, int RowTiles, int PaddedValueDim = PaddedDim, int Warps = 4>
class MmaEngine {
 public:
  using T = Element;
  static constexpr int kDim = PaddedDim, kValueDim = PaddedValueDim, kRowTiles = RowTiles, kWarpRows = RowTiles * 16;
  /** Threads that take columns together, and their rows. */
  static constexpr int kGroupThreads = 32, kGroupRows = kWarpRows;
  static constexpr int kThreads = Warps * 32, kRows = Warps * kWarpRows;
  static constexpr int kRowBytes = PaddedDim * RowTiles * sizeof(T);
  static constexpr int kBlocksPerMultiprocessor = kRowBytes <= 128 ? 4 : kRowBytes <= 256 ? 2 : 1;
  static constexpr bool kCompiled = true;
  /** Whether long runs have a form of their own. */
  static constexpr bool kLongRuns = false;
  using Rows = SoftmaxRows<T, kValueDim, RowTiles>;

  struct Shared {
    T rows[kRows * kDim];
    struct Stage {
      T key[kColumns * kDim];
      T value[kColumns * kValueDim];
      float bias[kColumns];
    } stage[2];
  };

  __device__ explicit MmaEngine(unsigned char* shared) : shared_(*reinterpret_cast<Shared*>(shared)) {}

  /** The warp's own rows: for queries before run(), for means to join in its loadMeans, for results after it. */
  __device__ SharedMatrix<T, kDim> queryRows() { return {shared_.rows + threadIdx.x / 32 * kWarpRows * kDim}; }
  __device__ SharedMatrix<T, kValueDim> meanRows() { return {queryRows().data}; }
  /** Bias of a column of a tile that run() is at. */
  __device__ float bias(int tile, int column) const { return shared_.stage[tile % 2].bias[column]; }

  /** Begins to load columns, behind the queries, which are asynchronous copies too. */
  __device__ void start(const Columns<T>& columns, int tiles) {
    if (tiles > 0) load(columns, 0);
  }

  /**
   * Takes the first `own` of the block's `tiles` of 64 columns into the group's `softmax`; without a value pointer its
   * `sum` stays as it is. loadMeans() closes a group of copies that need be there only after the run. `Long` tells that
   * many plain tiles are to be expected.
   */
  template <bool Long, class Logit, class LoadMeans>
  __device__ void run(Rows& softmax, const Columns<T>& columns, int tiles, int own, Logit& logit, LoadMeans loadMeans) {
    waitForCopies<0>();
    __syncthreads();
    OperandPart<T> query[RowTiles][kDim / 16];
#pragma unroll
    for (int m = 0; m < RowTiles; m++)
#pragma unroll
      for (int k = 0; k < kDim / 16; k++) loadLeft(query[m][k], queryRows(), m * 16, k);
    __syncwarp();
    loadMeans();
    for (int tile = 0; tile < tiles; tile++) {
      if (tile > 0) {
        waitForCopies<0>();
        __syncthreads();
      }
      if (tile + 1 < tiles) load(columns, tile + 1);
      if (tile >= own) continue;
      typename Rows::Products s;
      typename Rows::Weights weights;
      typename Rows::PerRow shrink;
      logit.prepare(tile);
      multiplyKeys<T, kDim, RowTiles, kColumns>(s, query, SharedMatrix<T, kDim>{shared_.stage[tile % 2].key});
      softmax.exponentiate(s, shrink, tile, logit);
      logit.keep(tile, s, softmax.peak);
      if (!columns.value) continue;
      softmax.template rescale<Logit::kHeadroom>(shrink);
      Rows::pack(s, weights);
      multiplyValues<T, kValueDim, RowTiles, kColumns>(softmax.sum, weights,
                                                       SharedMatrix<T, kValueDim>{shared_.stage[tile % 2].value});
    }
  }

 private:
  __device__ void load(const Columns<T>& columns, int tile) {
    const int from = tile * kColumns, thread = threadIdx.x;
    auto& stage = shared_.stage[tile % 2];
    const auto column = [&](int local) { return from + local < columns.count ? from + local : -1; };
    loadRows(SharedMatrix<T, kDim>{stage.key}, kColumns, columns.key, columns.keyDim, thread, kThreads, column);
    if (columns.value)
      loadRows(SharedMatrix<T, kValueDim>{stage.value}, kColumns, columns.value, columns.valueDim, thread, kThreads, column);
    if (columns.bias && thread < kColumns) {
      const bool valid = from + thread < columns.count;
      copyWordAsync(&stage.bias[thread], columns.bias + (valid ? from + thread : 0), valid);
    }
    commitCopies();
  }

  Shared& shared_;
};

/**
 * `Groups` warpgroups of 64 rows each, head sizes up to 64. Thread 0 has the copy engine fill a ring of stages; the
 * products with the next keys run beside those with the values, and both beside the exponentials of other groups.
 */
template <class Element, int Groups>
class WarpgroupEngine {
 public:
  using T = Element;
  static constexpr int kDim = 64, kRowTiles = 1, kWarpRows = 16;
  static constexpr int kGroupThreads = 128, kGroupRows = 64;
  static constexpr int kThreads = Groups * 128, kRows = Groups * 64;
  static constexpr int kBlocksPerMultiprocessor = Groups == 1 ? 3 : 2;
  static constexpr int kStages = Groups == 1 ? 3 : 4;
  static constexpr bool kCompiled = kHopperCode, kLongRuns = true;
  using Rows = SoftmaxRows<T, kDim, 1>;

  struct Shared {
    T queries[kRows * kDim];
    T means[kRows * kDim];
    struct Stage {
      T key[kColumns * kDim];
      T value[kColumns * kDim];
    } stage[kStages];
    float bias[kStages][kColumns];
    uint64_t full[kStages], empty[kStages];
  };

  __device__ explicit WarpgroupEngine(unsigned char* shared) : shared_(*reinterpret_cast<Shared*>(shared)) {}

  __device__ SharedMatrix<T, kDim> queryRows() { return {shared_.queries + threadIdx.x / 32 * kWarpRows * kDim}; }
  __device__ SharedMatrix<T, kDim> meanRows() { return {shared_.means + threadIdx.x / 32 * kWarpRows * kDim}; }
  __device__ float bias(int tile, int column) const { return shared_.bias[tile % kStages][column]; }

  __device__ void start(const Columns<T>& columns, int tiles) {
    if (threadIdx.x > 0) return;
    for (int stage = 0; stage < kStages; stage++) {
      initBarrier(&shared_.full[stage], 1);
      initBarrier(&shared_.empty[stage], kThreads / 32);
    }
    publishBarriers();
    for (int tile = 0; tile < kStages - 1 && tile < tiles; tile++) load(columns, tile);
  }

  template <bool Long, class Logit, class LoadMeans>
  __device__ void run(Rows& softmax, const Columns<T>& columns, int tiles, int own, Logit& logit, LoadMeans loadMeans) {
    loadMeans();
    waitForCopies<1>();
    publishShared();
    __syncthreads();
    if (own > 0) {
      if (columns.value)
        runWithValues<Long>(softmax, columns, tiles, own, logit);
      else
        runWithoutValues(softmax, columns, tiles, own, logit);
    }
    // Other groups see further: the ring goes on.
    for (int tile = own; tile < tiles; tile++) {
      waitForTile(tile);
      refill(columns, tiles, tile - 1);
      release(tile);
    }
  }

 private:
  __device__ void waitForTile(int tile) { waitBarrier(&shared_.full[tile % kStages], tile / kStages % 2); }
  /** Starts the products of the group's queries with the keys of a tile. */
  __device__ void startKeys(typename Rows::Products& s, int tile) {
    waitForTile(tile);
    pin(s[0]);
    beginProducts();
    groupMultiplyKeys<T>(s[0], shared_.queries + threadIdx.x / 128 * 64 * kDim, shared_.stage[tile % kStages].key);
    commitProducts();
  }
  __device__ void startValues(Rows& softmax, const typename Rows::Weights& weights, int tile) {
    pin(softmax.sum[0]);
    beginProducts();
    groupMultiplyValues<T>(softmax.sum[0], weights[0], shared_.stage[tile % kStages].value);
    commitProducts();
  }
  /** Tells that this warp needs the stage of a tile no more. */
  __device__ void release(int tile) {
    if (threadIdx.x % 32 == 0) arrive(&shared_.empty[tile % kStages]);
  }
  /** Has thread 0 load a tile into the stage that `freed`, kStages tiles before it, leaves. */
  __device__ void refill(const Columns<T>& columns, int tiles, int freed) {
    const int tile = freed + kStages;
    if (threadIdx.x == 0 && tile < tiles) {
      if (freed >= 0) waitBarrier(&shared_.empty[freed % kStages], freed / kStages % 2);
      load(columns, tile);
    }
    __syncwarp();
  }

  template <bool Long, class Logit>
  __device__ void runWithValues(Rows& softmax, const Columns<T>& columns, int tiles, int own, Logit& logit) {
    typename Rows::Products s;
    typename Rows::Weights weights;
    // Products of a tile become weights, once the values of the tile before are in.
    auto weigh = [&](int tile, auto plain) {
      typename Rows::PerRow shrink;
      if constexpr (plain.value)
        softmax.exponentiatePlain(s, shrink, logit);
      else
        softmax.exponentiate(s, shrink, tile, logit);
      logit.keep(tile, s, softmax.peak);
      waitForProducts<0>();
      pin(softmax.sum[0]);
      if (tile > 0) release(tile - 1);
      Rows::pack(s, weights);
      softmax.template rescale<Logit::kHeadroom>(shrink);
    };
    const int plain = logit.leadingPlain();
    int tile = 0;
    auto next = [&] {
      if (tile + 1 >= plain) logit.prepare(tile + 1);
      startKeys(s, tile + 1);
      startValues(softmax, weights, tile);
      refill(columns, tiles, tile - 1);
      waitForProducts<1>();
      pin(s[0]);
    };
    logit.prepare(0);
    startKeys(s, 0);
    waitForProducts<0>();
    pin(s[0]);
    // With a copy per stage, addresses are known when compiling; more code than short runs make good for.
    if constexpr (Long)
      while (tile + kStages <= min(plain, own - 1)) {
#pragma unroll
        for (int stage = 0; stage < kStages; stage++, tile++) {
          weigh(tile, std::true_type{});
          next();
        }
      }
    for (; tile < plain && tile + 1 < own; tile++) {
      weigh(tile, std::true_type{});
      next();
    }
    for (; tile + 1 < own; tile++) {
      weigh(tile, std::false_type{});
      next();
    }
    weigh(own - 1, std::false_type{});
    startValues(softmax, weights, own - 1);
    refill(columns, tiles, own - 2);
    waitForProducts<0>();
    pin(softmax.sum[0]);
    release(own - 1);
  }

  template <class Logit>
  __device__ void runWithoutValues(Rows& softmax, const Columns<T>& columns, int tiles, int own, Logit& logit) {
    for (int tile = 0; tile < own; tile++) {
      typename Rows::Products s;
      typename Rows::PerRow shrink;
      logit.prepare(tile);
      startKeys(s, tile);
      refill(columns, tiles, tile - 1);
      waitForProducts<0>();
      pin(s[0]);
      softmax.exponentiate(s, shrink, tile, logit);
      logit.keep(tile, s, softmax.peak);
      release(tile);
    }
  }

  __device__ void load(const Columns<T>& columns, int tile) {
    const int stage = tile % kStages, row = columns.mapRow + tile * kColumns;
    constexpr int kTileBytes = kColumns * kDim * sizeof(T);
    const int biased = columns.bias ? min(kColumns, columns.count - tile * kColumns) : 0;
    const int tileBytes = columns.value ? 2 * kTileBytes : kTileBytes;
    arriveExpecting(&shared_.full[stage], tileBytes + biased * static_cast<int>(sizeof(float)));
    copyTile(shared_.stage[stage].key, columns.keyMap, &shared_.full[stage], row, columns.mapPart);
    if (columns.value) copyTile(shared_.stage[stage].value, columns.valueMap, &shared_.full[stage], row, columns.mapPart);
    if (biased > 0)
      copyRun(shared_.bias[stage], columns.bias + tile * kColumns, biased * static_cast<int>(sizeof(float)), &shared_.full[stage]);
  }

  Shared& shared_;
};

}  // namespace onnxrewrite::cuda
