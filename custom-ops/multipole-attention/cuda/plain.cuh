// Stage 2 for any type and any size, float32 throughout: one warp per row, no tensor cores. The form that the fast
// passes fall back to, and for float32 the only one.
#pragma once

#include "attend.cuh"
#include "pools.cuh"

namespace onnxrewrite::multipole::cuda {

/** Largest value size: what a lane's registers are declared for. */
constexpr int kPlainMaxValueDim = 512;

template <class T>
struct PlainInputs {
  const T* queries;
  const T* keys;
  const T* values;
  const bool* mask;
  KeyClusters clusters;
  Summaries<float> summaries;
  /** [B*H, rows]: query cluster of each row. */
  const uint16_t* labels;
};

/** One row against keys and summaries; called by whole warps. */
template <class T>
struct PlainRow {
  const Geometry& g;
  const PlainInputs<T>& in;
  int head, row, kvHead, block;
  const T* query;
  size_t firstSummary;
  int width;
  Range near;

  __device__ PlainRow(const Geometry& geometry, const PlainInputs<T>& inputs, int atHead, int atRow)
      : g(geometry), in(inputs), head(atHead), row(atRow), kvHead(g.kvHeadOf(head)), block(in.labels ? g.blockOf(row) : -1),
        query(in.queries + (static_cast<size_t>(head) * g.rows + row) * g.headDim), firstSummary(0), width(0), near{0, 0} {
    if (block < 0) return;
    width = g.blockClusters(block);
    near = g.nearClusters(row);
    firstSummary = g.summaryIndex(block, head, in.labels[static_cast<size_t>(head) * g.rows + row]);
  }

  template <class V>
  __device__ float product(const V* vector) const {
    float dot = 0;
    for (int d = threadIdx.x % 32; d < g.headDim; d += 32)
      dot += static_cast<float>(query[d]) * static_cast<float>(vector[d]);
    return warpSum(dot) * g.scale * kLog2E;
  }
  __device__ bool visible(int key) const {
    return !in.mask || in.mask[static_cast<size_t>(head / g.heads) * g.keys + key];
  }
  __device__ size_t keyAt(int key) const { return static_cast<size_t>(kvHead) * g.keys + key; }

  /** visit(logit, key) for the keys attended exactly by position. */
  template <class Visit>
  __device__ void eachNearKey(bool exact, Visit visit) const {
    Range keys = g.nearKeys(row, exact);
    for (int key = keys.begin; key < keys.end; key++)
      if (visible(key)) visit(product(in.keys + keyAt(key) * g.headDim), key);
  }
  /** visit(cluster) for the clusters of the far field. */
  template <class Visit>
  __device__ void eachFarCluster(Visit visit) const {
    for (int cluster = 0; cluster < width; cluster++)
      if ((cluster < near.begin || cluster >= near.end) && in.summaries.bias[firstSummary + cluster] > -INFINITY)
        visit(cluster);
  }
  __device__ float estimate(int cluster) const {
    return product(in.summaries.key + (firstSummary + cluster) * g.headDim) + in.summaries.bias[firstSummary + cluster];
  }
};

struct PlainSoftmax {
  float peak = -INFINITY, total = 0;

  /** Weight of a logit against the new peak, and the factor on what was added before. */
  __device__ float add(float logit, float& shrink) {
    float top = fmaxf(peak, logit);
    shrink = exp2f(peak - top);
    float weight = exp2f(logit - top);
    peak = top;
    total = total * shrink + weight;
    return weight;
  }
  __device__ float lse() const { return total > 0 ? peak + log2f(total) : -INFINITY; }
};

/** Base-2 log-sum-exp of near keys and estimates of every row, written where the passes on tensor cores keep theirs. */
template <class T>
__global__ void __launch_bounds__(128) normalizePlain(Geometry g, RetrieveCounts retrieve, PlainInputs<T> in, float* lse) {
  const int head = blockIdx.y, row = blockIdx.x * 4 + threadIdx.x / 32;
  if (row >= g.rows || row < g.firstRow || retrieve.exact(g, head)) return;
  PlainRow<T> plain(g, in, head, row);
  PlainSoftmax softmax;
  float shrink;
  plain.eachNearKey(false, [&](float logit, int) { softmax.add(logit, shrink); });
  plain.eachFarCluster([&](int cluster) { softmax.add(plain.estimate(cluster), shrink); });
  if (threadIdx.x % 32 == 0) lse[static_cast<size_t>(head) * g.rows + row] = softmax.lse();
}

/**
 * The choice of one pool from its mean masses: the `count` largest, ties to the lowest cluster, or with `massLeft`
 * above 0 as many as leave less than that. `mean` is used up. Called by a whole warp.
 */
__device__ inline void chooseClusters(float* mean, int clusters, int count, float massLeft, uint32_t* chosen) {
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
    if (top == 0) break;
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
    choosePlain(Geometry g, RetrieveCounts retrieve, float massLeft, Pools pools, PlainInputs<T> in, const float* lse,
                ChosenClusters chosen, float* masses) {
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
      PlainRow<T> plain(g, in, head, row);
      float norm = lse[static_cast<size_t>(head) * g.rows + row];
      plain.eachFarCluster([&](int cluster) {
        float share = exp2f(plain.estimate(cluster) - norm) / static_cast<float>(members);
        if (lane == 0) mass[cluster] += share;
      });
    });
    __syncwarp();
    chooseClusters(mass, clusters, count, massLeft, set);
    __syncwarp();
  }
}

/** Output of every row. `places` gives each row's place in the order by query cluster (used by `cluster` pools). */
template <class T>
__global__ void __launch_bounds__(128)
    attendPlain(Geometry g, RetrieveCounts retrieve, Pools pools, PlainInputs<T> in, ChosenClusters chosen, const int* places,
                AttentionOutputs<T> out) {
  const int head = blockIdx.y, row = g.past + blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= g.rows) return;
  const bool exact = retrieve.exact(g, head);
  PlainRow<T> plain(g, in, head, row);
  PlainSoftmax softmax;
  float sum[kPlainMaxValueDim / 32] = {};
  auto add = [&](float logit, const auto* value) {
    float shrink, weight = softmax.add(logit, shrink);
#pragma unroll
    for (int i = 0; i < kPlainMaxValueDim / 32; i++)
      if (int e = lane + 32 * i; e < g.valueDim) sum[i] = sum[i] * shrink + weight * static_cast<float>(value[e]);
  };
  auto addKey = [&](float logit, int key) { add(logit, in.values + plain.keyAt(key) * g.valueDim); };
  plain.eachNearKey(exact, addKey);
  if (!exact && plain.block >= 0) {
    const uint32_t* set = nullptr;
    if (chosen.bits) {
      int place = places ? places[static_cast<size_t>(head) * g.rows + row] : 0;
      set = chosen.of(pools, head, pools.of(head, row, place));
    }
    plain.eachFarCluster([&](int cluster) {
      if (!set || !ChosenClusters::has(set, cluster)) {
        add(plain.estimate(cluster), in.summaries.value + (plain.firstSummary + cluster) * g.valueDim);
        return;
      }
      Range members = in.clusters.members(g, plain.kvHead, cluster);
      for (int at = members.begin; at < members.end; at++) {
        int key = in.clusters.key(g, plain.kvHead, at);
        addKey(plain.product(in.keys + plain.keyAt(key) * g.headDim), key);
      }
    });
  }
  const size_t index = out.index(g, head, row);
#pragma unroll
  for (int i = 0; i < kPlainMaxValueDim / 32; i++)
    if (int e = lane + 32 * i; e < g.valueDim)
      out.output[index * g.valueDim + e] = static_cast<T>(softmax.total > 0 ? sum[i] / softmax.total : 0.f);
  if (lane == 0 && out.lse) out.lse[index] = static_cast<T>(softmax.lse() * kLn2);
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
