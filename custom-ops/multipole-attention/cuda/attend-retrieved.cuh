// Last pass: the members of retrieved clusters, exactly. A block takes 64 or 128 neighboring rows and streams the union
// of what their pools chose; each warp skips the columns that none of its 16 rows chose.
#pragma once

#include "attend.cuh"

namespace onnxrewrite::multipole::cuda {

/** Which of a block's rows chose a cluster: a bit for each of 16 rows, by warp. */
template <int Warps>
struct alignas(2 * Warps) ClusterUsers {
  uint16_t ofWarp[Warps];
};

template <class T, int Dim, int Warps>
struct RetrievedPass {
  static constexpr int kWarps = Warps, kThreads = kWarps * 32, kRows = kWarps * 16;
  /** As many warps as hold the registers of a multiprocessor. */
  static constexpr int kBlocksPerMultiprocessor = (Dim * sizeof(T) <= 128 ? 16 : Dim * sizeof(T) <= 256 ? 8 : 4) / kWarps;
  /** Columns per stage, and per step of a warp. */
  static constexpr int kStage = 128 / sizeof(T), kStep = 32;
  /** Clusters of the union that are listed at a time. */
  static constexpr int kListed = 256;
  using Rows = SoftmaxRows<T, Dim, 1, kStep>;

  /** Aligned for what follows, which is read in pieces of 16 bytes. */
  struct alignas(16) Shared {
    T rows[kRows * Dim];
    struct Stage {
      T key[kStage * Dim];
      T value[kStage * Dim];
    } stage[2];
    /** Of the cluster of each column; of the stages' columns and the next. */
    ClusterUsers<kWarps> users[3][kStage];
    int keys[3][kStage];
    /** Listed clusters: their first place in the order of keys, where their columns begin, who uses them. */
    int first[kListed];
    int begin[kListed + 1];
    ClusterUsers<kWarps> listed[kListed];
  };
  /** Bytes with what follows: the rows' sets by word, their union, and the columns of each word's clusters. */
  static size_t sharedBytes(int words) { return sizeof(Shared) + static_cast<size_t>(kRows + 2) * words * sizeof(uint32_t); }
};

/** Columns that the pools of a thread's rows chose, by the bits of their users; `same` for all columns, if `uniform`. */
template <int Warps>
struct RetrievedLogit {
  static constexpr int kHeadroom = 8;
  float scale;
  const ClusterUsers<Warps>* users;
  unsigned same;
  bool uniform;
  __device__ static bool has(unsigned users, int half) { return users >> (threadIdx.x % 32 / 4 + 8 * half) & 1; }
  /** Products of rows that do not use a uniform step are taken out beforehand. */
  template <class Products>
  __device__ void prepare(Products& products) const {
    if (!uniform || same == 0xffff) return;
#pragma unroll
    for (auto& four : products[0])
#pragma unroll
      for (int i = 0; i < 4; i++) four[i] = has(same, i / 2) ? four[i] : -INFINITY;
  }
  __device__ bool plain(int) const { return uniform; }
  __device__ bool biased(int) const { return false; }
  __device__ float bias(int, int) const { return 0; }
  __device__ float operator()(int, int, int half, int column, float product) const {
    return has(users[column].ofWarp[threadIdx.x / 32], half) ? product * scale : -INFINITY;
  }
};

template <class T, int Dim, int Warps>
__global__ void __launch_bounds__(Warps * 32, RetrievedPass<T, Dim, Warps>::kBlocksPerMultiprocessor)
    attendRetrieved(const __grid_constant__ Geometry g, const __grid_constant__ RetrieveCounts retrieve,
                    const __grid_constant__ Pools pools, const __grid_constant__ ChosenClusters chosen,
                    const __grid_constant__ RowInputs<T, T> in, const __grid_constant__ AttentionOutputs<T> out) {
  using Pass = RetrievedPass<T, Dim, Warps>;
  const KeyClusters& clusters = in.clusters;
  const int head = blockIdx.y, kvHead = g.kvHeadOf(head), thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  if (retrieve.of(g, head) <= 0) return;
  auto& shared = *reinterpret_cast<typename Pass::Shared*>(dynamicShared());
  // [words][rows], [words], [words]
  uint32_t* sets = reinterpret_cast<uint32_t*>(dynamicShared() + sizeof(typename Pass::Shared));
  uint32_t* all = sets + Pass::kRows * chosen.words;
  int* columnsOf = reinterpret_cast<int*>(all + chosen.words);
  // Late tiles retrieve most where attention is causal: they come first.
  const int tile = static_cast<int>(g.causal ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
  const int firstTileRow = nearTilesBegin(g, g.past, Pass::kRows) + tile * Pass::kRows;
  auto rowAt = [&](int local) {
    const int row = firstTileRow + local;
    return row < g.past || row >= g.rows ? -1 : row;
  };
  const SharedMatrix<T, Dim> own{shared.rows + warp * 16 * Dim};
  loadRows(own, 16, in.queries + static_cast<size_t>(head) * g.rows * g.headDim, g.headDim, lane, 32,
           [&](int local) { return rowAt(warp * 16 + local); });
  commitCopies();

  // What each row retrieves: its pool's choice inside its far field.
  {
    constexpr int kThreadsPerRow = Pass::kThreads / Pass::kRows;
    const int local = thread / kThreadsPerRow, row = rowAt(local);
    const uint32_t* set = row >= 0 && g.blockOf(row) >= 0 ? chosen.of(pools, head, pools.of(head, row, 0)) : nullptr;
    const Range near = row >= 0 ? g.nearClusters(row) : Range{0, 0};
#pragma unroll 4
    for (int word = thread % kThreadsPerRow; word < chosen.words; word += kThreadsPerRow) {
      uint32_t bits = set ? set[word] : 0;
      const int low = clamped(near.begin - 32 * word, 0, 32), high = clamped(near.end - 32 * word, 0, 32);
      if (high > low) bits &= ~((high - low == 32 ? ~0u : (1u << (high - low)) - 1) << low);
      sets[word * Pass::kRows + local] = bits;
    }
  }
  __syncthreads();
  for (int word = warp; word < chosen.words; word += Pass::kWarps) {
    uint32_t bits = 0;
#pragma unroll
    for (int row = lane; row < Pass::kRows; row += 32) bits |= sets[word * Pass::kRows + row];
    bits = __reduce_or_sync(kWholeWarp, bits);
    const int own = bits >> lane & 1 ? clusters.members(g, kvHead, word * 32 + lane).size() : 0;
    const int columns = static_cast<int>(__reduce_add_sync(kWholeWarp, static_cast<unsigned>(own)));
    if (lane == 0) {
      all[word] = bits;
      columnsOf[word] = columns;
    }
  }
  waitForCopies<0>();
  __syncthreads();
  // Where pools choose from the far field of all of their rows, those that end here have something to retrieve.
  bool any = pools.selection == Selection::sliding && !g.causal;
  for (int word = lane; word < chosen.words; word += 32) any = any || all[word] != 0;
  if (!__any_sync(kWholeWarp, any)) return;
  OperandPart<T> query[1][Dim / 16];
#pragma unroll
  for (int k = 0; k < Dim / 16; k++) loadLeft(query[0][k], own, 0, k);
  __syncwarp();
  const auto outputRow = [&](int local) {
    return rowAt(warp * 16 + local) - g.past;
  };
  loadRows(own, 16, static_cast<const T*>(out.ofHead(g, head)), g.valueDim, lane, 32, outputRow);
  commitCopies();

  typename Pass::Rows softmax;
  softmax.begin();
  // The 16 bytes of every key and value that this thread copies.
  constexpr int kPieces = SharedMatrix<T, Dim>::kPieces;
  const int piece = thread % kPieces, column = piece * SharedMatrix<T, Dim>::kPiece;
  const bool keyPiece = column < g.headDim, valuePiece = column < g.valueDim;
  const T* const ownKeys = in.keys + static_cast<size_t>(kvHead) * g.keys * g.headDim + (keyPiece ? column : 0);
  const T* const ownValues = in.values + static_cast<size_t>(kvHead) * g.keys * g.valueDim + (valuePiece ? column : 0);

  for (int nextWord = 0; nextWord < chosen.words;) {
    // The words whose clusters are listed now: as many of the next 32 as there is room for.
    const int laneWord = nextWord + lane;
    int laneSlot = laneWord < chosen.words ? __popc(all[laneWord]) : 0;
    int laneColumn = laneWord < chosen.words ? columnsOf[laneWord] : 0, total;
    const int slotsOfWord = laneSlot, columnsOfWord = laneColumn;
    laneSlot = warpScan(laneSlot, total);
    laneColumn = warpScan(laneColumn, total);
    const int wordsNow = __popc(__ballot_sync(kWholeWarp, laneWord < chosen.words && laneSlot + slotsOfWord <= Pass::kListed));
    const int count = __shfl_sync(kWholeWarp, laneSlot + slotsOfWord, wordsNow - 1);
    const int columns = __shfl_sync(kWholeWarp, laneColumn + columnsOfWord, wordsNow - 1);
    for (int i = warp; i < wordsNow; i += Pass::kWarps) {
      const uint32_t bits = all[nextWord + i];
      const int firstSlot = __shfl_sync(kWholeWarp, laneSlot, i), firstColumn = __shfl_sync(kWholeWarp, laneColumn, i);
      if (bits == 0) continue;
      const bool listed = bits >> lane & 1;
      const Range members = listed ? clusters.members(g, kvHead, (nextWord + i) * 32 + lane) : Range{0, 0};
      const int column = firstColumn + warpScan(members.size(), total), slot = firstSlot + __popc(bits & ((1u << lane) - 1));
      // Bit `lane` of every row's word, by warp.
      ClusterUsers<Warps> users;
#pragma unroll
      for (int w = 0; w < Pass::kWarps; w++) {
        uint32_t own = 0;
#pragma unroll
        for (int four = 0; four < 4; four++) {
          const uint4 rows = *reinterpret_cast<const uint4*>(&sets[(nextWord + i) * Pass::kRows + w * 16 + 4 * four]);
          own |= ((rows.x >> lane & 1) | (rows.y >> lane & 1) << 1 | (rows.z >> lane & 1) << 2 | (rows.w >> lane & 1) << 3)
                 << 4 * four;
        }
        users.ofWarp[w] = static_cast<uint16_t>(own);
      }
      if (!listed) continue;
      shared.first[slot] = members.begin;
      shared.begin[slot] = column;
      shared.listed[slot] = users;
    }
    if (thread == 0) shared.begin[count] = columns;
    nextWord += wordsNow;
    __syncthreads();

    const int stages = ceilDiv(columns, Pass::kStage);
    // Columns of a thread only rise, and with them the slots they lie in.
    int slot = 0;
    auto locate = [&](int index) {
      if (index >= stages || thread >= Pass::kStage) return;
      const int column = index * Pass::kStage + thread, table = index % 3;
      while (slot + 1 < count && shared.begin[slot + 1] <= column) slot++;
      const bool inside = column < columns;
      shared.keys[table][thread] = inside ? clusters.key(g, kvHead, shared.first[slot] + column - shared.begin[slot]) : -1;
      shared.users[table][thread] = inside ? shared.listed[slot] : ClusterUsers<Warps>{};
    };
    auto load = [&](int index) {
      auto& stage = shared.stage[index % 2];
      const int* at = shared.keys[index % 3];
      const SharedMatrix<T, Dim> keyTile{stage.key}, valueTile{stage.value};
#pragma unroll
      for (int column = thread / kPieces; column < Pass::kStage; column += Pass::kThreads / kPieces) {
        const int key = at[column];
        const bool keyValid = key >= 0 && keyPiece, valueValid = key >= 0 && valuePiece;
        copyAsync(keyTile.piece(column, piece), ownKeys + (keyValid ? static_cast<long long>(key) * g.headDim : 0), keyValid);
        copyAsync(valueTile.piece(column, piece), ownValues + (valueValid ? static_cast<long long>(key) * g.valueDim : 0), valueValid);
      }
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
        const unsigned own = users[lane].ofWarp[warp], same = __shfl_sync(kWholeWarp, own, 0);
        if (!__any_sync(kWholeWarp, own != 0)) continue;
        const bool uniform = !__any_sync(kWholeWarp, own != same) && g.scale > 0;
        const RetrievedLogit<Pass::kWarps> logit{g.scale * kLog2E, users, same, uniform};
        typename Pass::Rows::Products s;
        typename Pass::Rows::Weights weights;
        typename Pass::Rows::PerRow shrink;
        multiplyKeys<T, Dim, 1, Pass::kStep>(s, query, SharedMatrix<T, Dim>{shared.stage[index % 2].key + step * Dim});
        logit.prepare(s);
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
  storeRows(own, 16, out.ofHead(g, head), g.valueDim, outputRow);
  if (lane % 4 == 0)
    softmax.eachRow([&](int m, int half) {
      const int row = rowAt(warp * 16 + warpRow(m, half));
      if (row >= 0) out.storeLse(g, head, row, softmax.lse(m, half));
    });
  attendSpoiledRows(g, retrieve, pools, in, chosen, out, head, softmax, 16,
                    [&](int local) { return rowAt(warp * 16 + local); });
}

}  // namespace onnxrewrite::multipole::cuda
