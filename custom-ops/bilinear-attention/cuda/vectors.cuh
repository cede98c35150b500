// Queries and keys of all heads from tokens: products with the weights in float32, then normalized, weighted and rounded.
#pragma once

#include "../../native/cuda/strided-product.cuh"
#include "../../native/cuda/warp.cuh"
#include "../parameters.h"

namespace onnxrewrite::bilinear::cuda {

using namespace onnxrewrite::cuda;

/** Images of some tokens, and where they go. */
template <class T>
struct Images {
  /** [rows][heads][depth] */
  const float* data;
  /** Rows among all tokens of all batch rows, of which each has `tokens`. */
  int firstRow, rows, tokens, heads;
  int depth, levels;
  /** By level, the dimension after its last, the gains or null, and the factor. */
  int ends[kMostLevels];
  const T* gains[kMostLevels];
  float factors[kMostLevels];
  bool normalized, centered;
  float epsilon;
  /** [batch][heads][tokens][padded], zeros from `depth` on. */
  T* vectors;
  int padded;
};

/** A warp to each vector. */
template <class T>
__global__ void __launch_bounds__(128) normalizeImages(const __grid_constant__ Images<T> images) {
  const size_t at = static_cast<size_t>(blockIdx.x) * 4 + threadIdx.x / 32;
  if (at >= static_cast<size_t>(images.rows) * images.heads) return;
  const int lane = threadIdx.x % 32, row = images.firstRow + static_cast<int>(at / images.heads);
  const int head = static_cast<int>(at % images.heads), batch = row / images.tokens;
  const float* const image = images.data + at * images.depth;
  T* const vector =
      images.vectors + ((static_cast<size_t>(batch) * images.heads + head) * images.tokens + row % images.tokens) * images.padded;
  for (int level = 0, begin = 0; level < images.levels; begin = images.ends[level++]) {
    const int end = images.ends[level];
    float mean = 0, factor = images.factors[level];
    if (images.centered) {
      for (int d = begin + lane; d < end; d += 32) mean += image[d];
      mean = warpSum(mean) / static_cast<float>(end - begin);
    }
    if (images.normalized) {
      float squares = 0;
      for (int d = begin + lane; d < end; d += 32) squares += (image[d] - mean) * (image[d] - mean);
      factor /= sqrtf(warpSum(squares) / static_cast<float>(end - begin) + images.epsilon);
    }
    const T* const gains = images.gains[level];
    for (int d = begin + lane; d < end; d += 32)
      vector[d] = static_cast<T>((image[d] - mean) * factor * (gains ? static_cast<float>(gains[d - begin]) : 1.f));
  }
  for (int d = images.depth + lane; d < images.padded; d += 32) vector[d] = static_cast<T>(0.f);
}

template <class T>
cudaError_t launchNormalize(const Images<T>& images, cudaStream_t stream) {
  const size_t vectors = static_cast<size_t>(images.rows) * images.heads;
  return launch(normalizeImages<T>, dim3(static_cast<unsigned>((vectors + 3) / 4)), 128, 0, stream, images);
}

}  // namespace onnxrewrite::bilinear::cuda
