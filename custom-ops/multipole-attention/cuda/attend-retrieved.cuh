// Last pass: the members of retrieved clusters, exactly. A block takes 64 neighboring rows and streams the union of
// what their pools chose; each warp skips the columns that none of its 16 rows chose.
#pragma once

#include "attend.cuh"

namespace onnxrewrite::multipole::cuda {

template <class T, int Dim>
struct RetrievedPass {
  static constexpr int kWarps = 4, kThreads = kWarps * 32, kRows = kWarps * 16;
  /** Columns per stage, and per step of a warp. */
  static constexpr int kStage = 64, kStep = 32;
  /** Clusters of the union that are listed at a time. */
  static constexpr int kListed = 256;
  using Rows = SoftmaxRows<T, Dim, 1, kStep>;

  struct Shared {
    T rows[kRows * Dim];
    struct Stage {
      T key[kStage * Dim];
      T value[kStage * Dim];
    } stage[2];
    /** Which of the block's rows chose the cluster of each column, by warp; of the stages' columns and the next. */
    alignas(8) uint16_t users[3][kStage][kWarps];
    int keys[3][kStage];
    /** Listed clusters: their first place in the order of keys, where their columns begin, who uses them. */
    int first[kListed];
    int begin[kListed + 1];
    alignas(8) uint16_t listed[kListed][kWarps];
    int listCount;
  };
  /** Bytes with the rows' sets and their union behind. */
  static size_t sharedBytes(int words) { return sizeof(Shared) + static_cast<size_t>(kRows + 1) * words * sizeof(uint32_t); }
};

/** Columns that the pools of a thread's rows chose, by the bits of their users. */
template <int Warps>
struct RetrievedLogit {
  static constexpr int kHeadroom = 0;
  float scale;
  const uint16_t (*users)[Warps];
  __device__ bool plain(int) const { return false; }
  __device__ bool biased(int) const { return false; }
  __device__ float bias(int, int) const { return 0; }
  __device__ float operator()(int, int, int half, int column, float product) const {
    const unsigned used = users[column][threadIdx.x / 32];
    return used >> (threadIdx.x % 32 / 4 + 8 * half) & 1 ? product * scale : -INFINITY;
  }
};

template <class T, int Dim>
__global__ void __launch_bounds__(128, Dim == 64 ? 4 : 2)
    attendRetrieved(Geometry g, RetrieveCounts retrieve, Pools pools, ChosenClusters chosen, KeyClusters clusters,
                    const T* queries, const T* keys, const T* values, AttentionOutputs<T> out) {
  using Pass = RetrievedPass<T, Dim>;
  const int head = blockIdx.y, kvHead = g.kvHeadOf(head), thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  if (retrieve.of(g, head) <= 0) return;
  auto& shared = *reinterpret_cast<typename Pass::Shared*>(dynamicShared());
  uint32_t* sets = reinterpret_cast<uint32_t*>(dynamicShared() + sizeof(typename Pass::Shared));
  uint32_t* all = sets + Pass::kRows * chosen.words;
  const int firstTileRow = nearTilesBegin(g, g.past, Pass::kRows) + static_cast<int>(blockIdx.x) * Pass::kRows;
  auto rowAt = [&](int local) {
    const int row = firstTileRow + local;
    return row < g.past || row >= g.rows ? -1 : row;
  };
  const SharedMatrix<T, Dim> own{shared.rows + warp * 16 * Dim};
  loadRows(own, 16, g.headDim, lane, 32, queries, [&](int local) {
    const int row = rowAt(warp * 16 + local);
    return row < 0 ? nullptr : queries + (static_cast<size_t>(head) * g.rows + row) * g.headDim;
  });
  commitCopies();

  // What each row retrieves: its pool's choice inside its far field.
  for (int local = warp; local < Pass::kRows; local += Pass::kWarps) {
    const int row = rowAt(local);
    const uint32_t* set = row >= 0 && g.blockOf(row) >= 0 ? chosen.of(pools, head, pools.of(head, row, 0)) : nullptr;
    const Range near = row >= 0 ? g.nearClusters(row) : Range{0, 0};
    for (int word = lane; word < chosen.words; word += 32) {
      uint32_t bits = set ? set[word] : 0;
      const int low = clamped(near.begin - 32 * word, 0, 32), high = clamped(near.end - 32 * word, 0, 32);
      if (high > low) bits &= ~((high - low == 32 ? ~0u : (1u << (high - low)) - 1) << low);
      sets[local * chosen.words + word] = bits;
    }
  }
  __syncthreads();
  for (int word = thread; word < chosen.words; word += Pass::kThreads) {
    uint32_t bits = 0;
    for (int local = 0; local < Pass::kRows; local++) bits |= sets[local * chosen.words + word];
    all[word] = bits;
  }
  waitForCopies<0>();
  __syncthreads();
  uint32_t query[1][Dim / 16][4];
#pragma unroll
  for (int k = 0; k < Dim / 16; k++) loadMatrices(query[0][k], own.piece((lane & 7) + (lane & 8), 2 * k + lane / 16));
  __syncwarp();
  loadRows(own, 16, g.valueDim, lane, 32, static_cast<const T*>(out.output), [&](int local) -> const T* {
    const int row = rowAt(warp * 16 + local);
    return row < 0 ? nullptr : out.row(g, head, row);
  });
  commitCopies();

  typename Pass::Rows softmax;
  softmax.begin();
  const size_t firstKey = static_cast<size_t>(kvHead) * g.keys;

  for (int nextWord = 0; nextWord < chosen.words;) {
    // One warp lists the next clusters of the union; all then find their users.
    if (warp == 0) {
      int count = 0, columns = 0;
      for (; nextWord < chosen.words && count + 32 <= Pass::kListed; nextWord++) {
        const uint32_t bits = all[nextWord];
        const bool listed = bits >> lane & 1;
        Range members{0, 0};
        if (listed) members = clusters.members(g, kvHead, nextWord * 32 + lane);
        int added;
        const int at = columns + warpScan(members.size(), added), slot = count + __popc(bits & ((1u << lane) - 1));
        if (listed) {
          shared.first[slot] = members.begin;
          shared.begin[slot] = at;
          for (int w = 0; w < Pass::kWarps; w++) shared.listed[slot][w] = static_cast<uint16_t>(nextWord * 32 + lane);
        }
        count += __popc(bits);
        columns += added;
      }
      if (lane == 0) {
        shared.begin[count] = columns;
        shared.listCount = count;
      }
    } else {
      for (int count = 0; nextWord < chosen.words && count + 32 <= Pass::kListed; nextWord++) count += __popc(all[nextWord]);
    }
    __syncthreads();
    const int count = shared.listCount, columns = shared.begin[count];
    for (int slot = 0; slot < count; slot++) {
      const int cluster = shared.listed[slot][warp];
      const bool used = lane < 16 && ChosenClusters::has(sets + (warp * 16 + lane) * chosen.words, cluster);
      const unsigned users = __ballot_sync(kWholeWarp, used);
      __syncwarp();
      if (lane == 0) shared.listed[slot][warp] = static_cast<uint16_t>(users);
      __syncwarp();
    }
    __syncthreads();

    const int stages = ceilDiv(columns, Pass::kStage);
    auto locate = [&](int index) {
      if (index >= stages || thread >= Pass::kStage) return;
      const int column = index * Pass::kStage + thread, table = index % 3;
      int low = 0, high = count;
      while (high - low > 1) {
        const int middle = (low + high) / 2;
        (shared.begin[middle] <= column ? low : high) = middle;
      }
      const bool inside = column < columns;
      shared.keys[table][thread] = inside ? clusters.key(g, kvHead, shared.first[low] + column - shared.begin[low]) : -1;
      for (int w = 0; w < Pass::kWarps; w++) shared.users[table][thread][w] = inside ? shared.listed[low][w] : 0;
    };
    auto load = [&](int index) {
      auto& stage = shared.stage[index % 2];
      const int* at = shared.keys[index % 3];
      auto source = [&](const T* data, int dim) {
        return [=](int column) { return at[column] < 0 ? nullptr : data + (firstKey + at[column]) * dim; };
      };
      loadRows(SharedMatrix<T, Dim>{stage.key}, Pass::kStage, g.headDim, thread, Pass::kThreads, keys, source(keys, g.headDim));
      loadRows(SharedMatrix<T, Dim>{stage.value}, Pass::kStage, g.valueDim, thread, Pass::kThreads, values,
               source(values, g.valueDim));
      commitCopies();
    };
    locate(0);
    locate(1);
    __syncthreads();
    if (stages > 0) load(0);
    for (int index = 0; index < stages; index++) {
      waitForCopies<0>();
      __syncthreads();
      if (index + 1 < stages) load(index + 1);
      locate(index + 2);
      for (int step = 0; step < Pass::kStage; step += Pass::kStep) {
        const auto* users = shared.users[index % 3] + step;
        if (!__any_sync(kWholeWarp, users[lane][warp] != 0)) continue;
        const RetrievedLogit<Pass::kWarps> logit{g.scale * kLog2E, users};
        typename Pass::Rows::Products s;
        typename Pass::Rows::Weights weights;
        typename Pass::Rows::PerRow shrink;
        multiplyKeys<T, Dim, 1, Pass::kStep>(s, query, SharedMatrix<T, Dim>{shared.stage[index % 2].key + step * Dim});
        softmax.exponentiate(s, shrink, 0, logit);
        softmax.template rescale<RetrievedLogit<Pass::kWarps>::kHeadroom>(shrink);
        Pass::Rows::pack(s, weights);
        multiplyValues<T, Dim, 1, Pass::kStep>(softmax.sum, weights,
                                               SharedMatrix<T, Dim>{shared.stage[index % 2].value + step * Dim});
      }
    }
    __syncthreads();
  }

  waitForCopies<0>();
  __syncwarp();
  softmax.finishTotals();
  softmax.join(own, [&](int m, int half) {
    const int row = rowAt(warp * 16 + warpRow(m, half));
    return row < 0 ? -INFINITY : out.part(g, head, row);
  });
  __syncwarp();
  softmax.store(own);
  storeRows(own, 16, g.valueDim, [&](int local) {
    const int row = rowAt(warp * 16 + local);
    return row < 0 ? nullptr : out.row(g, head, row);
  });
  if (lane % 4 == 0)
    softmax.eachRow([&](int m, int half) {
      const int row = rowAt(warp * 16 + warpRow(m, half));
      if (row >= 0) out.storeLse(g, head, row, softmax.lse(m, half));
    });
}

}  // namespace onnxrewrite::multipole::cuda
