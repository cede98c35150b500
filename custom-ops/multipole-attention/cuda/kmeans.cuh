// Lloyd's iterations. Deterministic: all sums run in a fixed order.
#pragma once

#include "../../native/cuda/operands.cuh"
#include "../../native/cuda/warp.cuh"
#include "point-set.cuh"

namespace onnxrewrite::multipole::cuda {

/** Over the four lanes that share rows of a product. */
template <class V>
__device__ V quadSum(V value) {
  value += __shfl_xor_sync(kWholeWarp, value, 1);
  return value + __shfl_xor_sync(kWholeWarp, value, 2);
}

/** Rounded copy and half squared length of one centroid; called by a whole warp after `mean` is written. */
template <class T>
__device__ void finishCentroid(const Centroids<T>& centroids, size_t centroid, int dim, int lane) {
  float norm = 0;
  for (int d = lane; d < dim; d += 32) {
    T rounded = static_cast<T>(centroids.mean[centroid * dim + d]);
    centroids.rounded[centroid * dim + d] = rounded;
    norm += static_cast<float>(rounded) * static_cast<float>(rounded);
  }
  norm = warpSum(norm);
  if (lane == 0) centroids.halfNorm[centroid] = norm / 2;
}

/** Seeds: cluster m starts at the point of rank floor(m n / C) among the n that take part; zeros when none does. */
template <class T>
__global__ void __launch_bounds__(256) seedCentroids(PointSet set, const T* points, int dim, Centroids<T> centroids) {
  const int problem = blockIdx.x, head = blockIdx.y, thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const int clusters = set.clusters();
  const Range rows = set.range(problem, Part::sources);
  const size_t first = (static_cast<size_t>(head) * set.problems() + problem) * clusters;
  auto seed = [&](int cluster, int row) {
    for (int d = lane; d < dim; d += 32)
      centroids.mean[(first + cluster) * dim + d] =
          row < 0 ? 0.f : static_cast<float>(points[(static_cast<size_t>(head) * set.rows() + row) * dim + d]);
    finishCentroid(centroids, first + cluster, dim, lane);
  };
  if (!set.visible || rows.size() == 0) {
    for (int c = warp; c < clusters; c += 8)
      seed(c, rows.size() == 0 ? -1 : rows.begin + static_cast<int>(static_cast<long long>(c) * rows.size() / clusters));
    return;
  }
  // One warp walks the mask: first to count, then to find the ranks.
  if (warp > 0) return;
  int count = 0;
  for (int base = rows.begin; base < rows.end; base += 32) {
    int row = base + lane;
    count += __popc(__ballot_sync(kWholeWarp, row < rows.end && set.takesPart(head, row)));
  }
  if (count == 0) {
    for (int c = 0; c < clusters; c++) seed(c, -1);
    return;
  }
  int rank = 0, cluster = 0;
  for (int base = rows.begin; base < rows.end && cluster < clusters; base += 32) {
    int row = base + lane;
    unsigned present = __ballot_sync(kWholeWarp, row < rows.end && set.takesPart(head, row));
    for (int bit = 0; bit < 32; bit++) {
      if (!(present >> bit & 1)) continue;
      while (cluster < clusters && static_cast<long long>(cluster) * count / clusters == rank) seed(cluster++, base + bit);
      rank++;
    }
  }
}

/**
 * Assignment of one chunk on tensor cores, and the sums of its points by cluster: scores = x . c - |c|^2 / 2 as one
 * product of each warp's 16 rows, the sums as the product of the one-hot assignment of all 64 rows with the points,
 * of which each warp owns a part of the result. `Tiles` = clusters / 8, rounded up to even; `Dim` >= dim.
 */
template <class T, int Dim, int Tiles>
struct AssignChunk {
  static constexpr int kWarps = 4, kRows = kWarps * 16, kStages = sizeof(T) == 2 ? 3 : 2, kClusters = Tiles * 8;
  /** Tiles of 16 x 8 sums that one warp owns: all of one tile of 16 clusters. */
  static constexpr int kOwnTiles = Tiles / 2 * (Dim / 8) / kWarps;

  struct Shared {
    T centroids[kClusters * Dim];
    T rows[kStages][kRows * Dim];
    float halfNorm[kClusters];
    alignas(4) uint16_t labels[kRows];
  };
};

template <class T, int Dim, int Tiles>
__global__ void __launch_bounds__(128)
    assignChunk(PointSet set, Part part, const T* points, int dim, Centroids<T> centroids, uint16_t* labels, float* sums,
                int* counts) {
  using Plan = AssignChunk<T, Dim, Tiles>;
  constexpr int kPieces = SharedMatrix<T, Dim>::kPieces, kPiece = SharedMatrix<T, Dim>::kPiece;
  auto& shared = *reinterpret_cast<typename Plan::Shared*>(dynamicShared());
  const int head = blockIdx.y, thread = threadIdx.x, warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
  const int clusters = set.clusters(), pieces = dim / kPiece;
  int problem;
  const Range rows = set.chunk(blockIdx.x, part, problem);
  const size_t firstCentroid = (static_cast<size_t>(head) * set.problems() + problem) * clusters;
  const T* headPoints = points + static_cast<size_t>(head) * set.rows() * dim;
  const SharedMatrix<T, Dim> center{shared.centroids};

  for (int i = thread; i < Plan::kClusters * kPieces; i += 128) {
    const int c = i / kPieces, piece = i % kPieces;
    const bool valid = c < clusters && piece < pieces;
    copyAsync(center.piece(c, piece), centroids.rounded + (valid ? (firstCentroid + c) * dim + piece * kPiece : 0), valid);
  }
  for (int c = thread; c < Plan::kClusters; c += 128)
    shared.halfNorm[c] = c < clusters ? centroids.halfNorm[firstCentroid + c] : INFINITY;

  const int steps = ceilDiv(rows.size(), Plan::kRows);
  auto load = [&](int step) {
    const SharedMatrix<T, Dim> target{shared.rows[step % Plan::kStages]};
    const int first = rows.begin + step * Plan::kRows;
    if (step < steps)
#pragma unroll
      for (int i = thread; i < Plan::kRows * kPieces; i += 128) {
        const int row = first + i / kPieces, piece = i % kPieces;
        const bool valid = row < rows.end && piece < pieces;
        copyAsync(target.piece(i / kPieces, piece), headPoints + (valid ? static_cast<size_t>(row) * dim + piece * kPiece : 0),
                  valid);
      }
    commitCopies();
  };
  for (int step = 0; step < Plan::kStages - 1; step++) load(step);

  // The sums this warp owns: clusters ownCluster + (0 .. 15), columns ownColumn * 8 on.
  const int ownCluster = warp * Plan::kOwnTiles / (Dim / 8) * 16, ownColumn = warp * Plan::kOwnTiles % (Dim / 8);
  float sum[Plan::kOwnTiles][4] = {};
  int count[2] = {0, 0};
  for (int step = 0; step < steps; step++) {
    waitForCopies<Plan::kStages - 2>();
    __syncthreads();
    load(step + Plan::kStages - 1);
    const SharedMatrix<T, Dim> tile{shared.rows[step % Plan::kStages]};

    float score[Tiles][4];
#pragma unroll
    for (int n = 0; n < Tiles; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) score[n][i] = -shared.halfNorm[n * 8 + 2 * t + i % 2];
#pragma unroll
    for (int k = 0; k < Dim / 16; k++) {
      OperandPart<T> x;
      loadLeft(x, tile, warp * 16, k);
#pragma unroll
      for (int n = 0; n < Tiles; n += 2) {
        OperandPart<T> c;
        loadKeys(c, center, n * 8, k);
        multiplyAddPart<T>(score[n], score[n + 1], x, c);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float best = -INFINITY;
      int at = 0;
#pragma unroll
      for (int n = 0; n < Tiles; n++)
#pragma unroll
        for (int i = 0; i < 2; i++)
          if (score[n][2 * half + i] > best) {
            best = score[n][2 * half + i];
            at = n * 8 + 2 * t + i;
          }
#pragma unroll
      for (int distance = 1; distance < 4; distance *= 2) {
        const float otherBest = __shfl_xor_sync(kWholeWarp, best, distance);
        const int otherAt = __shfl_xor_sync(kWholeWarp, at, distance);
        if (otherBest > best || (otherBest == best && otherAt < at)) {
          best = otherBest;
          at = otherAt;
        }
      }
      const int local = warp * 16 + g + half * 8, row = rows.begin + step * Plan::kRows + local;
      const bool inside = row < rows.end, finite = best > -INFINITY && best < INFINITY;
      // Zero times what is not finite would spoil the sums of all clusters: such a point is in no mean.
      if (__any_sync(kWholeWarp, !finite)) {
        __syncwarp();
        if (!finite)
          for (int piece = t; piece < kPieces; piece += 4)
            *reinterpret_cast<uint4*>(tile.piece(local, piece)) = make_uint4(0, 0, 0, 0);
      }
      if (t != 0) continue;
      const bool taken = inside && set.takesPart(head, row);
      shared.labels[local] = taken && finite ? static_cast<uint16_t>(at) : kNoLabel;
      if (labels && inside) labels[static_cast<size_t>(head) * set.rows() + row] = taken ? static_cast<uint16_t>(at) : kNoLabel;
    }
    if (!sums) continue;

    __syncthreads();
#pragma unroll
    for (int k = 0; k < Plan::kRows / 16; k++) {
      // One-hot rows of the assignment, transposed: cluster by row.
      float low[4], high[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const auto* label = &shared.labels[k * 16 + 2 * t + i % 2];
        const int cluster = ownCluster + g + i / 2 * 8;
        low[i] = label[0] == cluster ? 1.f : 0.f;
        high[i] = label[8] == cluster ? 1.f : 0.f;
        count[i / 2] += (label[0] == cluster) + (label[8] == cluster);
      }
      OperandPart<T> member;
      packLeft<T>(member, low, high);
#pragma unroll
      for (int n = 0; n < Plan::kOwnTiles; n += 2) {
        OperandPart<T> x;
        loadValues(x, tile, k * 16, ownColumn + n);
        multiplyAddPart<T>(sum[n], sum[n + 1], member, x);
      }
    }
  }
  if (!sums) return;

  const size_t partial = (static_cast<size_t>(head) * gridDim.x + blockIdx.x) * clusters;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int c = ownCluster + g + half * 8;
    count[half] += __shfl_xor_sync(kWholeWarp, count[half], 1);
    count[half] += __shfl_xor_sync(kWholeWarp, count[half], 2);
    if (c >= clusters) continue;
    if (t == 0 && ownColumn == 0) counts[partial + c] = count[half];
#pragma unroll
    for (int n = 0; n < Plan::kOwnTiles; n += 2) {
      const float *low = &sum[n][2 * half], *high = &sum[n + 1][2 * half];
      storePart<T>(sums + (partial + c) * dim, dim, ownColumn + n, {{low[0], low[1]}, {high[0], high[1]}});
    }
  }
}

/** Means of the clusters from the partial sums of all chunks: `parts` warps (1 to 8) per cluster take chunks in turns. */
template <class T>
__global__ void __launch_bounds__(256)
    finishMeans(PointSet set, int dim, int parts, const float* sums, const int* counts, Centroids<T> centroids) {
  constexpr int kWarps = 8;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, problem = blockIdx.y, head = blockIdx.z, part = warp % parts;
  const int clusters = set.clusters(), cluster = blockIdx.x * (kWarps / parts) + warp / parts;
  const bool inside = cluster < clusters;
  auto* partial = reinterpret_cast<float*>(dynamicShared());
  auto* partialCounts = reinterpret_cast<int*>(partial + kWarps * dim);
  const int chunks = inside ? set.chunksOf(problem, Part::sources) : 0;
  const size_t first =
      (static_cast<size_t>(head) * set.chunks(Part::sources) + set.chunksBefore(problem, Part::sources)) * clusters + cluster;
  for (int d = lane; d < dim; d += 32) {
    float total = 0;
#pragma unroll 8
    for (int chunk = part; chunk < chunks; chunk += parts) total += sums[(first + static_cast<size_t>(chunk) * clusters) * dim + d];
    partial[warp * dim + d] = total;
  }
  if (lane == 0) {
    int count = 0;
#pragma unroll 8
    for (int chunk = part; chunk < chunks; chunk += parts) count += counts[first + static_cast<size_t>(chunk) * clusters];
    partialCounts[warp] = count;
  }
  __syncthreads();
  if (part > 0 || !inside) return;
  int count = 0;
  for (int other = warp; other < warp + parts; other++) count += partialCounts[other];
  if (count == 0) return;
  const size_t centroid = (static_cast<size_t>(head) * set.problems() + problem) * clusters + cluster;
  for (int d = lane; d < dim; d += 32) {
    float total = 0;
    for (int other = warp; other < warp + parts; other++) total += partial[other * dim + d];
    centroids.mean[centroid * dim + d] = total / static_cast<float>(count);
  }
  __syncwarp();
  finishCentroid(centroids, centroid, dim, lane);
}

/** Assignment of one chunk for any type and size, distances in float32 from unrounded means; one warp per point. */
template <class T>
__global__ void __launch_bounds__(128)
    assignPlain(PointSet set, Part part, const T* points, int dim, const float* means, uint16_t* labels) {
  const int head = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32, clusters = set.clusters();
  int problem;
  const Range rows = set.chunk(blockIdx.x, part, problem);
  const float* center = means + (static_cast<size_t>(head) * set.problems() + problem) * clusters * dim;
  uint16_t* target = labels + static_cast<size_t>(head) * set.slots(part) + set.slot(problem, part, rows.begin);
  for (int row = rows.begin + warp; row < rows.end; row += 4) {
    const T* point = points + (static_cast<size_t>(head) * set.rows() + row) * dim;
    float least = INFINITY;
    int at = 0;
    for (int c = 0; c < clusters; c++) {
      float distance = 0;
      for (int d = lane; d < dim; d += 32) {
        float delta = static_cast<float>(point[d]) - center[c * dim + d];
        distance += delta * delta;
      }
      distance = warpSum(distance);
      if (distance < least) {
        least = distance;
        at = c;
      }
    }
    if (lane == 0) target[row - rows.begin] = set.takesPart(head, row) ? static_cast<uint16_t>(at) : kNoLabel;
  }
}

/** Means of the points of each cluster; one warp per cluster walks all labels of its problem. */
template <class T>
__global__ void __launch_bounds__(128)
    meansPlain(PointSet set, const T* points, int dim, const uint16_t* labels, Centroids<T> centroids) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, problem = blockIdx.y, head = blockIdx.z;
  const int clusters = set.clusters(), cluster = blockIdx.x * 4 + warp;
  if (cluster >= clusters) return;
  const Range rows = set.range(problem, Part::sources);
  const uint16_t* own = labels + static_cast<size_t>(head) * set.slots(Part::sources) + set.slot(problem, Part::sources, rows.begin);
  const T* headPoints = points + static_cast<size_t>(head) * set.rows() * dim;
  const size_t centroid = (static_cast<size_t>(head) * set.problems() + problem) * clusters + cluster;
  int count = 0;
  for (int first = 0; first < dim; first += 32) {
    const int d = first + lane;
    float total = 0;
    count = 0;
    for (int base = rows.begin; base < rows.end; base += 32) {
      int row = base + lane;
      unsigned present = __ballot_sync(kWholeWarp, row < rows.end && own[row - rows.begin] == cluster);
      count += __popc(present);
      for (; present; present &= present - 1)
        if (d < dim) total += static_cast<float>(headPoints[static_cast<size_t>(base + __ffs(static_cast<int>(present)) - 1) * dim + d]);
    }
    if (count > 0 && d < dim) centroids.mean[centroid * dim + d] = total / static_cast<float>(count);
  }
  __syncwarp();
  if (count > 0) finishCentroid(centroids, centroid, dim, lane);
}

/** Labels of keys grouped as runs of neighbors. */
__global__ void __launch_bounds__(256) labelRuns(PointSet set, int run, uint16_t* labels) {
  const int head = blockIdx.y, row = blockIdx.x * 256 + threadIdx.x;
  if (row >= set.rows()) return;
  labels[static_cast<size_t>(head) * set.rows() + row] =
      set.takesPart(head, row) ? static_cast<uint16_t>(row % set.g.segment / run) : kNoLabel;
}

}  // namespace onnxrewrite::multipole::cuda
