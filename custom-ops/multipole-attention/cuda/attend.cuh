// Stage 2 on tensor cores, in two passes that share one softmax: the far field by rows sorted by query cluster
// (each tile of rows has one query cluster, hence one set of summaries), then the near keys and the retrieved
// clusters by rows in order, joined with what the first pass left in the output.
#pragma once

#include "softmax-tile.cuh"
#include "sort.cuh"
#include "summarize.cuh"

namespace onnxrewrite::multipole::cuda {

constexpr float kLn2 = 0.6931471805599453f;

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
  float* lse;
  /** [B,H,rows]: base-2 log-sum-exp of the far field. */
  float* farLse;

  /** Where a row of `rows` goes in `output` and `lse`; past rows go nowhere. */
  __device__ size_t index(const Geometry& g, int head, int row) const {
    return static_cast<size_t>(head) * (g.rows - g.past) + row - g.past;
  }
};

template <class T, int Dim, int RowTiles>
struct AttendShared {
  static constexpr int kWarps = 4, kRows = kWarps * RowTiles * 16, kColumns = 64;
  T rows[kRows * Dim];
  struct Stage {
    T key[kColumns * Dim];
    T value[kColumns * Dim];
    float bias[kColumns];
  } stage[2];

  __device__ SharedMatrix<T, Dim> warpRows() { return {rows + threadIdx.x / 32 * RowTiles * 16 * Dim}; }
  __device__ SharedMatrix<T, Dim> key(int index) { return {stage[index % 2].key}; }
  __device__ SharedMatrix<T, Dim> value(int index) { return {stage[index % 2].value}; }
};

/** Row of a warp's tile that this thread holds parts of. */
__device__ inline int tileRow(int m, int half) { return m * 16 + half * 8 + threadIdx.x % 32 / 4; }

/** Loads `count` rows of up to Dim columns; source(row) gives the row's address, or null for a row of zeros. */
template <class T, int Dim, class Source>
__device__ void loadRows(SharedMatrix<T, Dim> target, int count, int dim, int first, int step, const T* any, Source source) {
  constexpr int kPieces = Dim / 8;
  for (int i = first; i < count * kPieces; i += step) {
    int row = i / kPieces, piece = i % kPieces;
    const T* address = source(row);
    bool valid = address && piece * 8 < dim;
    copyAsync(target.piece(row, piece), valid ? address + piece * 8 : any, valid);
  }
}

/** Writes the warp's rows; target(row) gives the row's address, or null for a row to leave out. */
template <class T, int Dim, class Target>
__device__ void storeRows(SharedMatrix<T, Dim> rows, int count, int dim, Target target) {
  constexpr int kPieces = Dim / 8;
  __syncwarp();
  for (int i = threadIdx.x % 32; i < count * kPieces; i += 32) {
    int row = i / kPieces, piece = i % kPieces;
    T* address = target(row);
    if (address && piece * 8 < dim)
      *reinterpret_cast<uint4*>(address + piece * 8) = *reinterpret_cast<const uint4*>(rows.piece(row, piece));
  }
}

/** Far field of one tile of rows of one query cluster. */
template <class T, int Dim, int RowTiles>
__global__ void __launch_bounds__(128, Dim* RowTiles <= 64 ? 4 : 2)
    attendFar(Geometry g, RetrieveCounts retrieve, Sorted sorted, const T* queries, Summaries<T> summaries,
              AttentionOutputs<T> out) {
  using Shared = AttendShared<T, Dim, RowTiles>;
  constexpr int kWarpRows = RowTiles * 16;
  const int head = blockIdx.y, thread = threadIdx.x, warp = thread / 32;
  const RowTile tile = sorted.tiles[static_cast<size_t>(head) * gridDim.x + blockIdx.x];
  if (tile.from == tile.to || retrieve.exact(g, head)) return;
  auto& shared = *reinterpret_cast<Shared*>(dynamicShared());
  const int* order = sorted.order + static_cast<size_t>(head) * g.rows;
  auto rowAt = [&](int local) {
    int at = tile.from + warp * kWarpRows + local;
    return at < tile.to ? order[at] : -1;
  };
  const SharedMatrix<T, Dim> own = shared.warpRows();
  loadRows<T, Dim>(own, kWarpRows, g.headDim, thread % 32, 32, queries, [&](int local) {
    int row = rowAt(local);
    return row < 0 ? nullptr : queries + (static_cast<size_t>(head) * g.rows + row) * g.headDim;
  });
  commitCopies();

  const int width = g.blockClusters(tile.problem);
  const size_t base = head * summaries.perHead + g.summariesBefore(tile.problem) + static_cast<size_t>(tile.cluster) * width;
  // Rows are in order, so the last one sees furthest when causal.
  const int seen = g.causal ? min(width, g.nearClusters(order[tile.to - 1]).begin) : width;
  const int tiles = ceilDiv(seen, Shared::kColumns);
  auto load = [&](int index) {
    const int from = index * Shared::kColumns;
    auto row = [&](const T* data, int dim) {
      return [=](int local) { return from + local < width ? data + (base + from + local) * dim : nullptr; };
    };
    loadRows<T, Dim>(shared.key(index), Shared::kColumns, g.headDim, thread, 128, summaries.key,
                     row(summaries.key, g.headDim));
    loadRows<T, Dim>(shared.value(index), Shared::kColumns, g.valueDim, thread, 128, summaries.value,
                     row(summaries.value, g.valueDim));
    if (thread < Shared::kColumns) {
      bool valid = from + thread < width;
      copyWordAsync(&shared.stage[index % 2].bias[thread], summaries.bias + (valid ? base + from + thread : 0), valid);
    }
    commitCopies();
  };
  if (tiles > 0) load(0);

  // Clusters that each row does not use by summary; behind them nothing more when causal.
  Range near[RowTiles][2];
  SoftmaxTile<T, Dim, RowTiles>::eachRow([&](int m, int half) {
    int row = rowAt(tileRow(m, half));
    near[m][half] = row < 0 ? Range{0, width} : g.nearClusters(row);
  });
  waitForCopies<0>();
  __syncthreads();
  SoftmaxTile<T, Dim, RowTiles> softmax;
  softmax.begin(own);

  const float scale = g.scale * kLog2E;
  for (int index = 0; index < tiles; index++) {
    if (index > 0) {
      waitForCopies<0>();
      __syncthreads();
    }
    if (index + 1 < tiles) load(index + 1);
    const float* bias = shared.stage[index % 2].bias;
    const int from = index * Shared::kColumns;
    softmax.add(shared.key(index), shared.value(index), [&](int m, int half, int column, float product) {
      int cluster = from + column;
      bool far = cluster < width && (cluster < near[m][half].begin || cluster >= near[m][half].end);
      return far ? product * scale + bias[column] : -INFINITY;
    });
  }

  softmax.finishTotals();
  softmax.store(own);
  storeRows<T, Dim>(own, kWarpRows, g.valueDim, [&](int local) {
    int row = rowAt(local);
    return row < g.past ? nullptr : out.output + out.index(g, head, row) * g.valueDim;
  });
  if (thread % 4 == 0)
    softmax.eachRow([&](int m, int half) {
      int row = rowAt(tileRow(m, half));
      if (row < g.past) return;
      float lse = softmax.lse(m, half);
      if (g.local)
        out.farLse[static_cast<size_t>(head) * g.rows + row] = lse;
      else if (out.lse)
        out.lse[out.index(g, head, row)] = lse * kLn2;
    });
}

/** First row of the tiles of attendNear, so that tiles begin at multiples of their size in position. */
__host__ __device__ inline int nearTilesBegin(const Geometry& g, int tileRows) {
  int ahead = g.position(g.past) % tileRows;
  return g.past - (ahead < 0 ? ahead + tileRows : ahead);
}

/** Near keys of one tile of neighboring rows, joined with the far field; heads that are exact see every key here. */
template <class T, int Dim, int RowTiles>
__global__ void __launch_bounds__(128, 2)
    attendNear(Geometry g, RetrieveCounts retrieve, const T* queries, const T* keys, const T* values, const bool* mask,
               AttentionOutputs<T> out) {
  using Shared = AttendShared<T, Dim, RowTiles>;
  constexpr int kWarpRows = RowTiles * 16;
  const int head = blockIdx.y, thread = threadIdx.x, warp = thread / 32;
  const bool exact = retrieve.exact(g, head);
  if (!exact && !g.local) return;
  auto& shared = *reinterpret_cast<Shared*>(dynamicShared());
  const int firstTileRow = nearTilesBegin(g, Shared::kRows) + static_cast<int>(blockIdx.x) * Shared::kRows;
  const Range tileRows{max(firstTileRow, g.past), min(firstTileRow + Shared::kRows, g.rows)};
  auto rowAt = [&](int local) {
    int row = firstTileRow + warp * kWarpRows + local;
    return row < tileRows.begin || row >= tileRows.end ? -1 : row;
  };
  const SharedMatrix<T, Dim> own = shared.warpRows();
  loadRows<T, Dim>(own, kWarpRows, g.headDim, thread % 32, 32, queries, [&](int local) {
    int row = rowAt(local);
    return row < 0 ? nullptr : queries + (static_cast<size_t>(head) * g.rows + row) * g.headDim;
  });
  commitCopies();

  // Both ends of the keys that a row sees rise with the row, from the first row with a position on.
  const Range least = g.nearKeys(min(max(tileRows.begin, g.firstRow), tileRows.end - 1), exact);
  const Range most = g.nearKeys(tileRows.end - 1, exact);
  const Range seen{least.begin, most.end};
  const bool placed = tileRows.begin >= g.firstRow;
  const int tiles = ceilDiv(seen.size(), Shared::kColumns);
  const size_t kvHead = g.kvHeadOf(head);
  auto load = [&](int index) {
    const int from = seen.begin + index * Shared::kColumns;
    auto row = [&](const T* data, int dim) {
      return [=](int local) { return from + local < seen.end ? data + (kvHead * g.keys + from + local) * dim : nullptr; };
    };
    loadRows<T, Dim>(shared.key(index), Shared::kColumns, g.headDim, thread, 128, keys, row(keys, g.headDim));
    loadRows<T, Dim>(shared.value(index), Shared::kColumns, g.valueDim, thread, 128, values, row(values, g.valueDim));
    commitCopies();
  };
  if (tiles > 0) load(0);

  Range near[RowTiles][2];
  SoftmaxTile<T, Dim, RowTiles>::eachRow([&](int m, int half) {
    int row = rowAt(tileRow(m, half));
    near[m][half] = row < 0 ? Range{0, 0} : g.nearKeys(row, exact);
  });
  waitForCopies<0>();
  __syncthreads();
  SoftmaxTile<T, Dim, RowTiles> softmax;
  softmax.begin(own);
  __syncwarp();
  // The queries' place takes the far means, which arrive behind the key tiles.
  auto farOf = [&](int row) { return row >= 0 && !exact && g.blockOf(row) >= 0; };
  loadRows<T, Dim>(own, kWarpRows, g.valueDim, thread % 32, 32, out.output, [&](int local) {
    int row = rowAt(local);
    return farOf(row) ? out.output + out.index(g, head, row) * g.valueDim : nullptr;
  });
  commitCopies();

  const float scale = g.scale * kLog2E;
  const bool* seenMask = mask ? mask + static_cast<size_t>(head / g.heads) * g.keys : nullptr;
  for (int index = 0; index < tiles; index++) {
    if (index > 0) {
      waitForCopies<0>();
      __syncthreads();
    }
    if (index + 1 < tiles) load(index + 1);
    const int from = seen.begin + index * Shared::kColumns;
    if (placed && !seenMask && from >= most.begin && from + Shared::kColumns <= least.end) {
      softmax.add(shared.key(index), shared.value(index),
                  [&](int, int, int, float product) { return product * scale; });
      continue;
    }
    softmax.add(shared.key(index), shared.value(index), [&](int m, int half, int column, float product) {
      int key = from + column;
      bool visible = key >= near[m][half].begin && key < near[m][half].end && (!seenMask || seenMask[key]);
      return visible ? product * scale : -INFINITY;
    });
  }

  waitForCopies<0>();
  __syncwarp();
  softmax.finishTotals();
  softmax.join(own, [&](int m, int half) {
    int row = rowAt(tileRow(m, half));
    return farOf(row) ? out.farLse[static_cast<size_t>(head) * g.rows + row] : -INFINITY;
  });
  __syncwarp();
  softmax.store(own);
  storeRows<T, Dim>(own, kWarpRows, g.valueDim, [&](int local) {
    int row = rowAt(local);
    return row < 0 ? nullptr : out.output + out.index(g, head, row) * g.valueDim;
  });
  if (thread % 4 == 0 && out.lse)
    softmax.eachRow([&](int m, int half) {
      int row = rowAt(tileRow(m, half));
      if (row >= 0) out.lse[out.index(g, head, row)] = softmax.lse(m, half) * kLn2;
    });
}

}  // namespace onnxrewrite::multipole::cuda
