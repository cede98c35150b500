// Stage 2 on tensor cores, in passes that share one softmax through what each leaves in the output: the near keys by
// rows in order; the far field by rows sorted by query cluster (each tile of rows has one query cluster, hence one
// set of summaries); and, by rows in order again, the members of retrieved clusters (attend-retrieved.cuh).
#pragma once

#include "../../native/cuda/engines.cuh"
#include "../../native/cuda/range-logit.cuh"
#include "row.cuh"

namespace onnxrewrite::multipole::cuda {

/** Largest head and value size of tiles. */
constexpr int kMostTiledDim = 128;

/** Clusters that each head takes exactly per pool; -1 = the head is exact. */
struct RetrieveCounts {
  static constexpr int kMost = 256;
  int32_t count[kMost];
  /** Entries in use: 1 (all heads alike) or the number of query heads. */
  int entries;
  /** The query heads of a batch row, exact ones first, where they are not all alike. */
  uint8_t order[kMost];
  int exactHeads;

  void orderHeads() {
    exactHeads = 0;
    for (int i = 0; i < entries; i++)
      if (count[i] < 0) order[exactHeads++] = static_cast<uint8_t>(i);
    for (int i = 0, at = exactHeads; i < entries; i++)
      if (count[i] >= 0) order[at++] = static_cast<uint8_t>(i);
  }
  /** The heads of all batch rows, exact ones before all others: their blocks take longest. */
  __device__ int headAt(int at) const {
    if (entries == 1) return at;
    const int exactBlocks = gridDim.y / entries * exactHeads;
    const bool exact = at < exactBlocks;
    const int perRow = exact ? exactHeads : entries - exactHeads, index = exact ? at : at - exactBlocks;
    return index / perRow * entries + order[index % perRow + (exact ? 0 : exactHeads)];
  }

  __host__ __device__ int of(const Geometry& g, int head) const { return count[entries == 1 ? 0 : head % g.heads]; }
  __host__ __device__ bool exact(const Geometry& g, int head) const { return of(g, head) < 0; }
};

/** One row as the plain kernels take it, from summaries and choices of tensor cores. */
template <class T>
__device__ __noinline__ void attendAgain(const Geometry& g, const RetrieveCounts& retrieve, const Pools& pools,
                                         const RowInputs<T, T>& in, const ChosenClusters& chosen,
                                         const AttentionOutputs<T>& out, int head, int row) {
  const int count = retrieve.of(g, head);
  const uint32_t* set = count > 0 && g.blockOf(row) >= 0 && chosen.bits ? chosen.of(pools, head, pools.of(head, row, 0)) : nullptr;
  attendRow<kMostTiledDim>(g, in, set, out, count < 0, head, row);
}

/**
 * The rows of a warp once more, if a sum of theirs is not finite: products with values let what is not finite into rows that
 * do not see it, as zero times itself. For the pass that rows end with, after its own stores; rowAt(row of the warp) is
 * negative for rows that end elsewhere.
 */
template <class T, class Rows, class RowAt>
__device__ void attendSpoiledRows(const Geometry& g, const RetrieveCounts& retrieve, const Pools& pools,
                                  const RowInputs<T, T>& in, const ChosenClusters& chosen, const AttentionOutputs<T>& out,
                                  int head, const Rows& softmax, int warpRows, RowAt rowAt) {
  if (!__any_sync(kWholeWarp, !softmax.finite())) return;
  for (int local = 0; local < warpRows; local++)
    if (const int row = rowAt(local); row >= g.past) attendAgain(g, retrieve, pools, in, chosen, out, head, row);
}

/** Tensor maps of the columns of a pass: [parts, columns, dim]; for the far field one pair per block. */
struct ColumnMaps {
  static constexpr int kMost = 16;
  TensorMap key[kMost], value[kMost];
};

/** First row of the tiles of attendNear, which begin at multiples of their size in position. */
__host__ __device__ inline int nearTilesBegin(const Geometry& g, int firstRow, int tileRows) {
  const int ahead = g.position(firstRow) % tileRows;
  return firstRow - (ahead < 0 ? ahead + tileRows : ahead);
}

/** Shared memory of the pass over near keys. */
template <class Engine>
struct NearShared {
  typename Engine::Shared engine;
  /** What each row of the block sees. */
  Range keys[Engine::kRows];
};

/**
 * First pass, of rows from `firstRow` on: the keys that a row sees by position; heads that are exact see every key
 * here.
 */
template <class Engine>
__global__ void __launch_bounds__(Engine::kThreads, Engine::kBlocksPerMultiprocessor)
    attendNear(const __grid_constant__ Geometry g, const __grid_constant__ RetrieveCounts retrieve, int firstRow,
               const __grid_constant__ Pools pools, const __grid_constant__ RowInputs<typename Engine::T, typename Engine::T> in,
               const __grid_constant__ ColumnMaps maps, const __grid_constant__ ChosenClusters chosen,
               const __grid_constant__ AttentionOutputs<typename Engine::T> out) {
  if constexpr (Engine::kCompiled) {
    using T = typename Engine::T;
    const int head = retrieve.headAt(blockIdx.y), thread = threadIdx.x;
    const bool exact = retrieve.exact(g, head);
    if (!exact && !g.local) return;
    auto& shared = *reinterpret_cast<NearShared<Engine>*>(dynamicShared());
    Engine engine(dynamicShared());
    // Late tiles see most keys where attention is causal: they come first.
    const int tile = static_cast<int>(g.causal ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
    const int firstTileRow = nearTilesBegin(g, firstRow, Engine::kRows) + tile * Engine::kRows;
    const Range tileRows{max(firstTileRow, firstRow), min(firstTileRow + Engine::kRows, g.rows)};
    const auto inTile = [&](int local) {
      const int row = firstTileRow + local;
      return row < tileRows.begin || row >= tileRows.end ? -1 : row;
    };
    const auto rowAt = [&](int local) { return inTile(thread / 32 * Engine::kWarpRows + local); };
    loadRows(engine.queryRows(), Engine::kWarpRows, in.queries + static_cast<size_t>(head) * g.rows * g.headDim, g.headDim,
             thread % 32, 32, rowAt);
    commitCopies();
    if (thread < Engine::kRows) shared.keys[thread] = inTile(thread) < 0 ? Range{0, 0} : g.nearKeys(inTile(thread), exact);
    __syncthreads();

    // Both ends of the keys that a row sees rise with the row, from the first row with a position on.
    const int lastRow = tileRows.end - 1;
    const Range least = shared.keys[min(max(tileRows.begin, g.firstRow), lastRow) - firstTileRow];
    const Range most = shared.keys[lastRow - firstTileRow];
    const Range seen{least.begin, most.end};
    const int tiles = ceilDiv(seen.size(), kColumns);
    const size_t kvHead = g.kvHeadOf(head), firstKey = kvHead * g.keys + seen.begin;
    const Columns<T> columns{in.keys + firstKey * g.headDim,
                             in.values + firstKey * g.valueDim,
                             g.headDim,
                             g.valueDim,
                             nullptr,
                             seen.size(),
                             &maps.key[0],
                             &maps.value[0],
                             seen.begin,
                             static_cast<int>(kvHead)};
    engine.start(columns, tiles);

    const int group = thread / Engine::kGroupThreads * Engine::kGroupRows;
    const int lastOfGroup = min(firstTileRow + group + Engine::kGroupRows, tileRows.end) - 1;
    const int own = lastOfGroup < tileRows.begin
                        ? 0
                        : ceilDiv(Range{seen.begin, shared.keys[lastOfGroup - firstTileRow].end}.size(), kColumns);
    const bool placed = tileRows.begin >= g.firstRow;
    RangeLogit<Engine> logit{g.scale * kLog2E, in.mask ? in.mask + static_cast<size_t>(head / g.heads) * g.keys : nullptr, seen.begin,
                             placed ? Range{most.begin, least.end} : Range{0, 0}, seen.end, {}, {}, false};
    Engine::Rows::eachRow([&](int m, int half) {
      logit.seen[m][half] = shared.keys[thread / 32 * Engine::kWarpRows + warpRow(m, half)];
    });
    typename Engine::Rows softmax;
    softmax.begin();
    const auto noMeans = [] { commitCopies(); };
    if (Engine::kLongRuns && exact)
      engine.template run<true>(softmax, columns, tiles, own, logit, noMeans);
    else
      engine.template run<false>(softmax, columns, tiles, own, logit, noMeans);

    softmax.finishTotals();
    softmax.store(engine.meanRows());
    storeRows(engine.meanRows(), Engine::kWarpRows, out.ofHead(g, head), g.valueDim,
              [&](int local) { return rowAt(local) - g.past; });
    if (thread % 4 == 0)
      softmax.eachRow([&](int m, int half) {
        const int row = rowAt(warpRow(m, half));
        if (row < 0) return;
        out.part(g, head, row) = softmax.lse(m, half);
        out.storeLse(g, head, row, softmax.lse(m, half));
      });
    attendSpoiledRows(g, retrieve, pools, in, chosen, out, head, softmax, Engine::kWarpRows, [&](int local) {
      const int row = rowAt(local);
      return exact || g.blockOf(row) < 0 ? row : -1;
    });
  }
}

/** What a pass over the far field is for. */
enum class FarPass {
  /** All of it, nothing being retrieved. */
  all,
  /** The masses of clusters, to choose from, or their expected errors. */
  masses,
  errors,
  /** What is left without the chosen clusters. */
  rest,
};

/** Whether a pass leaves what clusters are chosen by, and no values. */
__host__ __device__ constexpr bool isForChoice(FarPass pass) { return pass == FarPass::masses || pass == FarPass::errors; }

/**
 * Masses of clusters, or their expected errors, before they are normalized, for the heads from `firstHead` on. A weight w
 * in [0, 1], against the peak that its row had at that tile of 64 clusters (of errors: the largest one of the tile), is
 * kept in 8 bits: w + kZero as 4 bits of exponent and 4 of mantissa, which code 0 makes exactly 0. In a tile, byte
 * t * 16 + 2 n + i belongs to column 8 n + 2 t + i: what one thread holds lies together.
 */
struct Masses {
  /** [heads, rows, tiles, 64] */
  uint8_t* codes;
  /** [heads, rows, tiles] */
  float* peaks;
  /** [B*H, rows]: base-2 log-sum-exp of near keys and far field; of errors, less the log of s^2 |q - c_i|^2 / 2. */
  float* norms;
  int tiles, firstHead;

  static constexpr float kZero = 1.f / (1 << 15);
  /** Exponent of code 0. */
  static constexpr unsigned kLeastExponent = 112;

  __device__ size_t at(const Geometry& g, int head, int row, int tile) const {
    return (static_cast<size_t>(head - firstHead) * g.rows + row) * tiles + tile;
  }
  __device__ static unsigned encode(float weight) {
    return ((__float_as_uint(weight + kZero) + (1u << 18)) >> 19) - (kLeastExponent << 4);
  }
  /** What was encoded, plus kZero. */
  __device__ static float decode(unsigned code) { return __uint_as_float((code + (kLeastExponent << 4)) << 19); }
};

/** Clusters that each of a thread's rows uses by summary: all below `width` outside a run, but for the chosen. */
template <class Engine, FarPass Pass>
struct FarLogit {
  /** Masses are kept as weights up to 1. */
  static constexpr int kHeadroom = Pass == FarPass::masses ? 0 : 8;
  const Engine& engine;
  const Geometry& g;
  float scale;
  int width, head;
  /** The block's masses, or the sets of clusters that the pools of a thread's rows chose. */
  const Masses& masses;
  Range near[Engine::kRowTiles][2];
  int row[Engine::kRowTiles][2];
  const uint32_t* chosen[Engine::kRowTiles][2];
  /** What is chosen of the tile to be prepared next, of `tiles`. */
  uint2 ahead[Engine::kRowTiles][2];
  int tiles;
  /** Of the thread's rows, those whose pools chose something so far: bit 2 m + half. */
  unsigned retrieving;
  VisibleColumns<Engine::kRowTiles> visible;
  /** Whether all rows of the warp use all clusters of the tile that was prepared. */
  bool whole;
  /** For errors: spreads of the clusters, and those of the thread's columns of the tile that was prepared. */
  const float* spread;
  float spreads[Pass == FarPass::errors ? kColumns / 4 : 1];

  __device__ void prepare(int tile) {
    if constexpr (Pass == FarPass::errors)
#pragma unroll
      for (int i = 0; i < kColumns / 4; i++) {
        const int cluster = tile * kColumns + i / 2 * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + i % 2;
        spreads[i] = cluster < width ? spread[cluster] : 0;
      }
    const int from = tile * kColumns, to = from + kColumns;
    bool all = to <= width;
    uint2 left[Engine::kRowTiles][2];
    Engine::Rows::eachRow([&](int m, int half) {
      all = all && (near[m][half].end <= from || near[m][half].begin >= to);
      left[m][half] = make_uint2(~0u, ~0u);
      if constexpr (Pass == FarPass::rest) {
        if (!chosen[m][half]) return;
        const uint2 taken = ahead[m][half];
        left[m][half] = make_uint2(~taken.x, ~taken.y);
        all = all && (taken.x | taken.y) == 0;
        if ((taken.x | taken.y) != 0) retrieving |= 1u << (2 * m + half);
        if (tile + 1 < tiles) ahead[m][half] = reinterpret_cast<const uint2*>(chosen[m][half])[tile + 1];
      }
    });
    whole = !__any_sync(kWholeWarp, !all);
    if (whole) return;
    Engine::Rows::eachRow([&](int m, int half) {
      const Range out{near[m][half].begin - from, near[m][half].end - from};
      const uint2 outside = make_uint2(firstColumns(out.begin) | ~firstColumns(out.end),
                                       firstColumns(out.begin - 32) | ~firstColumns(out.end - 32));
      visible.set(m, half, 0, width - from, make_uint2(outside.x & left[m][half].x, outside.y & left[m][half].y));
    });
  }
  __device__ int leadingPlain() const { return 0; }
  __device__ bool plain(int) const { return false; }
  __device__ bool biased(int) const { return whole; }
  __device__ float bias(int tile, int column) const { return engine.bias(tile, column); }
  __device__ float operator()(int tile, int m, int half, int column, float product) const {
    return visible.at(m, half, column) ? product * scale + bias(tile, column) : -INFINITY;
  }
  template <class Products, class Peaks>
  __device__ void keep(int tile, const Products& weights, const Peaks& peak) const {
    if constexpr (isForChoice(Pass))
      Engine::Rows::eachRow([&](int m, int half) {
        // Of the thread's column i.
        auto weight = [&](int i) { return weights[m][i / 2][2 * half + i % 2]; };
        float top = peak[m][half], inverse = 1;
        if constexpr (Pass == FarPass::errors) {
          float largest = 0;
#pragma unroll
          for (int i = 0; i < kColumns / 4; i++) largest = fmaxf(largest, weight(i) * spreads[i]);
          largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 1));
          largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 2));
          top += log2f(largest);
          inverse = largest > 0 ? 1 / largest : 0;
        }
        auto code = [&](int i) {
          if constexpr (Pass == FarPass::masses) return Masses::encode(weight(i));
          return Masses::encode(fminf(weight(i) * spreads[i] * inverse, 1.f));
        };
        if (row[m][half] < 0) return;
        unsigned words[4];
#pragma unroll
        for (int word = 0; word < 4; word++)
          words[word] = code(4 * word) | code(4 * word + 1) << 8 | code(4 * word + 2) << 16 | code(4 * word + 3) << 24;
        const size_t at = masses.at(g, head, row[m][half], tile);
        reinterpret_cast<uint4*>(masses.codes + at * kColumns)[threadIdx.x % 4] =
            make_uint4(words[0], words[1], words[2], words[3]);
        if (threadIdx.x % 4 == 0) masses.peaks[at] = top;
      });
  }
};

/** Shared memory of a pass over sorted rows. */
template <class Engine>
struct FarShared {
  typename Engine::Shared engine;
  int rows[Engine::kRows];
  /** Of each row: clusters that are no part of its far field, and AttentionOutputs::part of its near keys. */
  Range near[Engine::kRows];
  float part[Engine::kRows];
};

/** Far field of one tile of rows of one query cluster. */
template <class Engine, FarPass Pass>
__global__ void __launch_bounds__(Engine::kThreads, Engine::kBlocksPerMultiprocessor)
    attendFar(const __grid_constant__ Geometry g, const __grid_constant__ RetrieveCounts retrieve, Sorted sorted,
              const __grid_constant__ RowInputs<typename Engine::T, typename Engine::T> in,
              const __grid_constant__ ColumnMaps maps, Masses masses, const __grid_constant__ Pools pools,
              const __grid_constant__ ChosenClusters chosen, const __grid_constant__ AttentionOutputs<typename Engine::T> out) {
  if constexpr (Engine::kCompiled) {
    using T = typename Engine::T;
    const int head = blockIdx.y + (isForChoice(Pass) ? masses.firstHead : 0), thread = threadIdx.x;
    const RowTile tile = sorted.tiles[static_cast<size_t>(head) * gridDim.x + blockIdx.x];
    const int count = retrieve.of(g, head), tileRows = tile.to - tile.from;
    if (tileRows == 0 || count < 0 || (isForChoice(Pass) && count == 0)) return;
    auto& shared = *reinterpret_cast<FarShared<Engine>*>(dynamicShared());
    Engine engine(dynamicShared());
    const int width = g.blockClusters(tile.problem);
    if (thread < Engine::kRows) {
      const int row = thread < tileRows ? sorted.order[static_cast<size_t>(head) * g.rows + tile.from + thread] : -1;
      shared.rows[thread] = row;
      shared.near[thread] = row < 0 ? Range{width, width} : g.nearClusters(row);
    }
    __syncthreads();

    const int* rows = shared.rows + thread / 32 * Engine::kWarpRows;
    loadRows(engine.queryRows(), Engine::kWarpRows, in.queries + static_cast<size_t>(head) * g.rows * g.headDim, g.headDim,
             thread % 32, 32, [&](int local) { return rows[local]; });
    commitCopies();
    // Rows are in order, so the last one sees furthest when causal.
    const auto seenBy = [&](int local) { return ceilDiv(g.causal ? min(width, shared.near[local].begin) : width, kColumns); };
    const int tiles = seenBy(tileRows - 1);
    const size_t first = g.summaryIndex(tile.problem, head, tile.cluster);
    const Columns<T> columns{in.summaries.key + first * g.headDim,
                             isForChoice(Pass) ? nullptr : in.summaries.value + first * g.valueDim,
                             g.headDim,
                             g.valueDim,
                             in.summaries.bias + first,
                             width,
                             &maps.key[tile.problem],
                             &maps.value[tile.problem],
                             0,
                             head * g.queryClusters + tile.cluster};
    engine.start(columns, tiles);
    const int group = thread / Engine::kGroupThreads * Engine::kGroupRows;
    const int own = group < tileRows ? seenBy(min(group + Engine::kGroupRows, tileRows) - 1) : 0;

    FarLogit<Engine, Pass> logit{engine, g, g.scale * kLog2E, width, head, masses, {}, {}, {}, {}, tiles, 0, {}, false,
                                 Pass == FarPass::errors ? in.summaries.spread + first : nullptr, {}};
    Engine::Rows::eachRow([&](int m, int half) {
      const int row = rows[warpRow(m, half)];
      logit.near[m][half] = shared.near[thread / 32 * Engine::kWarpRows + warpRow(m, half)];
      logit.row[m][half] = row;
      if constexpr (Pass == FarPass::rest) {
        const uint32_t* set = row < 0 || count == 0 || tiles == 0 ? nullptr : chosen.of(pools, head, pools.of(head, row, 0));
        logit.chosen[m][half] = set;
        if (set) logit.ahead[m][half] = *reinterpret_cast<const uint2*>(set);
      }
    });
    typename Engine::Rows softmax;
    softmax.begin();
    const auto outputRow = [&](int local) { return rows[local] - g.past; };
    engine.template run<false>(softmax, columns, tiles, own, logit, [&] {
      if (g.local) {
        if (thread % 32 < Engine::kWarpRows) {
          const int row = rows[thread % 32];
          copyWordAsync(&shared.part[thread / 32 * Engine::kWarpRows + thread % 32], &out.part(g, head, max(row, 0)), row >= 0);
        }
        if constexpr (!isForChoice(Pass))
          loadRows(engine.meanRows(), Engine::kWarpRows, static_cast<const T*>(out.ofHead(g, head)), g.valueDim, thread % 32, 32,
                   outputRow);
      }
      commitCopies();
    });

    softmax.finishTotals();
    waitForCopies<0>();
    __syncwarp();
    const auto nearLse = [&](int m, int half) {
      return g.local ? shared.part[thread / 32 * Engine::kWarpRows + warpRow(m, half)] : -INFINITY;
    };
    if constexpr (isForChoice(Pass)) {
      softmax.eachRow([&](int m, int half) {
        float distance = 0;
        if constexpr (Pass == FarPass::errors) {
          const T* center =
              in.centroids + ((static_cast<size_t>(head) * g.blocks + tile.problem) * g.queryClusters + tile.cluster) * g.headDim;
          constexpr int kPiece = SharedMatrix<T, Engine::kDim>::kPiece;
          for (int piece = thread % 4; piece * kPiece < g.headDim; piece += 4)
            eachDifference(engine.queryRows().piece(warpRow(m, half), piece), center + piece * kPiece,
                           [&](int, float difference) { distance += difference * difference; });
          distance = quadSum(distance);
        }
        const int row = rows[warpRow(m, half)];
        if (thread % 4 > 0 || row < 0) return;
        const float far = softmax.lse(m, half), near = nearLse(m, half), top = fmaxf(near, far);
        float norm = top == -INFINITY ? top : top + log2f(exp2f(near - top) + exp2f(far - top));
        if constexpr (Pass == FarPass::errors)
          if (norm > -INFINITY) norm -= log2f(g.scale * g.scale * distance / 2);
        masses.norms[static_cast<size_t>(head) * g.rows + row] = norm;
      });
      return;
    }
    if (g.local) softmax.join(engine.meanRows(), nearLse);
    __syncwarp();
    softmax.store(engine.meanRows());
    storeRows(engine.meanRows(), Engine::kWarpRows, out.ofHead(g, head), g.valueDim, outputRow);
    if (thread % 4 == 0)
      softmax.eachRow([&](int m, int half) {
        const int row = rows[warpRow(m, half)];
        if (row < g.past) return;
        if constexpr (Pass == FarPass::rest) out.part(g, head, row) = softmax.lse(m, half);
        out.storeLse(g, head, row, softmax.lse(m, half));
      });
    // The others end where their clusters are retrieved.
    attendSpoiledRows(g, retrieve, pools, in, chosen, out, head, softmax, Engine::kWarpRows, [&](int local) {
      const unsigned flags = __shfl_sync(kWholeWarp, logit.retrieving, local % 8 * 4);
      return flags >> (local / 16 * 2 + local % 16 / 8) & 1 ? -1 : rows[local];
    });
  }
}

}  // namespace onnxrewrite::multipole::cuda
