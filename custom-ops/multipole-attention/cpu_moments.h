// Second moments of key clusters under their tilted distribution, as orders 1 and 2 need them (operator
// README, steps 6 and 9). They cost as much as exact attention: nothing is stored, every tile of rows goes
// through the members of its clusters again.
#pragma once

#include "cpu_summaries.h"

namespace onnxrewrite::multipole {

// A tile of rows of one query cluster i and the members n of one key cluster j at a time. Logits are in base 2.
class Moments {
 public:
  Moments(const Environment& environment, size_t depth, size_t size)
      : environment_(environment),
        depth_(depth),
        size_(size),
        residuals_(environment.allocator, kTile * depth),
        tile_(environment.allocator, kTile * depth),
        centroid_(environment.allocator, kLanes * depth),
        sums_(environment.allocator, kTile * size) {}

  // `queries` are scaled rows [count][depth], `negated` minus the scaled centroid.
  void start(const float* queries, size_t count, const float* negated) {
    count_ = count;
    width_ = roundUpToLanes(count);
    for (size_t n = 0; n < count; n++) {
      for (size_t d = 0; d < depth_; d++) residuals_[n * depth_ + d] = queries[n * depth_ + d] + negated[d];
    }
    environment_.simd.loadTile(tile_.data(), width_, Rows{residuals_.data(), depth_}, count, depth_, 1.f);
    environment_.simd.loadTile(centroid_.data(), kLanes, Rows{negated, depth_}, 1, depth_, -1.f);
    std::memset(sums_.data(), 0, size_ * width_ * sizeof(float));
  }

  // Leaves residual . (k_n - k_ij) of every row for the members of a cluster, and their tilted weights.
  void load(const KeyValue& kv, const int32_t* members, size_t count, float logWeight) {
    members_ = members;
    memberCount_ = count;
    float* spread = spread_.reset(environment_.allocator, count * width_);
    float* tilt = tilt_.reset(environment_.allocator, count * kLanes);
    environment_.simd.scoreTile(spread, tile_.data(), width_, depth_, kv.keys(members), count);
    environment_.simd.scoreTile(tilt, centroid_.data(), kLanes, depth_, kv.keys(members), count);
    for (size_t n = 0; n < count; n++) tilt[n * kLanes] = std::exp2(tilt[n * kLanes] - logWeight);
    for (size_t lane = 0; lane < width_; lane++) {
      float mean = 0;
      for (size_t n = 0; n < count; n++) mean += tilt[n * kLanes] * spread[n * width_ + lane];
      for (size_t n = 0; n < count; n++) spread[n * width_ + lane] -= mean;
    }
  }

  // Half the variance of a row's logits over the cluster, in base 2: what order 2 adds to its estimate.
  float halfVariance(size_t lane) const {
    float variance = 0;
    for (size_t n = 0; n < memberCount_; n++) {
      variance += tilt_[n * kLanes] * spread_[n * width_ + lane] * spread_[n * width_ + lane];
    }
    return variance / 2 * kLn2;
  }

  // Adds weight(lane) * s Cov_ij(v,k) (q - c_i) for every row.
  template <class Weight>
  void addDipoles(const KeyValue& kv, const Weight& weight) {
    for (size_t lane = 0; lane < count_; lane++) {
      const float factor = weight(lane) * kLn2;
      for (size_t n = 0; n < memberCount_; n++) {
        float& spread = spread_[n * width_ + lane];
        spread = factor == 0 ? 0 : spread * factor * tilt_[n * kLanes];
      }
    }
    const auto add = kv.guarded ? environment_.simd.accumulateTileGuarded : environment_.simd.accumulateTile;
    add(sums_.data(), width_, size_, spread_.data(), kv.values(members_), memberCount_);
  }

  // Adds what has come together since start() to rows [count][size].
  void mergeInto(float* rows) const {
    const std::vector<float> ones(kTile, 1.f);
    environment_.simd.mergeTile(rows, size_, nullptr, count_, sums_.data(), width_, size_, ones.data(), ones.data());
  }

 private:
  const Environment& environment_;
  const size_t depth_, size_;
  size_t count_ = 0, width_ = 0, memberCount_ = 0;
  const int32_t* members_ = nullptr;
  Buffer<float> residuals_, tile_, centroid_, sums_, spread_, tilt_;
};

}  // namespace onnxrewrite::multipole
