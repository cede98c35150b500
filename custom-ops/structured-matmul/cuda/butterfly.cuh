// Products with a butterfly: rows stay in shared memory from the first stage to the last.
#pragma once

#include "../../native/cuda/platform.cuh"
#include "../../native/cuda/range.cuh"

namespace onnxrewrite::structured::cuda {

using namespace onnxrewrite::cuda;

/** Largest size, 2^kMostStages: one row fits where a block has 99 KiB of shared memory. */
constexpr int kMostStages = 14;
constexpr int kButterflyThreads = 256;
/** Rows to which a thread applies weights that it has loaded. */
constexpr int kRowsTogether = 8;

template <class T>
struct Butterfly {
  /** [rows, 2^stages] */
  const T* x;
  /** [stages, 2^(stages - 1), 2, 2] */
  const T* factors;
  T* output;
  size_t rows;
  int stages;

  __host__ __device__ int size() const { return 1 << stages; }
  /** Rows of a block. */
  __host__ __device__ int blockRows() const {
    constexpr int kRow = 2048;
    return size() > kRow ? kRowsTogether * kRow / size() : size() > kRow / 2 ? kRowsTogether : kRowsTogether * kRow / 2 / size();
  }
};

/** Place of a number of a row: apart by powers of two, numbers fall into different banks. */
__host__ __device__ constexpr int butterflyPlace(int n) { return n + n / 32; }

template <class T>
size_t butterflySharedBytes(const Butterfly<T>& butterfly) {
  return sizeof(float) * butterfly.blockRows() * butterflyPlace(butterfly.size());
}

/** The block [output, input] of a pair of entries. */
struct PairBlock {
  float weight[4];

  template <class T>
  __device__ PairBlock(const Butterfly<T>& butterfly, int stage, int pair) {
    const T* const numbers = butterfly.factors + 4 * (static_cast<size_t>(stage) * (butterfly.size() / 2) + pair);
#pragma unroll
    for (int i = 0; i < 4; i++) weight[i] = static_cast<float>(numbers[i]);
  }
  __device__ void apply(float& low, float& high) const {
    const float given = low;
    low = weight[0] * given + weight[1] * high;
    high = weight[2] * given + weight[3] * high;
  }
};

/** Two stages at a time, on the four entries that they join; an odd last one by itself. */
template <class T>
__global__ void __launch_bounds__(kButterflyThreads) multiplyButterfly(const __grid_constant__ Butterfly<T> butterfly) {
  float* const shared = reinterpret_cast<float*>(dynamicShared());
  const int size = butterfly.size(), rowPlaces = butterflyPlace(size), thread = threadIdx.x;
  const size_t first = static_cast<size_t>(blockIdx.x) * butterfly.blockRows();
  const size_t left = butterfly.rows - first;
  const int rows = left < static_cast<size_t>(butterfly.blockRows()) ? static_cast<int>(left) : butterfly.blockRows();
  for (int i = thread; i < rows * size; i += kButterflyThreads)
    shared[i / size * rowPlaces + butterflyPlace(i % size)] = static_cast<float>(butterfly.x[first * size + i]);

  const int groups = ceilDiv(rows, kRowsTogether);
  // Calls visit(numbers of a row) for the rows of a group.
  const auto eachRow = [&](int group, auto visit) {
    const int from = group * kRowsTogether;
    for (int row = from; row < min(from + kRowsTogether, rows); row++) visit(shared + row * rowPlaces);
  };
  for (int stage = 0; stage < butterfly.stages; stage += 2) {
    __syncthreads();
    const int stride = 1 << stage;
    if (stage + 1 < butterfly.stages) {
      for (int i = thread; i < groups * (size / 4); i += kButterflyThreads) {
        const int quad = i % (size / 4), below = quad & (stride - 1), from = (quad >> stage << (stage + 2)) + below;
        const int pair = (quad >> stage << (stage + 1)) + below;
        const PairBlock near(butterfly, stage, pair), far(butterfly, stage, pair + stride);
        const PairBlock even(butterfly, stage + 1, pair), odd(butterfly, stage + 1, pair + stride);
        eachRow(i / (size / 4), [&](float* numbers) {
          float entry[4];
#pragma unroll
          for (int k = 0; k < 4; k++) entry[k] = numbers[butterflyPlace(from + k * stride)];
          near.apply(entry[0], entry[1]);
          far.apply(entry[2], entry[3]);
          even.apply(entry[0], entry[2]);
          odd.apply(entry[1], entry[3]);
#pragma unroll
          for (int k = 0; k < 4; k++) numbers[butterflyPlace(from + k * stride)] = entry[k];
        });
      }
    } else {
      for (int i = thread; i < groups * (size / 2); i += kButterflyThreads) {
        const int pair = i % (size / 2), from = (pair >> stage << (stage + 1)) + (pair & (stride - 1));
        const PairBlock block(butterfly, stage, pair);
        eachRow(i / (size / 2),
                [&](float* numbers) { block.apply(numbers[butterflyPlace(from)], numbers[butterflyPlace(from + stride)]); });
      }
    }
  }
  __syncthreads();
  for (int i = thread; i < rows * size; i += kButterflyThreads)
    butterfly.output[first * size + i] = static_cast<T>(shared[i / size * rowPlaces + butterflyPlace(i % size)]);
}

template <class T>
cudaError_t launchButterfly(const Butterfly<T>& butterfly, cudaStream_t stream) {
  const size_t blockRows = static_cast<size_t>(butterfly.blockRows());
  const auto blocks = static_cast<unsigned>((butterfly.rows + blockRows - 1) / blockRows);
  return launch(multiplyButterfly<T>, dim3(blocks), kButterflyThreads, butterflySharedBytes(butterfly), stream, butterfly);
}

}  // namespace onnxrewrite::structured::cuda
