// One row by one warp, key by key in float32: what the plain kernels are made of, and what passes on tensor cores take
// again where numbers are not finite.
#pragma once

#include "pools.cuh"
#include "summarize.cuh"

namespace onnxrewrite::multipole::cuda {

/** Largest value size: what a lane's registers are declared for. */
constexpr int kPlainMaxValueDim = 512;

/** What a row is computed from; summaries are float32 where tensor cores did not make them. */
template <class T, class S>
struct RowInputs {
  const T* queries;
  const T* keys;
  const T* values;
  const bool* mask;
  KeyClusters clusters;
  Summaries<S> summaries;
  /** [B*H, blocks, query clusters, dim] */
  const S* centroids;
  /** [B*H, rows]: query cluster of each row. */
  const uint16_t* labels;
};

/** One row against keys and summaries; called by whole warps. */
template <class T, class S>
struct PlainRow {
  const Geometry& g;
  const RowInputs<T, S>& in;
  int head, row, kvHead, block;
  const T* query;
  size_t firstSummary;
  int width;
  Range near;

  __device__ PlainRow(const Geometry& geometry, const RowInputs<T, S>& inputs, int atHead, int atRow)
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
      if ((cluster < near.begin || cluster >= near.end) && in.summaries.bias[firstSummary + cluster] != -INFINITY)
        visit(cluster);
  }
  /** s^2 |q - c_i|^2 / 2: what a cluster's mass and spread are multiplied by for its expected error. */
  __device__ float halfSquare() const {
    const size_t label = in.labels[static_cast<size_t>(head) * g.rows + row];
    const S* center = in.centroids + ((static_cast<size_t>(head) * g.blocks + block) * g.queryClusters + label) * g.headDim;
    float sum = 0;
    for (int d = threadIdx.x % 32; d < g.headDim; d += 32) {
      const float delta = static_cast<float>(query[d]) - static_cast<float>(center[d]);
      sum += delta * delta;
    }
    return warpSum(sum) * g.scale * g.scale / 2;
  }
  __device__ float estimate(int cluster) const {
    return product(in.summaries.key + (firstSummary + cluster) * g.headDim) + in.summaries.bias[firstSummary + cluster];
  }
};

struct PlainSoftmax {
  float peak = -INFINITY, total = 0;

  /** Weight of a logit against the new peak, and the factor on what was added before. */
  __device__ float add(float logit, float& shrink) {
    const float top = fmaxf(peak, logit), base = top == -INFINITY ? 0 : top, weight = exp2f(logit - base);
    shrink = exp2f(peak - base);
    peak = top;
    total = total * shrink + weight;
    return weight;
  }
  __device__ float lse() const { return total == 0 ? -INFINITY : peak + log2f(total); }
};

template <class T>
struct AttentionOutputs {
  /** [B,H,N,E] */
  T* output;
  /** [B,H,N] or null: log-sum-exp, natural. */
  T* lse;
  /** [B,H,rows]: base-2 log-sum-exp of what the passes so far took in. */
  float* partLse;

  /** The output rows of a head, the first of them that of row `g.past`: past rows have none. */
  __device__ T* ofHead(const Geometry& g, int head) const { return output + index(g, head, g.past) * g.valueDim; }
  __device__ size_t index(const Geometry& g, int head, int row) const {
    return static_cast<size_t>(head) * (g.rows - g.past) + row - g.past;
  }
  __device__ float& part(const Geometry& g, int head, int row) const {
    return partLse[static_cast<size_t>(head) * g.rows + row];
  }
  __device__ void storeLse(const Geometry& g, int head, int row, float value) const {
    if (lse && row >= g.past) lse[index(g, head, row)] = static_cast<T>(value * kLn2);
  }
};

/** Output and log-sum-exp of one row, whose pool chose the clusters of `set` (null = none); called by a whole warp. */
template <int MaxValueDim, class T, class S>
__device__ void attendRow(const Geometry& g, const RowInputs<T, S>& in, const uint32_t* set, const AttentionOutputs<T>& out,
                          bool exact, int head, int row) {
  const int lane = threadIdx.x % 32;
  const PlainRow<T, S> plain(g, in, head, row);
  PlainSoftmax softmax;
  float sum[MaxValueDim / 32] = {};
  auto add = [&](float logit, const auto* value) {
    float shrink, weight = softmax.add(logit, shrink);
#pragma unroll
    for (int i = 0; i < MaxValueDim / 32; i++)
      if (int e = lane + 32 * i; e < g.valueDim) sum[i] = sum[i] * shrink + weight * static_cast<float>(value[e]);
  };
  auto addKey = [&](float logit, int key) { add(logit, in.values + plain.keyAt(key) * g.valueDim); };
  plain.eachNearKey(exact, addKey);
  if (!exact && plain.block >= 0)
    plain.eachFarCluster([&](int cluster) {
      if (!set || !ChosenClusters::has(set, cluster)) {
        add(plain.estimate(cluster), in.summaries.value + (plain.firstSummary + cluster) * g.valueDim);
        return;
      }
      const Range members = in.clusters.members(g, plain.kvHead, cluster);
      for (int at = members.begin; at < members.end; at++) {
        const int key = in.clusters.key(g, plain.kvHead, at);
        addKey(plain.product(in.keys + plain.keyAt(key) * g.headDim), key);
      }
    });
  const size_t index = out.index(g, head, row);
#pragma unroll
  for (int i = 0; i < MaxValueDim / 32; i++)
    if (int e = lane + 32 * i; e < g.valueDim)
      out.output[index * g.valueDim + e] = static_cast<T>(softmax.total == 0 ? 0.f : sum[i] / softmax.total);
  if (lane == 0) out.storeLse(g, head, row, softmax.lse());
}

}  // namespace onnxrewrite::multipole::cuda
