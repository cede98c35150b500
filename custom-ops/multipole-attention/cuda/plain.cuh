// Stage 2 for any type and any size, float32 throughout: one warp per row, no tensor cores. The form that the fast
// passes fall back to.
#pragma once

#include "attend.cuh"

namespace onnxrewrite::multipole::cuda {

/** Base-2 log-sum-exp of near keys and estimates of every row, written where the passes on tensor cores keep theirs. */
template <class T>
__global__ void __launch_bounds__(128) normalizePlain(Geometry g, RetrieveCounts retrieve, RowInputs<T, float> in, float* lse) {
  const int head = blockIdx.y, row = blockIdx.x * 4 + threadIdx.x / 32;
  if (row >= g.rows || row < g.firstRow || retrieve.exact(g, head)) return;
  PlainRow<T, float> plain(g, in, head, row);
  PlainSoftmax softmax;
  float shrink;
  plain.eachNearKey(false, [&](float logit, int) { softmax.add(logit, shrink); });
  plain.eachFarCluster([&](int cluster) { softmax.add(plain.estimate(cluster), shrink); });
  if (threadIdx.x % 32 == 0) lse[static_cast<size_t>(head) * g.rows + row] = softmax.lse();
}

/**
 * The choice of one pool from its mean masses or errors: the `count` largest, ties to the lowest cluster, of those that are
 * at least `least`, or with `massLeft` above 0 as many as leave less than that. `mean` is used up. Called by a whole warp.
 */
__device__ inline void chooseClusters(float* mean, int clusters, int count, float massLeft, float least, uint32_t* chosen) {
  const int lane = threadIdx.x % 32;
  float left = 0;
  for (int j = lane; j < clusters; j += 32) left += mean[j];
  left = warpSum(left);
  for (int taken = 0; massLeft > 0 ? left >= massLeft : taken < count; taken++) {
    float best = 0;
    int at = 0x7fffffff;
    for (int j = lane; j < clusters; j += 32)
      if (mean[j] > best) {
        best = mean[j];
        at = j;
      }
    unsigned top = __reduce_max_sync(kWholeWarp, __float_as_uint(best));
    if (top == 0 || __uint_as_float(top) < least) break;
    at = static_cast<int>(__reduce_min_sync(kWholeWarp, __float_as_uint(best) == top ? static_cast<unsigned>(at) : ~0u));
    if (lane == 0) {
      chosen[at / 32] |= 1u << at % 32;
      mean[at] = 0;
    }
    left -= __uint_as_float(top);
    __syncwarp();
  }
}

/** Choices of all pools of all heads; each warp works through many with one vector of masses ([warps, clusters]). */
template <class T>
__global__ void __launch_bounds__(128)
    choosePlain(Geometry g, RetrieveCounts retrieve, float massLeft, float leastError, Pools pools, RowInputs<T, float> in,
                const float* lse, ChosenClusters chosen, float* masses) {
  const int lane = threadIdx.x % 32, clusters = g.clusters();
  const int warp = blockIdx.x * 4 + threadIdx.x / 32, warps = gridDim.x * 4;
  float* mass = masses + static_cast<size_t>(warp) * clusters;
  for (int item = warp; item < g.batch * g.heads * pools.count(); item += warps) {
    const int head = item / pools.count(), pool = item % pools.count(), count = retrieve.of(g, head);
    uint32_t* set = chosen.of(pools, head, pool);
    for (int w = lane; w < chosen.words; w += 32) set[w] = 0;
    if (count < 0 || (count == 0 && massLeft <= 0)) continue;
    // A pool starts at its own first row; the other indices of `cluster` name no pool.
    if (pools.selection == Selection::cluster) {
      if (pool < g.blockRows(0).begin) continue;
      if (pools.of(head, pools.order[static_cast<size_t>(head) * g.rows + pool], pool) != pool) continue;
    }
    for (int j = lane; j < clusters; j += 32) mass[j] = 0;
    __syncwarp();
    int members = pools.eachMember(head, pool, [](int) {});
    pools.eachMember(head, pool, [&](int row) {
      PlainRow<T, float> plain(g, in, head, row);
      if (plain.block < 0) return;
      float norm = lse[static_cast<size_t>(head) * g.rows + row];
      const float factor = (leastError > 0 ? plain.halfSquare() : 1.f) / static_cast<float>(members);
      plain.eachFarCluster([&](int cluster) {
        float share = exp2f(plain.estimate(cluster) - norm) * factor;
        if (leastError > 0) share *= in.summaries.spread[plain.firstSummary + cluster];
        if (lane == 0) mass[cluster] += share;
      });
    });
    __syncwarp();
    chooseClusters(mass, clusters, count, massLeft, leastError, set);
    __syncwarp();
  }
}

/** Output of every row. `places` gives each row's place in the order by query cluster (used by `cluster` pools). */
template <class T>
__global__ void __launch_bounds__(128)
    attendPlain(Geometry g, RetrieveCounts retrieve, Pools pools, RowInputs<T, float> in, ChosenClusters chosen,
                const int* places, AttentionOutputs<T> out) {
  const int head = blockIdx.y, row = g.past + blockIdx.x * 4 + threadIdx.x / 32;
  if (row >= g.rows) return;
  const uint32_t* set = nullptr;
  if (chosen.bits && !retrieve.exact(g, head) && g.blockOf(row) >= 0)
    set = chosen.of(pools, head, pools.of(head, row, places ? places[static_cast<size_t>(head) * g.rows + row] : 0));
  attendRow<kPlainMaxValueDim>(g, in, set, out, retrieve.exact(g, head), head, row);
}

/** Place of each sorted row in its order. */
__global__ void __launch_bounds__(256) invertOrder(PointSet set, Sorted sorted, int* places) {
  const int problem = blockIdx.x, head = blockIdx.y, clusters = set.clusters();
  const int* begin = sorted.begin + (static_cast<size_t>(head) * set.problems() + problem) * (clusters + 1);
  const int* order = sorted.order + static_cast<size_t>(head) * set.rows();
  for (int at = begin[0] + threadIdx.x; at < begin[clusters]; at += 256)
    places[static_cast<size_t>(head) * set.rows() + order[at]] = at;
}

}  // namespace onnxrewrite::multipole::cuda
