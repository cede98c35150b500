// Attention over tiles on tensor cores, for 16-bit types. A tile of rows and one of keys mostly share the same levels
// throughout: their scores are then one product over the first dimensions of the head, in slices of 16, the last one
// cut off by zeros in the queries. Where blocks end inside a tile, there is a product for each number of levels that
// pairs in it share, and every pair takes its own.
#pragma once

#include "../../native/cuda/hopper.cuh"
#include "../../native/cuda/key-by-key.cuh"
#include "../../native/cuda/row-tiles.cuh"
#include "../../native/cuda/softmax-rows.cuh"
#include "geometry.cuh"

namespace onnxrewrite::multilevel::cuda {

/** Tensor maps of keys and values: [B*G, S, dim]. */
struct TileMaps {
  TensorMap key, value;
};

/** The keys of one head. */
template <class T>
struct KeyTiles {
  const T* key;
  const T* value;
  const TileMaps* maps;
  int kvHead;
};

/** What the rows of a warpgroup, or of a warp, meet in each tile of keys. All lanes of a warp ask together. */
class TileSchedule {
 public:
  /** `rows` are those with a query. */
  __device__ TileSchedule(const Geometry& g, Range rows, bool masked)
      : g_(g),
        blocks_{g.blockOf(g.position(rows.begin)), g.blockOf(g.position(rows.end - 1))},
        wholeEnd_(masked || rows.size() == 0 ? 0 : g.visibleEnd(rows.begin)),
        tiles_(rows.size() == 0 ? 0 : ceilDiv(g.visibleEnd(rows.end - 1), kColumns)) {}

  /** Tiles that some row sees. */
  __device__ int tiles() const { return tiles_; }
  /** Whether all rows see all keys of a tile. */
  __device__ bool whole(int tile) const { return (tile + 1) * kColumns <= wholeEnd_; }

  __device__ TileShares shares(int tile) {
    // Each lane works out one of the next 32 tiles.
    if (tile % 32 == 0) {
      const int first = (tile + static_cast<int>(threadIdx.x) % 32) * kColumns;
      const TileShares own = g_.shares(blocks_, {g_.blockOf(first), g_.blockOf(first + kColumns - 1)});
      ahead_ = own.least | own.most << 8;
    }
    const int found = __shfl_sync(kWholeWarp, ahead_, tile % 32);
    return {found & 0xff, found >> 8};
  }

 private:
  const Geometry& g_;
  /** Blocks of the first and the last row. */
  const Range blocks_;
  const int wholeEnd_, tiles_;
  int ahead_ = 0;
};

/** Logits of a tile from products that `factor` completes. */
template <class Rows, int RowTiles>
struct LevelLogit {
  static constexpr int kHeadroom = 8;
  float scale;
  bool allVisible;
  const bool* mask;
  /** Keys before this one are seen by each of a thread's rows. */
  int end[RowTiles][2];

  __device__ bool plain(int) const { return allVisible; }
  __device__ bool biased(int) const { return false; }
  __device__ float bias(int, int) const { return 0; }
  __device__ float operator()(int tile, int m, int half, int column, float product) const {
    const int key = tile * kColumns + column;
    return key < end[m][half] && (!mask || mask[key]) ? product * scale : -INFINITY;
  }
};

/**
 * Products of a tile where pairs share different numbers of levels, factor included; compute(products, shared) gives
 * those over the levels up to `shared`.
 */
template <class Rows, int RowTiles, class Compute>
__device__ void mixLevels(const Geometry& g, TileShares shares, int tile, const int (&rowBlocks)[RowTiles][2],
                          typename Rows::Products& products, Compute compute) {
  typename Rows::Products some;
  for (int shared = shares.least; shared <= shares.most; shared++) {
    compute(some, shared);
    const float factor = g.factors[shared - 1];
#pragma unroll
    for (int n = 0; n < kColumns / 8; n++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int keyBlock = g.blockOf(tile * kColumns + n * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + i);
        Rows::eachRow([&](int m, int half) {
          if (g.shared(rowBlocks[m][half], keyBlock) == shared)
            products[m][n][2 * half + i] = some[m][n][2 * half + i] * factor;
        });
      }
  }
}

/** Weighs the dimensions of a warp's queries by level. */
template <class T, int Dim>
__device__ void weighQueries(const Geometry& g, SharedMatrix<T, Dim> rows, int count) {
  for (int dimension = threadIdx.x % 32; dimension < g.headDim; dimension += 32) {
    const float weight = g.weightOf(dimension);
    for (int row = 0; row < count; row++) {
      T& number = rows.at(row, dimension);
      number = static_cast<T>(static_cast<float>(number) * weight);
    }
  }
  __syncwarp();
}

/** Four warps of RowTiles * 16 rows each with mma, two stages of keys; any chip from sm_80 on. */
template <class Element, int PaddedDim, int RowTiles>
class MmaTiles {
 public:
  using T = Element;
  static constexpr int kDim = PaddedDim, kRowTiles = RowTiles, kWarpRows = RowTiles * 16;
  /** Threads that meet tiles together, and their rows. */
  static constexpr int kGroupThreads = 32, kGroupRows = kWarpRows;
  static constexpr int kThreads = 128, kRows = 4 * kWarpRows;
  static constexpr bool kCompiled = true;
  using Rows = SoftmaxRows<T, kDim, RowTiles>;

  struct Shared {
    T rows[kRows * kDim];
    struct Stage {
      T key[kColumns * kDim];
      T value[kColumns * kDim];
    } stage[2];
  };

  __device__ MmaTiles(const Geometry& g, const KeyTiles<T>& from, int tiles)
      : g_(g), from_(from), tiles_(tiles), shared_(*reinterpret_cast<Shared*>(dynamicShared())) {}

  /** The warp's own rows: for queries before run(), for results after it. */
  __device__ SharedMatrix<T, kDim> warpRows() { return {shared_.rows + threadIdx.x / 32 * kWarpRows * kDim}; }

  __device__ void start() {
    if (tiles_ > 0) load(0);
  }

  template <class Logit>
  __device__ void run(Rows& softmax, TileSchedule& schedule, Logit& logit, const int (&rowBlocks)[RowTiles][2]) {
    waitForCopies<0>();
    __syncthreads();
    if (g_.weighted) weighQueries(g_, warpRows(), kWarpRows);
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < RowTiles; m++)
#pragma unroll
      for (int k = 0; k < kDim / 16; k++)
        loadMatrices(query_[m][k], warpRows().piece(m * 16 + (lane & 7) + (lane & 8), 2 * k + lane / 16));
    for (int tile = 0; tile < tiles_; tile++) {
      if (tile > 0) {
        waitForCopies<0>();
        __syncthreads();
      }
      if (tile + 1 < tiles_) load(tile + 1);
      if (tile >= schedule.tiles()) continue;
      typename Rows::Products s;
      typename Rows::Weights weights;
      typename Rows::PerRow shrink;
      const TileShares shares = schedule.shares(tile);
      const SharedMatrix<T, kDim> key{shared_.stage[tile % 2].key};
      logit.allVisible = schedule.whole(tile);
      if (shares.least == shares.most) {
        multiplyLevels(s, shares.least, key);
        logit.scale = g_.factors[shares.least - 1];
      } else {
        mixLevels<Rows>(g_, shares, tile, rowBlocks, s,
                        [&](typename Rows::Products& some, int shared) { multiplyLevels(some, shared, key); });
        logit.scale = 1;
      }
      softmax.exponentiate(s, shrink, tile, logit);
      softmax.template rescale<Logit::kHeadroom>(shrink);
      Rows::pack(s, weights);
      multiplyValues<T, kDim, RowTiles, kColumns>(softmax.sum, weights, SharedMatrix<T, kDim>{shared_.stage[tile % 2].value});
    }
    __syncwarp();
  }

 private:
  /** Products over the first `shared` levels. */
  __device__ void multiplyLevels(typename Rows::Products& products, int shared, SharedMatrix<T, kDim> key) const {
    const int lane = threadIdx.x % 32, end = g_.ends[shared - 1];
#pragma unroll
    for (int m = 0; m < RowTiles; m++)
#pragma unroll
      for (int n = 0; n < kColumns / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) products[m][n][i] = 0;
#pragma unroll
    for (int k = 0; k < kDim / 16; k++) {
      if (k * 16 >= end) break;
      uint32_t query[RowTiles][4];
#pragma unroll
      for (int word = 0; word < 4; word++) {
        // Words 0 and 1 hold columns 2 t and 2 t + 1 of the slice, words 2 and 3 those 8 further on.
        const int column = k * 16 + word / 2 * 8 + lane % 4 * 2;
        const uint32_t kept = (column < end ? 0xffffu : 0) | (column + 1 < end ? 0xffff0000u : 0);
#pragma unroll
        for (int m = 0; m < RowTiles; m++) query[m][word] = query_[m][k][word] & kept;
      }
#pragma unroll
      for (int n = 0; n < kColumns / 8; n += 2) {
        uint32_t b[4];
        loadMatrices(b, key.piece(n * 8 + (lane & 7) + lane / 16 * 8, 2 * k + (lane / 8 & 1)));
#pragma unroll
        for (int m = 0; m < RowTiles; m++) {
          multiplyAdd<T>(products[m][n], query[m], b[0], b[1]);
          multiplyAdd<T>(products[m][n + 1], query[m], b[2], b[3]);
        }
      }
    }
  }

  __device__ void load(int tile) {
    const int from = tile * kColumns, thread = threadIdx.x;
    auto& stage = shared_.stage[tile % 2];
    const auto key = [&](int local) { return from + local < g_.keys ? from + local : -1; };
    loadRows(SharedMatrix<T, kDim>{stage.key}, kColumns, from_.key, g_.headDim, thread, kThreads, key);
    loadRows(SharedMatrix<T, kDim>{stage.value}, kColumns, from_.value, g_.valueDim, thread, kThreads, key);
    commitCopies();
  }

  const Geometry& g_;
  const KeyTiles<T>& from_;
  const int tiles_;
  Shared& shared_;
  uint32_t query_[RowTiles][kDim / 16][4];
};

/**
 * Warpgroups of 64 rows each on Hopper, head sizes up to 64. Thread 0 has the copy engine fill a ring of stages; the
 * products with the next keys run beside those with the values, and both beside the exponentials of other groups.
 */
template <class Element, int Groups>
class WarpgroupTiles {
 public:
  using T = Element;
  static constexpr int kDim = 64, kRowTiles = 1, kWarpRows = 16;
  static constexpr int kGroupThreads = 128, kGroupRows = 64;
  static constexpr int kThreads = Groups * 128, kRows = Groups * 64;
  static constexpr int kStages = 4;
  /** Tiles by which stages are filled later than they could be, so that no group waits for the slower ones. */
  static constexpr int kLag = 1;
  static constexpr bool kCompiled = kHopperCode;
  using Rows = SoftmaxRows<T, kDim, 1>;

  struct Shared {
    T queries[Groups][64 * kDim];
    /** By level, the queries' last slice of the levels up to it, with zeros beyond. */
    T lastSlices[Groups][kMostLevels / 4][64 * kDim];
    struct Stage {
      T key[kColumns * kDim];
      T value[kColumns * kDim];
    } stage[kStages];
    uint64_t full[kStages], empty[kStages];
  };

  __device__ WarpgroupTiles(const Geometry& g, const KeyTiles<T>& from, int tiles)
      : g_(g), from_(from), tiles_(tiles), shared_(*reinterpret_cast<Shared*>(dynamicShared())) {}

  __device__ SharedMatrix<T, kDim> warpRows() {
    return {shared_.queries[group()] + threadIdx.x % 128 / 32 * kWarpRows * kDim};
  }

  __device__ void start() {
    if (threadIdx.x > 0) return;
    for (int stage = 0; stage < kStages; stage++) {
      initBarrier(&shared_.full[stage], 1);
      initBarrier(&shared_.empty[stage], kThreads / 32);
    }
    publishBarriers();
    for (int tile = 0; tile < kStages - kLag && tile < tiles_; tile++) load(tile);
  }

  template <class Logit>
  __device__ void run(Rows& softmax, TileSchedule& schedule, Logit& logit, const int (&rowBlocks)[1][2]) {
    waitForCopies<0>();
    __syncwarp();
    if (g_.weighted) weighQueries(g_, warpRows(), kWarpRows);
    cutLastSlices();
    publishShared();
    __syncthreads();

    const int own = schedule.tiles();
    for (int tile = 0; tile < own;) {
      const TileShares shares = schedule.shares(tile);
      if (shares.least == shares.most)
        runUniform(softmax, schedule, logit, tile, own, shares.least);
      else
        runMixed(softmax, schedule, logit, rowBlocks, tile++, shares);
    }
    // Other groups see further: the ring goes on.
    for (int tile = own; tile < tiles_; tile++) {
      waitForTile(tile);
      release(tile);
      refill(tile);
    }
    // Results go where queries were.
    __syncthreads();
  }

 private:
  __device__ static int group() { return threadIdx.x / 128; }

  __device__ void cutLastSlices() {
    const int lane = threadIdx.x % 32;
    const SharedMatrix<T, kDim> queries = warpRows();
    for (int level = 0; level < g_.levels; level++) {
      const SharedMatrix<T, kDim> cut{shared_.lastSlices[group()][level / 4] + threadIdx.x % 128 / 32 * kWarpRows * kDim};
      const int from = (g_.ends[level] - 1) / 16 * 16, column = lane % 16, dimension = from + column;
      for (int row = lane / 16; row < kWarpRows; row += 2)
        cut.at(row, level % 4 * 16 + column) = dimension < g_.ends[level] ? queries.at(row, dimension) : static_cast<T>(0.f);
    }
  }
  __device__ void waitForTile(int tile) { waitBarrier(&shared_.full[tile % kStages], tile / kStages % 2); }
  /** Takes tiles from `tile` on whose pairs all share the same number of levels, and leaves `tile` at the next one. */
  template <class Logit>
  __device__ void runUniform(Rows& softmax, TileSchedule& schedule, Logit& logit, int& tile, int own, int shared) {
    typename Rows::Products s;
    typename Rows::Weights weights;
    // Products of a tile become weights, once the values of the tile before are in.
    const auto weigh = [&](bool first) {
      typename Rows::PerRow shrink;
      logit.allVisible = schedule.whole(tile);
      logit.scale = g_.factors[shared - 1];
      softmax.exponentiate(s, shrink, tile, logit);
      waitForProducts<0>();
      pin(softmax.sum[0]);
      if (!first) release(tile - 1);
      Rows::pack(s, weights);
      softmax.template rescale<Logit::kHeadroom>(shrink);
    };
    waitForTile(tile);
    startLevels(s, shared, tile);
    waitForProducts<0>();
    pin(s[0]);
    for (bool first = true;; first = false) {
      weigh(first);
      const TileShares next = tile + 1 < own ? schedule.shares(tile + 1) : TileShares{0, 1};
      if (next.least != next.most) break;
      shared = next.least;
      waitForTile(tile + 1);
      startLevels(s, shared, tile + 1);
      startValues(softmax, weights, tile);
      refill(tile);
      waitForProducts<1>();
      pin(s[0]);
      tile++;
    }
    startValues(softmax, weights, tile);
    refill(tile);
    waitForProducts<0>();
    pin(softmax.sum[0]);
    release(tile++);
  }

  template <class Logit>
  __device__ void runMixed(Rows& softmax, const TileSchedule& schedule, Logit& logit, const int (&rowBlocks)[1][2], int tile,
                           TileShares shares) {
    typename Rows::Products s;
    typename Rows::Weights weights;
    typename Rows::PerRow shrink;
    waitForTile(tile);
    mixLevels<Rows>(g_, shares, tile, rowBlocks, s, [&](typename Rows::Products& some, int shared) {
      startLevels(some, shared, tile);
      waitForProducts<0>();
      pin(some[0]);
    });
    logit.allVisible = schedule.whole(tile);
    logit.scale = 1;
    softmax.exponentiate(s, shrink, tile, logit);
    Rows::pack(s, weights);
    softmax.template rescale<Logit::kHeadroom>(shrink);
    startValues(softmax, weights, tile);
    refill(tile);
    waitForProducts<0>();
    pin(softmax.sum[0]);
    release(tile);
  }

  /** Starts the products with the keys of a tile over the first `shared` levels. */
  __device__ void startLevels(typename Rows::Products& products, int shared, int tile) {
    const int level = shared - 1;
    switch ((g_.ends[level] - 1) / 16) {
      case 0:
        return startSlices<0>(products, level, tile);
      case 1:
        return startSlices<1>(products, level, tile);
      case 2:
        return startSlices<2>(products, level, tile);
      default:
        return startSlices<3>(products, level, tile);
    }
  }
  template <int Last>
  __device__ void startSlices(typename Rows::Products& products, int level, int tile) {
    const T* const key = shared_.stage[tile % kStages].key;
    pin(products[0]);
    beginProducts();
    groupMultiplySlice(products[0], shared_.lastSlices[group()][level / 4], level % 4, key, Last, false);
#pragma unroll
    for (int slice = 0; slice < Last; slice++)
      groupMultiplySlice(products[0], shared_.queries[group()], slice, key, slice, true);
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
  /** Has thread 0, which is at `tile`, load the next tile that has none yet. */
  __device__ void refill(int tile) {
    const int next = tile + kStages - kLag, freed = next - kStages;
    if (threadIdx.x == 0 && next < tiles_) {
      if (freed >= 0) waitBarrier(&shared_.empty[freed % kStages], freed / kStages % 2);
      load(next);
    }
    __syncwarp();
  }
  __device__ void load(int tile) {
    const int stage = tile % kStages;
    constexpr int kTileBytes = kColumns * kDim * sizeof(T);
    arriveExpecting(&shared_.full[stage], 2 * kTileBytes);
    copyTile(shared_.stage[stage].key, &from_.maps->key, &shared_.full[stage], tile * kColumns, from_.kvHead);
    copyTile(shared_.stage[stage].value, &from_.maps->value, &shared_.full[stage], tile * kColumns, from_.kvHead);
  }

  const Geometry& g_;
  const KeyTiles<T>& from_;
  const int tiles_;
  Shared& shared_;
};

/** Row tiles begin at multiples of their size in position, so that they lie within blocks where blocks are long. */
__host__ __device__ inline int rowsBeforeFirst(const Geometry& g, int tileRows) {
  const int ahead = g.offset % tileRows;
  return ahead < 0 ? ahead + tileRows : ahead;
}

template <class Tiles>
__global__ void __launch_bounds__(Tiles::kThreads, 2)
    attendTiles(const __grid_constant__ Geometry g, Operands<typename Tiles::T> in, const __grid_constant__ TileMaps maps,
                Results<typename Tiles::T> out) {
  if constexpr (Tiles::kCompiled) {
    using T = typename Tiles::T;
    using Rows = typename Tiles::Rows;
    const int head = blockIdx.y, thread = threadIdx.x;
    // Late tiles see most keys where attention is causal: they come first.
    const int index = g.causal ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
    const int firstTileRow = index * Tiles::kRows - rowsBeforeFirst(g, Tiles::kRows);
    const auto within = [&](int first, int count) {
      const int begin = min(max(first, 0), g.queries);
      return Range{begin, max(begin, min(first + count, g.queries))};
    };
    const Range blockRows = within(firstTileRow, Tiles::kRows);
    const int kvHead = g.kvHeadOf(head);
    const size_t firstKey = static_cast<size_t>(kvHead) * g.keys;
    const KeyTiles<T> from{in.key + firstKey * g.headDim, in.value + firstKey * g.valueDim, &maps, kvHead};
    Tiles tiles(g, from, ceilDiv(g.visibleEnd(blockRows.end - 1), kColumns));

    const int firstWarpRow = firstTileRow + thread / 32 * Tiles::kWarpRows;
    const Range warpRows = within(firstWarpRow, Tiles::kWarpRows);
    const auto rowAt = [&](int local) {
      const int row = firstWarpRow + local;
      return row >= warpRows.begin && row < warpRows.end ? row : -1;
    };
    const size_t firstRow = static_cast<size_t>(head) * g.queries;
    loadRows(tiles.warpRows(), Tiles::kWarpRows, in.query + firstRow * g.headDim, g.headDim, thread % 32, 32, rowAt);
    commitCopies();
    tiles.start();

    const bool* const mask = in.visible ? in.visible + static_cast<size_t>(head / g.heads) * g.keys : nullptr;
    TileSchedule schedule(g, within(firstTileRow + thread / Tiles::kGroupThreads * Tiles::kGroupRows, Tiles::kGroupRows),
                          mask != nullptr);
    LevelLogit<Rows, Tiles::kRowTiles> logit{0, false, mask, {}};
    int rowBlocks[Tiles::kRowTiles][2];
    Rows::eachRow([&](int m, int half) {
      const int row = rowAt(warpRow(m, half));
      logit.end[m][half] = row < 0 ? 0 : g.visibleEnd(row);
      rowBlocks[m][half] = g.blockOf(g.position(firstWarpRow + warpRow(m, half)));
    });
    Rows softmax;
    softmax.begin();
    tiles.run(softmax, schedule, logit, rowBlocks);

    softmax.finishTotals();
    softmax.store(tiles.warpRows());
    T* const output = out.output + firstRow * g.valueDim;
    if (__any_sync(kWholeWarp, !softmax.finite()))
      for (int row = warpRows.begin; row < warpRows.end; row++) {
        const T* const query = rowOf(in.query + firstRow * g.headDim, row, g.headDim);
        const int rowBlock = g.blockOf(g.position(row));
        attendKeyByKey(Range{0, g.visibleEnd(row)}, from.value, g.valueDim, rowOf(output, row, g.valueDim), [&](int key) {
          if (mask && !mask[key]) return -INFINITY;
          const int level = g.shared(rowBlock, g.blockOf(key)) - 1;
          const T* const numbers = rowOf(from.key, key, g.headDim);
          float product = 0;
          for (int d = 0; d < g.ends[level]; d++)
            product += static_cast<float>(query[d]) * g.weightOf(d) * static_cast<float>(numbers[d]);
          return product * g.factors[level];
        });
      }
    else
      storeRows(tiles.warpRows(), Tiles::kWarpRows, output, g.valueDim, rowAt);
    if (out.lse && thread % 4 == 0)
      softmax.eachRow([&](int m, int half) {
        const int row = rowAt(warpRow(m, half));
        if (row >= 0) out.lse[firstRow + row] = static_cast<T>(softmax.lse(m, half) * kLn2);
      });
  }
}

}  // namespace onnxrewrite::multilevel::cuda
