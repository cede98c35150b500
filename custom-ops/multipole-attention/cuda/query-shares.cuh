// How much queries vary in each dimension (README, step 5): what spreads of keys are measured by, for expected errors.
#pragma once

#include "kmeans.cuh"

namespace onnxrewrite::multipole::cuda {

constexpr int kShareWarps = 8;

/** Adds up own(warp, d), and calls total(d, sum) in one thread of the block each; shared memory for [kShareWarps, dim]. */
template <class Own, class Total>
__device__ void sumByDimension(int dim, Own own, Total total) {
  auto* shared = reinterpret_cast<float*>(dynamicShared());
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int d = lane; d < dim; d += 32) shared[warp * dim + d] = own(warp, d);
  __syncthreads();
  for (int d = threadIdx.x; d < dim; d += kShareWarps * 32) {
    float sum = 0;
    for (int w = 0; w < kShareWarps; w++) sum += shared[w * dim + d];
    total(d, sum);
  }
}

/** Sums of the squares of one chunk of sources: [heads, chunks of sources, dim]. */
template <class T>
__global__ void __launch_bounds__(kShareWarps * 32) sumSquares(PointSet set, const T* points, int dim, float* sums) {
  const int head = blockIdx.y;
  int problem;
  const Range rows = set.chunk(blockIdx.x, Part::sources, problem);
  const T* headPoints = points + static_cast<size_t>(head) * set.rows() * dim;
  float* out = sums + (static_cast<size_t>(head) * gridDim.x + blockIdx.x) * dim;
  sumByDimension(
      dim,
      [&](int warp, int d) {
        float sum = 0;
#pragma unroll 8
        for (int row = rows.begin + warp; row < rows.end; row += kShareWarps) {
          const float value = static_cast<float>(headPoints[static_cast<size_t>(row) * dim + d]);
          sum += value * value;
        }
        return sum;
      },
      [&](int d, float sum) { out[d] = sum; });
}

/** Shares g_d of the dimensions in the squares of the sources of one problem: [heads, problems, dim]. */
__global__ void __launch_bounds__(kShareWarps * 32) shareSquares(PointSet set, int dim, const float* sums, float* shares) {
  const int problem = blockIdx.x, head = blockIdx.y;
  const int chunks = set.chunksOf(problem, Part::sources);
  const float* first =
      sums + (static_cast<size_t>(head) * set.chunks(Part::sources) + set.chunksBefore(problem, Part::sources)) * dim;
  float* out = shares + (static_cast<size_t>(head) * set.problems() + problem) * dim;
  sumByDimension(
      dim,
      [&](int warp, int d) {
        float sum = 0;
#pragma unroll 4
        for (int chunk = warp; chunk < chunks; chunk += kShareWarps) sum += first[static_cast<size_t>(chunk) * dim + d];
        return sum;
      },
      [&](int d, float sum) { out[d] = sum; });
  __syncthreads();
  if (threadIdx.x >= 32) return;
  const int lane = threadIdx.x;
  float total = 0;
  for (int d = lane; d < dim; d += 32) total += out[d];
  total = warpSum(total);
  for (int d = lane; d < dim; d += 32) out[d] = total > 0 ? out[d] / total : 1 / static_cast<float>(dim);
}

}  // namespace onnxrewrite::multipole::cuda
