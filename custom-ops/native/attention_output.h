// Where attention kernels put their results.
#pragma once

#include <algorithm>
#include <vector>

#include "float16.h"
#include "tile_softmax.h"

namespace onnxrewrite {

// Results in float32 or float16, one row after another.
struct AttentionOutput {
  void* data;       // [rows][valueDim]
  void* logSumExp;  // [rows], or null
  bool isHalf;

  // Stores sums / sum (zeros when sum is zero) and the log-sum-exp of row `at`, from a softmax in base 2.
  // `sums` holds valueDim numbers padded to kLanes, and is overwritten.
  void write(const Simd& simd, size_t at, float* sums, size_t valueDim, float max, float sum) const {
    const size_t size = roundUpToLanes(valueDim);
    const float gain = sum == 0 ? 0.f : 1.f / sum;
    simd.scaleRows(sums, size, 1, size, &gain);
    store(data, at * valueDim, sums, valueDim);
    if (!logSumExp) return;
    const float value = sum == 0 ? kMinusInfinity : (max + std::log2(sum)) * kLn2;
    store(logSumExp, at, &value, 1);
  }

  // Stores the sums of the first `count` lanes of a tile as rows from `at` on.
  void writeTile(const Simd& simd, TileSoftmax& tile, size_t at, size_t count, size_t valueDim) const {
    const size_t size = roundUpToLanes(valueDim);
    std::vector<float> values(kTile * size);
    const std::vector<float> gain(kTile, 1.f);
    tile.merge(values.data(), nullptr, nullptr, gain.data());
    for (size_t lane = 0; lane < count; lane++) {
      write(simd, at + lane, values.data() + lane * size, valueDim, tile.max[lane], tile.sum[lane]);
    }
  }

 private:
  void store(void* target, size_t at, const float* values, size_t count) const {
    if (isHalf) {
      std::transform(values, values + count, static_cast<uint16_t*>(target) + at, toHalf);
    } else {
      std::copy_n(values, count, static_cast<float*>(target) + at);
    }
  }
};

}  // namespace onnxrewrite
