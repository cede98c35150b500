// Stage 2 on tensor cores, in passes that share one softmax through what each leaves in the output: the near keys by
// rows in order; the far field by rows sorted by query cluster (each tile of rows has one query cluster, hence one
// set of summaries); and, by rows in order again, the members of retrieved clusters (attend-retrieved.cuh).
#pragma once

#include "engines.cuh"
#include "pools.cuh"
#include "summarize.cuh"

namespace onnxrewrite::multipole::cuda {

/** Clusters that each head takes exactly per pool; -1 = the head is exact. */
struct RetrieveCounts {
  static constexpr int kMost = 256;
  int32_t count[kMost];
  /** Entries in use: 1 (all heads alike) or the number of query heads. */
  int entries;

  __host__ __device__ int of(const Geometry& g, int head) const { return count[entries == 1 ? 0 : head % g.heads]; }
  __host__ __device__ bool exact(const Geometry& g, int head) const { return of(g, head) < 0; }
};

template <class T>
struct AttentionOutputs {
  /** [B,H,N,E] */
  T* output;
  /** [B,H,N] or null: log-sum-exp, natural. */
  T* lse;
  /** [B,H,rows]: base-2 log-sum-exp of what the passes so far took in. */
  float* partLse;

  /** Row of `output`; null for a past row, which has none. */
  __device__ T* row(const Geometry& g, int head, int row) const {
    return row < g.past ? nullptr : output + index(g, head, row) * g.valueDim;
  }
  __device__ size_t index(const Geometry& g, int head, int row) const {
    return static_cast<size_t>(head) * (g.rows - g.past) + row - g.past;
  }
  __device__ float& part(const Geometry& g, int head, int row) const {
    return partLse[static_cast<size_t>(head) * g.rows + row];
  }
  __device__ void storeLse(const Geometry& g, int head, int row, float value) const {
    part(g, head, row) = value;
    if (lse && row >= g.past) lse[index(g, head, row)] = static_cast<T>(value * kLn2);
  }
};

/** Tensor maps of the columns of a pass: [parts, columns, dim]; for the far field one pair per block. */
struct ColumnMaps {
  static constexpr int kMost = 16;
  TensorMap key[kMost], value[kMost];
};

/** Keys from `first` on that each of a thread's rows sees: a run, those of the mask. */
template <class Engine>
struct NearLogit {
  static constexpr int kHeadroom = 0;
  float scale;
  const bool* mask;
  int first;
  /** Keys that every row of the block sees. */
  Range all;
  Range near[Engine::kRowTiles][2];

  __device__ void prepare(int) const {}
  __device__ bool plain(int tile) const {
    const int key = first + tile * kColumns;
    return !mask && key >= all.begin && key + kColumns <= all.end && scale > 0;
  }
  __device__ bool biased(int) const { return false; }
  __device__ float bias(int, int) const { return 0; }
  __device__ float operator()(int tile, int m, int half, int column, float product) const {
    const int key = first + tile * kColumns + column;
    const bool visible = key >= near[m][half].begin && key < near[m][half].end && (!mask || mask[key]);
    return visible ? product * scale : -INFINITY;
  }
  template <class Products, class Peaks>
  __device__ void keep(int, const Products&, const Peaks&) const {}
};

/** First row of the tiles of attendNear, which begin at multiples of their size in position. */
__host__ __device__ inline int nearTilesBegin(const Geometry& g, int firstRow, int tileRows) {
  const int ahead = g.position(firstRow) % tileRows;
  return firstRow - (ahead < 0 ? ahead + tileRows : ahead);
}

/**
 * First pass, of rows from `firstRow` on: the keys that a row sees by position; heads that are exact see every key
 * here.
 */
template <class Engine>
__global__ void __launch_bounds__(Engine::kThreads, Engine::kBlocksPerMultiprocessor)
    attendNear(Geometry g, RetrieveCounts retrieve, int firstRow, const typename Engine::T* queries,
               const typename Engine::T* keys, const typename Engine::T* values, const bool* mask,
               const __grid_constant__ ColumnMaps maps, AttentionOutputs<typename Engine::T> out) {
  if constexpr (Engine::kCompiled) {
    using T = typename Engine::T;
    const int head = blockIdx.y, thread = threadIdx.x;
    const bool exact = retrieve.exact(g, head);
    if (!exact && !g.local) return;
    Engine engine(dynamicShared());
    const int firstTileRow = nearTilesBegin(g, firstRow, Engine::kRows) + static_cast<int>(blockIdx.x) * Engine::kRows;
    const Range tileRows{max(firstTileRow, firstRow), min(firstTileRow + Engine::kRows, g.rows)};
    auto rowAt = [&](int local) {
      const int row = firstTileRow + thread / 32 * Engine::kWarpRows + local;
      return row < tileRows.begin || row >= tileRows.end ? -1 : row;
    };
    loadRows(engine.queryRows(), Engine::kWarpRows, g.headDim, thread % 32, 32, queries, [&](int local) {
      const int row = rowAt(local);
      return row < 0 ? nullptr : queries + (static_cast<size_t>(head) * g.rows + row) * g.headDim;
    });
    commitCopies();

    // Both ends of the keys that a row sees rise with the row, from the first row with a position on.
    const Range least = g.nearKeys(min(max(tileRows.begin, g.firstRow), tileRows.end - 1), exact);
    const Range most = g.nearKeys(tileRows.end - 1, exact);
    const Range seen{least.begin, most.end};
    const int tiles = ceilDiv(seen.size(), kColumns);
    const size_t kvHead = g.kvHeadOf(head), firstKey = kvHead * g.keys + seen.begin;
    const Columns<T> columns{keys + firstKey * g.headDim,
                             values + firstKey * g.valueDim,
                             g.headDim,
                             g.valueDim,
                             nullptr,
                             seen.size(),
                             &maps.key[0],
                             &maps.value[0],
                             seen.begin,
                             static_cast<int>(kvHead)};
    engine.start(columns, tiles);

    const bool placed = tileRows.begin >= g.firstRow;
    NearLogit<Engine> logit{g.scale * kLog2E, mask ? mask + static_cast<size_t>(head / g.heads) * g.keys : nullptr, seen.begin,
                            placed ? Range{most.begin, least.end} : Range{0, 0}, {}};
    Engine::Rows::eachRow([&](int m, int half) {
      const int row = rowAt(warpRow(m, half));
      logit.near[m][half] = row < 0 ? Range{0, 0} : g.nearKeys(row, exact);
    });
    typename Engine::Rows softmax;
    softmax.begin();
    engine.run(softmax, columns, tiles, logit, [] {});

    softmax.finishTotals();
    softmax.store(engine.meanRows());
    storeRows(engine.meanRows(), Engine::kWarpRows, g.valueDim, [&](int local) {
      const int row = rowAt(local);
      return row < 0 ? nullptr : out.row(g, head, row);
    });
    if (thread % 4 == 0)
      softmax.eachRow([&](int m, int half) {
        const int row = rowAt(warpRow(m, half));
        if (row >= 0) out.storeLse(g, head, row, softmax.lse(m, half));
      });
  }
}

/** What a pass over the far field is for. */
enum class FarPass {
  /** All of it, nothing being retrieved. */
  all,
  /** The masses of clusters, to choose from. */
  masses,
  /** What is left without the chosen clusters. */
  rest,
};

/**
 * Masses of clusters before they are normalized, for the heads from `firstHead` on. A weight w in [0, 1], against the
 * peak that its row had at that tile of 64 clusters, is kept in 8 bits: w + kZero as 4 bits of exponent and 4 of
 * mantissa, which code 0 makes exactly 0. In a tile, byte t * 16 + 2 n + i belongs to column 8 n + 2 t + i: what one
 * thread holds lies together.
 */
struct Masses {
  /** [heads, rows, tiles, 64] */
  uint8_t* codes;
  /** [heads, rows, tiles] */
  float* peaks;
  /** [B*H, rows]: base-2 log-sum-exp of near keys and far field. */
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
  uint32_t taken[Engine::kRowTiles][2][2];
  /** Whether all rows of the warp use all clusters of the tile that was prepared. */
  bool whole;

  __device__ void prepare(int tile) {
    const int from = tile * kColumns, to = from + kColumns;
    bool all = to <= width;
    Engine::Rows::eachRow([&](int m, int half) { all = all && (near[m][half].end <= from || near[m][half].begin >= to); });
    if constexpr (Pass == FarPass::rest)
      Engine::Rows::eachRow([&](int m, int half) {
        const uint2 words = chosen[m][half] ? reinterpret_cast<const uint2*>(chosen[m][half])[tile] : make_uint2(0, 0);
        taken[m][half][0] = words.x;
        taken[m][half][1] = words.y;
        all = all && (words.x | words.y) == 0;
      });
    whole = !__any_sync(kWholeWarp, !all);
  }
  __device__ bool plain(int) const { return false; }
  __device__ bool biased(int) const { return whole; }
  __device__ float bias(int tile, int column) const { return engine.bias(tile, column); }
  __device__ float operator()(int tile, int m, int half, int column, float product) const {
    const int cluster = tile * kColumns + column;
    bool far = cluster < width && (cluster < near[m][half].begin || cluster >= near[m][half].end);
    if constexpr (Pass == FarPass::rest) far = far && !(taken[m][half][column / 32] >> column % 32 & 1);
    return far ? product * scale + bias(tile, column) : -INFINITY;
  }
  template <class Products, class Peaks>
  __device__ void keep(int tile, const Products& weights, const Peaks& peak) const {
    if constexpr (Pass == FarPass::masses)
      Engine::Rows::eachRow([&](int m, int half) {
        if (row[m][half] < 0) return;
        unsigned words[4];
#pragma unroll
        for (int word = 0; word < 4; word++) {
          const float* low = &weights[m][2 * word][2 * half];
          const float* high = &weights[m][2 * word + 1][2 * half];
          words[word] = Masses::encode(low[0]) | Masses::encode(low[1]) << 8 | Masses::encode(high[0]) << 16 |
                        Masses::encode(high[1]) << 24;
        }
        const size_t at = masses.at(g, head, row[m][half], tile);
        reinterpret_cast<uint4*>(masses.codes + at * kColumns)[threadIdx.x % 4] =
            make_uint4(words[0], words[1], words[2], words[3]);
        if (threadIdx.x % 4 == 0) masses.peaks[at] = peak[m][half];
      });
  }
};

/** Shared memory of a pass over sorted rows. */
template <class Engine>
struct FarShared {
  typename Engine::Shared engine;
  int rows[Engine::kRows];
};

/** Far field of one tile of rows of one query cluster. */
template <class Engine, FarPass Pass>
__global__ void __launch_bounds__(Engine::kThreads, Engine::kBlocksPerMultiprocessor)
    attendFar(Geometry g, RetrieveCounts retrieve, Sorted sorted, const typename Engine::T* queries,
              Summaries<typename Engine::T> summaries, const __grid_constant__ ColumnMaps maps, Masses masses, Pools pools,
              ChosenClusters chosen, AttentionOutputs<typename Engine::T> out) {
  if constexpr (Engine::kCompiled) {
    using T = typename Engine::T;
    const int head = blockIdx.y + (Pass == FarPass::masses ? masses.firstHead : 0), thread = threadIdx.x;
    const RowTile tile = sorted.tiles[static_cast<size_t>(head) * gridDim.x + blockIdx.x];
    const int count = retrieve.of(g, head);
    if (tile.from == tile.to || count < 0 || (Pass == FarPass::masses && count == 0)) return;
    auto& shared = *reinterpret_cast<FarShared<Engine>*>(dynamicShared());
    Engine engine(dynamicShared());
    const int* order = sorted.order + static_cast<size_t>(head) * g.rows;
    if (thread < Engine::kRows) shared.rows[thread] = tile.from + thread < tile.to ? order[tile.from + thread] : -1;
    const int width = g.blockClusters(tile.problem);
    const size_t first = g.summaryIndex(tile.problem, head, tile.cluster);
    // Rows are in order, so the last one sees furthest when causal.
    const int seen = g.causal ? min(width, g.nearClusters(order[tile.to - 1]).begin) : width;
    const int tiles = ceilDiv(seen, kColumns);
    const Columns<T> columns{summaries.key + first * g.headDim,
                             Pass == FarPass::masses ? nullptr : summaries.value + first * g.valueDim,
                             g.headDim,
                             g.valueDim,
                             summaries.bias + first,
                             width,
                             &maps.key[tile.problem],
                             &maps.value[tile.problem],
                             0,
                             head * g.queryClusters + tile.cluster};
    engine.start(columns, tiles);
    __syncthreads();
    const int* rows = shared.rows + thread / 32 * Engine::kWarpRows;
    loadRows(engine.queryRows(), Engine::kWarpRows, g.headDim, thread % 32, 32, queries, [&](int local) {
      return rows[local] < 0 ? nullptr : queries + (static_cast<size_t>(head) * g.rows + rows[local]) * g.headDim;
    });
    commitCopies();

    FarLogit<Engine, Pass> logit{engine, g, g.scale * kLog2E, width, head, masses, {}, {}, {}, {}, false};
    Engine::Rows::eachRow([&](int m, int half) {
      const int row = rows[warpRow(m, half)];
      logit.near[m][half] = row < 0 ? Range{width, width} : g.nearClusters(row);
      logit.row[m][half] = row;
      if constexpr (Pass == FarPass::rest)
        logit.chosen[m][half] = row < 0 || count == 0 ? nullptr : chosen.of(pools, head, pools.of(head, row, 0));
    });
    typename Engine::Rows softmax;
    softmax.begin();
    engine.run(softmax, columns, tiles, logit, [&] {
      if (Pass == FarPass::masses || !g.local) return;
      loadRows(engine.meanRows(), Engine::kWarpRows, g.valueDim, thread % 32, 32, static_cast<const T*>(out.output),
               [&](int local) -> const T* { return rows[local] < 0 ? nullptr : out.row(g, head, rows[local]); });
      commitCopies();
    });

    softmax.finishTotals();
    if constexpr (Pass == FarPass::masses) {
      if (thread % 4 == 0)
        softmax.eachRow([&](int m, int half) {
          const int row = rows[warpRow(m, half)];
          if (row < 0) return;
          const float far = softmax.lse(m, half), near = g.local ? out.part(g, head, row) : -INFINITY, top = fmaxf(near, far);
          masses.norms[static_cast<size_t>(head) * g.rows + row] =
              top == -INFINITY ? top : top + log2f(exp2f(near - top) + exp2f(far - top));
        });
      return;
    }
    waitForCopies<0>();
    __syncwarp();
    if (g.local)
      softmax.join(engine.meanRows(), [&](int m, int half) {
        const int row = rows[warpRow(m, half)];
        return row < g.past ? -INFINITY : out.part(g, head, row);
      });
    __syncwarp();
    softmax.store(engine.meanRows());
    storeRows(engine.meanRows(), Engine::kWarpRows, g.valueDim,
              [&](int local) { return rows[local] < 0 ? nullptr : out.row(g, head, rows[local]); });
    if (thread % 4 == 0)
      softmax.eachRow([&](int m, int half) {
        const int row = rows[warpRow(m, half)];
        if (row >= g.past) out.storeLse(g, head, row, softmax.lse(m, half));
      });
  }
}

}  // namespace onnxrewrite::multipole::cuda
