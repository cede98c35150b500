// Lloyd's iterations. Deterministic: all sums run in a fixed order.
#pragma once

#include "../../native/cuda/mma.cuh"
#include "point-set.cuh"

namespace onnxrewrite::multipole::cuda {

__device__ inline float warpSum(float value) {
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(kWholeWarp, value, distance);
  return value;
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
 * product, the sums as the product of the one-hot assignment with the points. `Tiles` = clusters / 8, rounded up to
 * even; `Dim` >= dim. Blocks of different z sum different clusters. Each warp streams its own rows.
 */
template <class T, int Dim, int Tiles>
struct AssignChunk {
  static constexpr int kWarps = 4, kStages = 4, kClusters = Tiles * 8;
  /** Cluster tiles of 16 that one block sums: what its registers hold. */
  static constexpr int kSumTiles = Tiles / 2 * Dim <= 256 ? Tiles / 2 : 256 / Dim;
  static constexpr int kSumBlocks = ceilDiv(Tiles / 2, kSumTiles);

  struct Shared {
    T centroids[kClusters * Dim];
    union {
      T rows[kWarps][kStages][16 * Dim];
      float sums[kSumTiles * 16 * Dim];
    };
    float halfNorm[kClusters];
    int counts[kClusters];
  };
};

template <class T, int Dim, int Tiles>
__global__ void __launch_bounds__(128)
    assignChunk(PointSet set, Part part, const T* points, int dim, Centroids<T> centroids, uint16_t* labels, float* sums,
                int* counts) {
  using Plan = AssignChunk<T, Dim, Tiles>;
  constexpr int kPieces = Dim / 8;
  auto& shared = *reinterpret_cast<typename Plan::Shared*>(dynamicShared());
  const int head = blockIdx.y, thread = threadIdx.x, warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
  const int clusters = set.clusters(), pieces = dim / 8;
  int problem;
  const Range rows = set.chunk(blockIdx.x, part, problem);
  const size_t firstCentroid = (static_cast<size_t>(head) * set.problems() + problem) * clusters;
  const T* headPoints = points + static_cast<size_t>(head) * set.rows() * dim;
  const SharedMatrix<T, Dim> center{shared.centroids};

  for (int i = thread; i < Plan::kClusters * kPieces; i += 128) {
    int c = i / kPieces, piece = i % kPieces;
    bool valid = c < clusters && piece < pieces;
    copyAsync(center.piece(c, piece), centroids.rounded + (valid ? (firstCentroid + c) * dim + piece * 8 : 0), valid);
  }
  commitCopies();
  for (int c = thread; c < Plan::kClusters; c += 128) {
    shared.halfNorm[c] = c < clusters ? centroids.halfNorm[firstCentroid + c] : INFINITY;
    shared.counts[c] = 0;
  }

  const int steps = ceilDiv(rows.size(), 16 * Plan::kWarps);
  auto firstRow = [&](int step) { return rows.begin + (step * Plan::kWarps + warp) * 16; };
  auto load = [&](int step) {
    SharedMatrix<T, Dim> target{shared.rows[warp][step % Plan::kStages]};
    if (step < steps)
      for (int i = lane; i < 16 * kPieces; i += 32) {
        int row = firstRow(step) + i / kPieces, piece = i % kPieces;
        bool valid = row < rows.end && piece < pieces;
        copyAsync(target.piece(i / kPieces, piece), headPoints + (valid ? static_cast<size_t>(row) * dim + piece * 8 : 0),
                  valid);
      }
    commitCopies();
  };
  for (int step = 0; step < Plan::kStages - 1; step++) load(step);
  waitForCopies<Plan::kStages - 1>();
  __syncthreads();

  float sum[Plan::kSumTiles][Dim / 8][4] = {};
  for (int step = 0; step < steps; step++) {
    waitForCopies<Plan::kStages - 2>();
    __syncwarp();
    load(step + Plan::kStages - 1);
    SharedMatrix<T, Dim> tile{shared.rows[warp][step % Plan::kStages]};

    float score[Tiles][4];
    for (int n = 0; n < Tiles; n++)
      for (int i = 0; i < 4; i++) score[n][i] = -shared.halfNorm[n * 8 + 2 * t + i % 2];
#pragma unroll
    for (int k = 0; k < Dim / 16; k++) {
      uint32_t x[4];
      loadMatrices(x, tile.piece((lane & 7) + (lane & 8), 2 * k + lane / 16));
#pragma unroll
      for (int n = 0; n < Tiles; n += 2) {
        uint32_t c[4];
        loadMatrices(c, center.piece(n * 8 + (lane & 7) + lane / 16 * 8, 2 * k + (lane / 8 & 1)));
        multiplyAdd<T>(score[n], x, c[0], c[1]);
        multiplyAdd<T>(score[n + 1], x, c[2], c[3]);
      }
    }

    int label[2];
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
      for (int distance = 1; distance < 4; distance *= 2) {
        float otherBest = __shfl_xor_sync(kWholeWarp, best, distance);
        int otherAt = __shfl_xor_sync(kWholeWarp, at, distance);
        if (otherBest > best || (otherBest == best && otherAt < at)) {
          best = otherBest;
          at = otherAt;
        }
      }
      int row = firstRow(step) + g + half * 8;
      bool takesPart = row < rows.end && set.takesPart(head, row);
      label[half] = takesPart ? at : kNoLabel;
      if (t == 0 && row < rows.end && blockIdx.z == 0) {
        if (labels) labels[static_cast<size_t>(head) * set.rows() + row] = static_cast<uint16_t>(label[half]);
        if (takesPart && counts) atomicAdd(&shared.counts[at], 1);
      }
    }
    if (!sums) continue;

    // One-hot rows of the assignment, transposed: cluster by row.
    int low0 = __shfl_sync(kWholeWarp, label[0], 8 * t), low1 = __shfl_sync(kWholeWarp, label[0], 8 * t + 4);
    int high0 = __shfl_sync(kWholeWarp, label[1], 8 * t), high1 = __shfl_sync(kWholeWarp, label[1], 8 * t + 4);
    uint32_t member[Plan::kSumTiles][4];
#pragma unroll
    for (int m = 0; m < Plan::kSumTiles; m++) {
      int c = (static_cast<int>(blockIdx.z) * Plan::kSumTiles + m) * 16 + g;
      member[m][0] = Pair<T>::pack(low0 == c ? 1.f : 0.f, low1 == c ? 1.f : 0.f);
      member[m][1] = Pair<T>::pack(low0 == c + 8 ? 1.f : 0.f, low1 == c + 8 ? 1.f : 0.f);
      member[m][2] = Pair<T>::pack(high0 == c ? 1.f : 0.f, high1 == c ? 1.f : 0.f);
      member[m][3] = Pair<T>::pack(high0 == c + 8 ? 1.f : 0.f, high1 == c + 8 ? 1.f : 0.f);
    }
#pragma unroll
    for (int n = 0; n < Dim / 8; n += 2) {
      uint32_t x[4];
      loadMatricesTransposed(x, tile.piece((lane & 7) + (lane & 8), n + lane / 16));
#pragma unroll
      for (int m = 0; m < Plan::kSumTiles; m++) {
        multiplyAdd<T>(sum[m][n], member[m], x[0], x[1]);
        multiplyAdd<T>(sum[m][n + 1], member[m], x[2], x[3]);
      }
    }
  }
  if (!sums) return;

  waitForCopies<0>();
  for (int turn = 0; turn < Plan::kWarps; turn++) {
    __syncthreads();
    if (turn != warp) continue;
#pragma unroll
    for (int m = 0; m < Plan::kSumTiles; m++)
#pragma unroll
      for (int n = 0; n < Dim / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          float& total = shared.sums[(m * 16 + g + i / 2 * 8) * Dim + n * 8 + 2 * t + i % 2];
          total = turn == 0 ? sum[m][n][i] : total + sum[m][n][i];
        }
  }
  __syncthreads();
  const size_t partial = (static_cast<size_t>(head) * gridDim.x + blockIdx.x) * clusters;
  const int firstSum = blockIdx.z * Plan::kSumTiles * 16;
  for (int i = thread; i < Plan::kSumTiles * 16 * dim; i += 128) {
    int c = firstSum + i / dim;
    if (c < clusters) sums[(partial + c) * dim + i % dim] = shared.sums[i / dim * Dim + i % dim];
  }
  if (blockIdx.z == 0)
    for (int c = thread; c < clusters; c += 128) counts[partial + c] = shared.counts[c];
}

/** Means of the clusters from the partial sums of all chunks; one warp per cluster. */
template <class T>
__global__ void __launch_bounds__(128)
    finishMeans(PointSet set, int dim, const float* sums, const int* counts, Centroids<T> centroids) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, problem = blockIdx.y, head = blockIdx.z;
  const int clusters = set.clusters(), cluster = blockIdx.x * 4 + warp;
  if (cluster >= clusters) return;
  const int chunks = set.chunksOf(problem, Part::sources);
  const size_t first =
      (static_cast<size_t>(head) * set.chunks(Part::sources) + set.chunksBefore(problem, Part::sources)) * clusters + cluster;
  int count = 0;
  for (int chunk = lane; chunk < chunks; chunk += 32) count += counts[first + static_cast<size_t>(chunk) * clusters];
  count = static_cast<int>(__reduce_add_sync(kWholeWarp, static_cast<unsigned>(count)));
  if (count == 0) return;
  const size_t centroid = (static_cast<size_t>(head) * set.problems() + problem) * clusters + cluster;
  for (int d = lane; d < dim; d += 32) {
    float total = 0;
#pragma unroll 8
    for (int chunk = 0; chunk < chunks; chunk++) total += sums[(first + static_cast<size_t>(chunk) * clusters) * dim + d];
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
