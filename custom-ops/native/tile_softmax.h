// Exact attention of one tile of queries over any keys: an online softmax in base 2, one query per lane.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "environment.h"
#include "span.h"

namespace onnxrewrite {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr float kLog2E = 1.44269504088896340736f;
constexpr float kLn2 = 0.69314718055994530942f;

// Keys and values of one key head, rows padded to multiples of kLanes.
struct KeyValue {
  const float* key;
  const float* value;
  size_t depth, size;
  // Weights of hidden keys are zero; unless all values are finite they also have to be skipped.
  bool guarded;

  Rows keys(const int32_t* index) const { return {key, depth, index}; }
  Rows values(const int32_t* index) const { return {value, size, index}; }
};

// 2^(a - b) for running maxima, where -infinity stands for "nothing seen".
inline float rescale(float a, float b) { return a == kMinusInfinity ? 0.f : std::exp2(a - b); }

class TileSoftmax {
 public:
  // Keys per step; their scores stay in the second-level cache.
  static constexpr size_t kBlock = 256;

  TileSoftmax(const Environment& environment, size_t depth, size_t size)
      : simd_(environment.simd),
        depth_(depth),
        size_(size),
        tile_(environment.allocator, depth * kTile),
        scores_(environment.allocator, kBlock * kTile),
        sums_(environment.allocator, size * kTile) {}

  float max[kTile], sum[kTile];

  // Starts with `count` queries, scaled to base-2 logits; nothing seen yet.
  void start(Rows queries, size_t count, float multiplier) {
    count_ = count;
    width_ = roundUpToLanes(count);
    simd_.loadTile(tile_.data(), width_, queries, count, depth_, multiplier);
    restart();
  }
  // The same queries, nothing seen yet.
  void restart() {
    for (size_t lane = 0; lane < width_; lane++) {
      max[lane] = kMinusInfinity;
      sum[lane] = 0;
    }
    std::memset(sums_.data(), 0, size_ * width_ * sizeof(float));
  }

  size_t width() const { return width_; }
  // [depth][width()]
  const float* tile() const { return tile_.data(); }
  // tile[d][] *= factor[d]
  void scaleDimensions(const float* factor) { simd_.scaleRows(tile_.data(), width_, depth_, width_, factor); }

  // Attends to keys index[0 .. count), or to the `count` keys from `first` on when index is null.
  void attend(const KeyValue& kv, const int32_t* index, int64_t first, size_t count) {
    attend(kv, index, first, count, depth_, [](float*, const int32_t*, int64_t, size_t) {});
  }

  // The same by the first `depth` dimensions of queries and keys. adjust(scores, list, from, n) may change the
  // scores [n][width()] of the keys list[0 .. n), or of those from `from` on, before they enter the softmax.
  template <class Adjust>
  void attend(const KeyValue& kv, const int32_t* index, int64_t first, size_t count, size_t depth,
              const Adjust& adjust) {
    for (size_t n = 0; n < count; n += kBlock) {
      step(kv, index ? index + n : nullptr, first + static_cast<int64_t>(n), std::min(kBlock, count - n), depth, 0,
           adjust);
    }
  }

  // Where lane l sees only keys up to lastKey + l; `index` ascends.
  void attendCausally(const KeyValue& kv, const int32_t* index, int64_t first, size_t count,
                      int64_t lastKey) {
    const auto keysUpTo = [&](int64_t last) {
      if (index) return static_cast<size_t>(std::upper_bound(index, index + count, last) - index);
      return static_cast<size_t>(std::clamp<int64_t>(last + 1 - first, 0, static_cast<int64_t>(count)));
    };
    size_t seen = keysUpTo(lastKey);
    attend(kv, index, first, seen);
    // The others are hidden from the first lanes, which are left out in whole vectors.
    for (size_t lane = 0; lane < width_; lane += kLanes) {
      const size_t end = keysUpTo(lastKey + static_cast<int64_t>(lane + kLanes) - 1);
      if (end == seen) continue;
      step(kv, index ? index + seen : nullptr, first + static_cast<int64_t>(seen), end - seen, depth_, lane,
           [&](float* scores, const int32_t* list, int64_t from, size_t n) {
             simd_.hideEarlierLanes(scores, lanesFrom(lane), n, list,
                                    static_cast<int32_t>((list ? 0 : from) - lastKey - static_cast<int64_t>(lane)));
           });
      seen = end;
    }
  }

  // Where lane l sees only keys [window.begin + l, window.end + l); `index` ascends.
  void attendWithin(const KeyValue& kv, const int32_t* index, int64_t first, size_t count, Span window) {
    attend(kv, index, first, count, depth_, [&](float* scores, const int32_t* list, int64_t from, size_t n) {
      hideLaterKeys(list, from, n, window.end - 1);
      const int64_t shown = window.begin + static_cast<int64_t>(width_) - 1;
      for (size_t k = 0; k < n; k++) {
        const int64_t key = list ? list[k] : from + static_cast<int64_t>(k);
        if (key >= shown) break;
        const auto lane = static_cast<size_t>(std::max<int64_t>(0, key - window.begin + 1));
        std::fill(scores + k * width_ + lane, scores + (k + 1) * width_, kMinusInfinity);
      }
    });
  }

  // For adjust: lane l sees only keys up to lastKey + l.
  void hideLaterKeys(const int32_t* list, int64_t from, size_t n, int64_t lastKey) {
    const int64_t last = list ? list[n - 1] : from + static_cast<int64_t>(n) - 1;
    if (last <= lastKey) return;
    simd_.hideEarlierLanes(scores_.data(), width_, n, list, static_cast<int32_t>((list ? 0 : from) - lastKey));
  }

  // Adds to row index[lane] (row `lane` when null): row = row * keep[lane] + sums * gain[lane].
  void merge(float* rows, const int32_t* index, const float* keep, const float* gain) {
    simd_.mergeTile(rows, size_, index, count_, sums_.data(), width_, size_, keep, gain);
  }

 private:
  Lanes lanesFrom(size_t lane) const { return {width_ - lane, width_}; }

  // The lanes from `lane` on attend to at most kBlock keys.
  template <class Adjust>
  void step(const KeyValue& kv, const int32_t* index, int64_t first, size_t count, size_t depth, size_t lane,
            const Adjust& adjust) {
    const auto part = [&](const Rows& rows) { return index ? rows : rows.from(static_cast<size_t>(first)); };
    const Lanes lanes = lanesFrom(lane);
    float *scores = scores_.data() + lane, *sums = sums_.data() + lane;
    simd_.scoreTile(scores, tile_.data() + lane, lanes, depth, part(kv.keys(index)), count);
    adjust(scores, index, first, count);
    float factor[kTile];
    if (simd_.softmaxTile(scores, lanes, count, max + lane, sum + lane, factor)) {
      simd_.scaleTile(sums, lanes, size_, factor);
    }
    const auto add = kv.guarded ? simd_.accumulateTileGuarded : simd_.accumulateTile;
    add(sums, lanes, size_, scores, part(kv.values(index)), count);
  }

  const Simd& simd_;
  const size_t depth_, size_;
  size_t count_ = 0, width_ = 0;
  Buffer<float> tile_, scores_, sums_;
};

}  // namespace onnxrewrite
