// Stage 1: the summary of every key cluster as seen from every query centroid.
//
// Logits are kept times log2(e) from here on, so that exponentials are powers of two.
#pragma once

#include "../../native/cuda/operands.cuh"
#include "kmeans.cuh"

namespace onnxrewrite::multipole::cuda {

/** Summaries in the order of Geometry::summaryIndex; S is float or the type of the inputs. */
template <class S>
struct Summaries {
  S* key;
  S* value;
  /** log2(e) * (w_ij - scale * c_i . k_ij): added to log2(e) * scale * q . k_ij it gives the logit; -inf when empty. */
  float* bias;
  /** u_ij, where clusters are chosen by expected error; null elsewhere. */
  float* spread;
};

/** Calls visit(i, difference) for the numbers of two pieces of 16 bytes. */
template <class T, class Visit>
__device__ void eachDifference(const T* a, const T* b, Visit visit) {
  constexpr int kPiece = 16 / sizeof(T);
  alignas(16) T left[kPiece], right[kPiece];
  *reinterpret_cast<uint4*>(left) = *reinterpret_cast<const uint4*>(a);
  *reinterpret_cast<uint4*>(right) = *reinterpret_cast<const uint4*>(b);
#pragma unroll
  for (int i = 0; i < kPiece; i++) visit(i, static_cast<float>(left[i]) - static_cast<float>(right[i]));
}

/** What the spread of a cluster's keys is measured with. */
template <class T>
struct Metric {
  /** Any of the keys: measured from far away, spreads would be small differences of large sums. */
  const T* origin;
  /** Of each dimension, for the query clusters of one block. */
  const float* shares;
  int dim;

  /** Squared distance of a key in shared memory from the origin. */
  template <int Dim>
  __device__ float distance(SharedMatrix<T, Dim> keys, int row) const {
    constexpr int kPiece = SharedMatrix<T, Dim>::kPiece;
    float sum = 0;
    for (int first = 0; first < dim; first += kPiece)
      eachDifference(keys.piece(row, first / kPiece), origin + first,
                     [&](int i, float difference) { sum += shares[first + i] * difference * difference; });
    return sum;
  }
  /** Of a thread's numbers of a mean, in the accumulators of tiles n and n + 1. */
  __device__ float distance(int n, const RowPart& mean) const {
    const int t = threadIdx.x % 4;
    const float numbers[4] = {mean.low.x, mean.low.y, mean.high.x, mean.high.y};
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int column = n * 8 + (kSingle<T> ? 4 * t + i % 2 * 2 + i / 2 : 2 * t + i % 2 + i / 2 * 8);
      if (column >= dim) continue;
      const float difference = numbers[i] - static_cast<float>(origin[column]);
      sum += shares[column] * difference * difference;
    }
    return sum;
  }
};

/**
 * Running softmax of one warp: 16 query centroids over the keys of one cluster, keys and values as payload; with `Spreads`
 * also squared distances, for spreads.
 */
template <class T, int Dim, bool Spreads>
struct TiltedMeans {
  static constexpr int kBatch = 32;

  OperandPart<T> centroid[Dim / 16];
  float keySum[Dim / 8][4], valueSum[Dim / 8][4];
  float peak[2], total[2], distance[2];

  __device__ void begin(const T* centroids, int count, int dim) {
    const int g = threadIdx.x % 32 / 4;
#pragma unroll
    for (int k = 0; k < Dim / 16; k++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int row = g + half * 8;
        loadLeftRow(centroid[k], half, centroids + static_cast<size_t>(row) * dim, row < count ? dim : 0, k);
      }
#pragma unroll
    for (int n = 0; n < Dim / 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) keySum[n][i] = valueSum[n][i] = 0;
    peak[0] = peak[1] = -INFINITY;
    total[0] = total[1] = distance[0] = distance[1] = 0;
  }

  /** Rows [first, first + count) of the shared tiles; up to 15 finite rows must follow them. */
  __device__ void add(SharedMatrix<T, Dim> key, SharedMatrix<T, Dim> value, int first, int count, float scale,
                      const Metric<T>& metric) {
    const int lane = threadIdx.x % 32, t = lane % 4;
    for (int base = 0; base < count; base += kBatch) {
      // Of the lane's own key.
      float fromOrigin = 0;
      if constexpr (Spreads)
        if (base + lane < count) fromOrigin = metric.distance(key, first + base + lane);
      const int steps = min(kBatch / 16, ceilDiv(count - base, 16));
      float s[kBatch / 8][4];
      float top[2] = {-INFINITY, -INFINITY};
#pragma unroll
      for (int step = 0; step < kBatch / 16; step++) {
#pragma unroll
        for (int i = 0; i < 4; i++) s[2 * step][i] = s[2 * step + 1][i] = 0;
        if (step < steps) {
#pragma unroll
          for (int k = 0; k < Dim / 16; k++) {
            OperandPart<T> b;
            loadKeys(b, key, first + base + step * 16, k);
            multiplyAddPart<T>(s[2 * step], s[2 * step + 1], centroid[k], b);
          }
        }
#pragma unroll
        for (int n = 2 * step; n < 2 * step + 2; n++)
#pragma unroll
          for (int i = 0; i < 4; i++) {
            s[n][i] = base + n * 8 + 2 * t + i % 2 < count ? s[n][i] * scale : -INFINITY;
            top[i / 2] = fmaxf(top[i / 2], s[n][i]);
          }
      }
#pragma unroll
      for (int half = 0; half < 2; half++) {
        top[half] = fmaxf(top[half], __shfl_xor_sync(kWholeWarp, top[half], 1));
        top[half] = fmaxf(top[half], __shfl_xor_sync(kWholeWarp, top[half], 2));
        float next = fmaxf(peak[half], top[half]), shrink = exp2Fast(peak[half] - next);
        peak[half] = next;
        total[half] *= shrink;
        distance[half] *= shrink;
#pragma unroll
        for (int n = 0; n < Dim / 8; n++)
#pragma unroll
          for (int i = 2 * half; i < 2 * half + 2; i++) {
            keySum[n][i] *= shrink;
            valueSum[n][i] *= shrink;
          }
      }
#pragma unroll
      for (int step = 0; step < kBatch / 16; step++) {
        if (step >= steps) continue;
        float(&low)[4] = s[2 * step], (&high)[4] = s[2 * step + 1];
#pragma unroll
        for (int i = 0; i < 4; i++) {
          low[i] = exp2Fast(low[i] - peak[i / 2]);
          high[i] = exp2Fast(high[i] - peak[i / 2]);
          total[i / 2] += low[i] + high[i];
          if constexpr (Spreads) {
            const int column = step * 16 + 2 * t + i % 2;
            distance[i / 2] += low[i] * __shfl_sync(kWholeWarp, fromOrigin, column) +
                               high[i] * __shfl_sync(kWholeWarp, fromOrigin, column + 8);
          }
        }
        OperandPart<T> p;
        packLeft<T>(p, low, high);
        const int row = first + base + step * 16;
#pragma unroll
        for (int n = 0; n < Dim / 8; n += 2) {
          OperandPart<T> b;
          loadValues(b, key, row, n);
          multiplyAddPart<T>(keySum[n], keySum[n + 1], p, b);
          loadValues(b, value, row, n);
          multiplyAddPart<T>(valueSum[n], valueSum[n + 1], p, b);
        }
      }
    }
  }

  /**
   * Writes the summaries of centroids [0, count), `stride` summaries apart, through the warp's own `staging`
   * (16 x Dim).
   */
  __device__ void store(SharedMatrix<T, Dim> staging, Summaries<T> out, size_t first, size_t stride, int count, int keyDim,
                        int valueDim, float scale, const Metric<T>& metric) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    float inverse[2], dot[2] = {0, 0}, ofMean[2] = {0, 0};
#pragma unroll
    for (int half = 0; half < 2; half++) {
      total[half] = quadSum(total[half]);
      inverse[half] = total[half] == 0 ? 0 : 1 / total[half];
    }
    const auto mean = [&](const float (&sum)[Dim / 8][4], int n, int half) {
      const float *low = &sum[n][2 * half], *high = &sum[n + 1][2 * half], factor = inverse[half];
      return RowPart{{low[0] * factor, low[1] * factor}, {high[0] * factor, high[1] * factor}};
    };
#pragma unroll
    for (int n = 0; n < Dim / 8; n += 2)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const RowPart exact = mean(keySum, n, half), key = exact.template rounded<T>();
        storePart(staging, g + 8 * half, n, key);
        dot[half] += key.dot(rowPart<T>(centroid[n / 2], half));
        if constexpr (Spreads) ofMean[half] += metric.distance(n, exact);
      }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      dot[half] = quadSum(dot[half]);
      if constexpr (Spreads) {
        ofMean[half] = quadSum(ofMean[half]);
        distance[half] = quadSum(distance[half]);
      }
      if (t > 0 || g + 8 * half >= count) continue;
      const size_t at = first + (g + 8 * half) * stride;
      out.bias[at] = total[half] == 0 ? -INFINITY : peak[half] + log2f(total[half]) - scale * dot[half];
      if constexpr (Spreads) out.spread[at] = fmaxf(distance[half] * inverse[half] - ofMean[half], 0.f);
    }
    flush(staging, out.key, first, stride, count, keyDim);
#pragma unroll
    for (int n = 0; n < Dim / 8; n += 2)
#pragma unroll
      for (int half = 0; half < 2; half++) storePart(staging, g + 8 * half, n, mean(valueSum, n, half));
    flush(staging, out.value, first, stride, count, valueDim);
  }

 private:
  __device__ void flush(SharedMatrix<T, Dim> staging, T* target, size_t first, size_t stride, int count, int dim) {
    __syncwarp();
    constexpr int kPieces = SharedMatrix<T, Dim>::kPieces, kPiece = SharedMatrix<T, Dim>::kPiece;
    for (int i = threadIdx.x % 32; i < 16 * kPieces; i += 32) {
      const int row = i / kPieces, piece = i % kPieces;
      if (row < count && piece * kPiece < dim)
        *reinterpret_cast<uint4*>(target + (first + row * stride) * dim + piece * kPiece) =
            *reinterpret_cast<const uint4*>(staging.piece(row, piece));
    }
    __syncwarp();
  }
};

/** Gathers keys and values [from, from + count) of a cluster order into shared tiles and zeroes 16 rows after them. */
template <class T, int Dim>
__device__ void gatherKeys(const Geometry& g, const KeyClusters& clusters, int kvHead, const T* keys, const T* values, int from,
                           int count, SharedMatrix<T, Dim> keyTile, SharedMatrix<T, Dim> valueTile) {
  constexpr int kPieces = SharedMatrix<T, Dim>::kPieces, kAhead = 4;
  const int piece = threadIdx.x % kPieces, step = blockDim.x / kPieces, column = piece * SharedMatrix<T, Dim>::kPiece;
  const bool keyPiece = column < g.headDim, valuePiece = column < g.valueDim;
  const size_t base = static_cast<size_t>(kvHead) * g.keys;
  for (int first = threadIdx.x / kPieces; first < count + 16; first += kAhead * step) {
    int key[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; i++) {
      const int row = first + i * step;
      key[i] = row < count ? clusters.key(g, kvHead, from + row) : -1;
    }
#pragma unroll
    for (int i = 0; i < kAhead; i++) {
      const int row = first + i * step;
      if (row >= count + 16) break;
      const bool keyValid = key[i] >= 0 && keyPiece, valueValid = key[i] >= 0 && valuePiece;
      copyAsync(keyTile.piece(row, piece), keys + (keyValid ? (base + key[i]) * g.headDim + column : 0), keyValid);
      copyAsync(valueTile.piece(row, piece), values + (valueValid ? (base + key[i]) * g.valueDim + column : 0), valueValid);
    }
  }
  commitCopies();
}

/** For the keys of a cluster as seen from the queries of `head` in `block`; `shares` by [head, block, dim]. */
template <class T, bool Spreads>
__device__ Metric<T> metricOf(const Geometry& g, const KeyClusters& clusters, const T* keys, Range members, const float* shares,
                              int head, int block) {
  if (!Spreads || members.size() == 0) return {nullptr, nullptr, 0};
  const int kvHead = g.kvHeadOf(head);
  return {keys + (static_cast<size_t>(kvHead) * g.keys + clusters.key(g, kvHead, members.begin)) * g.headDim,
          shares + (static_cast<size_t>(head) * g.blocks + block) * g.headDim, g.headDim};
}

constexpr int kMostSummarizeWarps = 8, kClusterWarps = 4;

/** Bytes of shared memory for tiles of `keys` keys. */
template <class T, int Dim>
size_t summarizeShared(int keys, int stages, int warps) {
  return (static_cast<size_t>(stages) * 2 * (keys + 16) + warps * 16) * Dim * sizeof(T);
}

/**
 * One block per `blockClusters` clusters of a segment, of at most `tileKeys` keys together, which stay in shared memory
 * for all query clusters of all blocks.
 */
template <class T, int Dim, bool Spreads>
__global__ void __launch_bounds__(kMostSummarizeWarps * 32, Dim * sizeof(T) <= 128 ? 2 : 1)
    summarizeTile(Geometry g, KeyClusters clusters, const T* keys, const T* values, Centroids<T> centroids, const float* shares,
                  Summaries<T> out, int blockClusters, int tileKeys) {
  const int tilesPerSegment = ceilDiv(g.keyClusters, blockClusters);
  const int segment = blockIdx.x / tilesPerSegment, firstOfSegment = blockIdx.x % tilesPerSegment * blockClusters;
  const int firstCluster = segment * g.keyClusters + firstOfSegment;
  const int count = min(blockClusters, g.keyClusters - firstOfSegment);
  const int head = blockIdx.y, kvHead = g.kvHeadOf(head), warp = threadIdx.x / 32, warps = blockDim.x / 32;
  T* shared = reinterpret_cast<T*>(dynamicShared());
  const SharedMatrix<T, Dim> keyTile{shared}, valueTile{shared + (tileKeys + 16) * Dim},
      staging{shared + (2 * (tileKeys + 16) + warp * 16) * Dim};
  const int firstKey = clusters.members(g, kvHead, firstCluster).begin;
  const int keyCount = clusters.members(g, kvHead, firstCluster + count - 1).end - firstKey;
  gatherKeys<T, Dim>(g, clusters, kvHead, keys, values, firstKey, keyCount, keyTile, valueTile);
  waitForCopies<0>();
  __syncthreads();

  const float scale = g.scale * kLog2E;
  const int centerTiles = ceilDiv(g.queryClusters, 16);
  for (int item = warp; item < g.blocks * centerTiles * count; item += warps) {
    const int cluster = firstCluster + item % count, center = item / count % centerTiles * 16, block = item / count / centerTiles;
    const int width = g.blockClusters(block);
    if (cluster >= width) continue;
    const int centers = min(16, g.queryClusters - center);
    const Range members = clusters.members(g, kvHead, cluster);
    TiltedMeans<T, Dim, Spreads> means;
    means.begin(centroids.rounded + ((static_cast<size_t>(head) * g.blocks + block) * g.queryClusters + center) * g.headDim,
                centers, g.headDim);
    const Metric<T> metric = metricOf<T, Spreads>(g, clusters, keys, members, shares, head, block);
    means.add(keyTile, valueTile, members.begin - firstKey, members.size(), scale, metric);
    means.store(staging, out, g.summaryIndex(block, head, center) + cluster, width, centers, g.headDim, g.valueDim, scale,
                metric);
  }
}

/** One block per cluster of any size, streamed through two stages; warps take 16 query clusters each. */
template <class T, int Dim, bool Spreads>
__global__ void __launch_bounds__(kClusterWarps * 32, Dim * sizeof(T) <= 128 ? 4 : 2)
    summarizeCluster(Geometry g, KeyClusters clusters, const T* keys, const T* values, Centroids<T> centroids,
                     const float* shares, Summaries<T> out, int tileKeys, int warps) {
  const int cluster = blockIdx.x, head = blockIdx.y, block = blockIdx.z, kvHead = g.kvHeadOf(head), warp = threadIdx.x / 32;
  const int width = g.blockClusters(block);
  if (cluster >= width) return;
  T* shared = reinterpret_cast<T*>(dynamicShared());
  const int tile = (tileKeys + 16) * Dim;
  const SharedMatrix<T, Dim> staging{shared + 4 * tile + warp * 16 * Dim};
  const Range members = clusters.members(g, kvHead, cluster);
  const float scale = g.scale * kLog2E;
  const Metric<T> metric = metricOf<T, Spreads>(g, clusters, keys, members, shares, head, block);
  const int tiles = ceilDiv(members.size(), tileKeys);
  auto stage = [&](int index) { return shared + index % 2 * 2 * tile; };
  auto count = [&](int index) { return min(tileKeys, members.size() - index * tileKeys); };
  auto load = [&](int index) {
    gatherKeys<T, Dim>(g, clusters, kvHead, keys, values, members.begin + index * tileKeys, count(index),
                       SharedMatrix<T, Dim>{stage(index)}, SharedMatrix<T, Dim>{stage(index) + tile});
  };
  for (int center = 0; center < g.queryClusters; center += warps * 16) {
    const int own = center + warp * 16, centers = min(16, g.queryClusters - own);
    TiltedMeans<T, Dim, Spreads> means;
    means.begin(centroids.rounded + ((static_cast<size_t>(head) * g.blocks + block) * g.queryClusters + own) * g.headDim,
                centers, g.headDim);
    if (tiles > 0) load(0);
    for (int index = 0; index < tiles; index++) {
      waitForCopies<0>();
      __syncthreads();
      if (index + 1 < tiles) load(index + 1);
      means.add(SharedMatrix<T, Dim>{stage(index)}, SharedMatrix<T, Dim>{stage(index) + tile}, 0, count(index), scale, metric);
    }
    means.store(staging, out, g.summaryIndex(block, head, own) + cluster, width, centers, g.headDim, g.valueDim, scale, metric);
    __syncthreads();
  }
}

/** Any type and size: one warp per summary, float32 throughout. */
template <class T>
__global__ void __launch_bounds__(128)
    summarizePlain(Geometry g, KeyClusters clusters, const T* keys, const T* values, const float* means, const float* shares,
                   Summaries<float> out) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, center = blockIdx.y;
  const int head = blockIdx.z / g.blocks, block = blockIdx.z % g.blocks, kvHead = g.kvHeadOf(head);
  const int width = g.blockClusters(block), cluster = blockIdx.x * 4 + warp;
  if (cluster >= width) return;
  const float* c = means + ((static_cast<size_t>(head) * g.blocks + block) * g.queryClusters + center) * g.headDim;
  const size_t at = g.summaryIndex(block, head, center) + cluster;
  const Range members = clusters.members(g, kvHead, cluster);
  float* keyOut = out.key + at * g.headDim;
  float* valueOut = out.value + at * g.valueDim;
  auto logit = [&](const T* key) {
    float dot = 0;
    for (int d = lane; d < g.headDim; d += 32) dot += c[d] * static_cast<float>(key[d]);
    return warpSum(dot) * g.scale * kLog2E;
  };
  float peak = -INFINITY, total = 0;
  for (int d = lane; d < g.headDim; d += 32) keyOut[d] = 0;
  for (int e = lane; e < g.valueDim; e += 32) valueOut[e] = 0;
  for (int i = members.begin; i < members.end; i++) {
    size_t key = static_cast<size_t>(kvHead) * g.keys + clusters.key(g, kvHead, i);
    float next = logit(keys + key * g.headDim);
    float top = fmaxf(peak, next), shrink = exp2f(peak - top), weight = exp2f(next - top);
    peak = top;
    total = total * shrink + weight;
    for (int d = lane; d < g.headDim; d += 32)
      keyOut[d] = keyOut[d] * shrink + weight * static_cast<float>(keys[key * g.headDim + d]);
    for (int e = lane; e < g.valueDim; e += 32)
      valueOut[e] = valueOut[e] * shrink + weight * static_cast<float>(values[key * g.valueDim + e]);
  }
  float dot = 0;
  for (int d = lane; d < g.headDim; d += 32) {
    if (total != 0) keyOut[d] /= total;
    dot += c[d] * keyOut[d];
  }
  for (int e = lane; e < g.valueDim; e += 32)
    if (total != 0) valueOut[e] /= total;
  dot = warpSum(dot);
  if (lane == 0) out.bias[at] = total == 0 ? -INFINITY : peak + log2f(total) - g.scale * kLog2E * dot;
  if (!out.spread) return;
  const float* share = shares + (static_cast<size_t>(head) * g.blocks + block) * g.headDim;
  float spread = 0;
  for (int i = members.begin; i < members.end; i++) {
    const T* key = keys + (static_cast<size_t>(kvHead) * g.keys + clusters.key(g, kvHead, i)) * g.headDim;
    float distance = 0;
    for (int d = lane; d < g.headDim; d += 32) {
      const float delta = static_cast<float>(key[d]) - keyOut[d];
      distance += share[d] * delta * delta;
    }
    spread += exp2f(logit(key) - peak) * warpSum(distance);
  }
  if (lane == 0) out.spread[at] = total > 0 ? spread / total : 0.f;
}

}  // namespace onnxrewrite::multipole::cuda
