// Stage 1 (operator README, step 5): what each query cluster keeps of each key cluster.
#pragma once

#include <cmath>
#include <numeric>

#include "../native/tile_softmax.h"
#include "cpu_clustering.h"
#include "geometry.h"

namespace onnxrewrite::multipole {

// Members of every key cluster of one batch row and key head.
class KeyMembers {
 public:
  KeyMembers(Allocator& allocator, const Geometry& geometry)
      : members_(allocator, std::max<size_t>(1, geometry.levels().size() * static_cast<size_t>(geometry.keys))),
        spans_(static_cast<size_t>(geometry.clusters()), Span{0, 0}) {}

  // Sorts the visible keys of a unit by cluster, in order within each. `visible` holds `count` key numbers
  // (null: all from the unit's first on), `assignment` their clusters.
  void sort(const Geometry& geometry, int64_t unit, const int32_t* visible, size_t count,
            const int32_t* assignment) {
    const int64_t first = geometry.keysOf(unit).begin;
    const int64_t start = static_cast<int64_t>(geometry.levelOf(unit)) * geometry.keys + first;
    Span* spans = spans_.data() + unit * geometry.keyClusters;
    for (int64_t j = 0; j < geometry.keyClusters; j++) spans[j] = {0, 0};
    for (size_t n = 0; n < count; n++) spans[assignment[n]].end++;
    int64_t at = start;
    for (int64_t j = 0; j < geometry.keyClusters; j++) {
      const int64_t size = spans[j].end;
      spans[j] = {at, at};
      at += size;
    }
    for (size_t n = 0; n < count; n++) {
      members_[static_cast<size_t>(spans[assignment[n]].end++)] =
          visible ? visible[n] : static_cast<int32_t>(first + static_cast<int64_t>(n));
    }
  }

  const int32_t* membersOf(int64_t cluster) const {
    return members_.data() + spans_[static_cast<size_t>(cluster)].begin;
  }
  size_t sizeOf(int64_t cluster) const {
    const Span& span = spans_[static_cast<size_t>(cluster)];
    return static_cast<size_t>(span.end - span.begin);
  }

 private:
  Buffer<int32_t> members_;
  std::vector<Span> spans_;
};

// Summaries of one query head for one block of query centroids. Clusters stand in panels of kLanes; those
// without members, or that no row uses, have logit -infinity and zero vectors.
class Summaries {
 public:
  // `spreads`: whether spread() is wanted.
  Summaries(Allocator& allocator, size_t queryClusters, size_t clusters, size_t depth, size_t size, bool spreads)
      : panels((clusters + kLanes - 1) / kLanes),
        queryClusters_(queryClusters),
        depth_(depth),
        size_(size),
        width_(roundUpToLanes(queryClusters)),
        centroids_(allocator, width_ * depth),
        negated_(allocator, queryClusters * depth),
        logWeight_(allocator, queryClusters * panels * kLanes),
        bias_(allocator, queryClusters * panels * kLanes),
        keys_(allocator, queryClusters * panels * kLanes * depth),
        values_(allocator, queryClusters * panels * kLanes * size),
        spread_(allocator, spreads ? queryClusters * panels * kLanes : 0),
        metric_(spreads ? depth : 0) {}

  const size_t panels;

  // w_ij and w_ij - scale c_i.k_ij, in base 2, from cluster panel * kLanes on.
  const float* logWeight(size_t i, size_t panel) const {
    return logWeight_.data() + (i * panels + panel) * kLanes;
  }
  const float* bias(size_t i, size_t panel) const { return bias_.data() + (i * panels + panel) * kLanes; }
  // k_ij of a panel, [depth][kLanes].
  const float* keys(size_t i, size_t panel) const {
    return keys_.data() + (i * panels + panel) * kLanes * depth_;
  }
  // v_ij of a panel, [kLanes][size].
  const float* values(size_t i, size_t panel) const {
    return values_.data() + (i * panels + panel) * kLanes * size_;
  }

  // u_ij of a panel, 0 for clusters without members.
  const float* spread(size_t i, size_t panel) const { return spread_.data() + (i * panels + panel) * kLanes; }

  // Minus the scaled centroid.
  const float* negatedCentroid(size_t i) const { return negated_.data() + i * depth_; }

  // Takes the centroids [queryClusters][depth]; to be called before compute().
  void setCentroids(const Simd& simd, const float* centroids, float multiplier) {
    const Rows rows{centroids, depth_};
    simd.loadTile(centroids_.data(), width_, rows, queryClusters_, depth_, multiplier);
    for (size_t n = 0; n < queryClusters_ * depth_; n++) negated_[n] = -multiplier * centroids[n];
  }

  // Takes the queries that made the centroids, whose squares weigh the dimensions of spread(); to be called before
  // compute() where spreads are wanted.
  void setMetric(const Rows& queries, size_t count, size_t headDim) {
    std::vector<float> squares(depth_);
    for (size_t n = 0; n < count; n++) {
      const float* query = queries[n];
      for (size_t d = 0; d < depth_; d++) squares[d] += query[d] * query[d];
    }
    const float total = std::accumulate(squares.begin(), squares.end(), 0.f);
    for (size_t d = 0; d < depth_; d++) {
      metric_[d] = std::sqrt(total > 0 ? squares[d] / total : 1.f / static_cast<float>(headDim));
    }
  }

  class Workspace {
   public:
    Workspace(const Environment& environment, const Summaries& shape)
        : keyStride(kLanes * shape.depth_ + kLanes),
          valueStride(kLanes * shape.size_ + kLanes),
          scores(environment.allocator, TileSoftmax::kBlock * shape.width_),
          keys(environment.allocator, shape.queryClusters_ * keyStride),
          values(environment.allocator, shape.queryClusters_ * valueStride),
          max(environment.allocator, shape.width_),
          sum(environment.allocator, shape.width_),
          factor(environment.allocator, shape.width_),
          mean(environment.allocator, shape.depth_),
          scaled(environment.allocator, distances(shape) * shape.depth_),
          squares(environment.allocator, distances(shape)),
          spread(environment.allocator, shape.width_) {}

   private:
    friend class Summaries;
    // Most squared distances computed together.
    static size_t distances(const Summaries& shape) { return std::max(TileSoftmax::kBlock, shape.queryClusters_); }

    // One panel: keys [queryClusters][kLanes][depth] and values alike. The distance between query clusters is
    // no power of two, which would put them all in the same few sets of the caches.
    const size_t keyStride, valueStride;
    Buffer<float> scores, keys, values, max, sum, factor;
    // For spreads, which one head of those that share this may want and another not.
    Buffer<float> mean, scaled, squares, spread;
  };

  // Computes one panel; `used` tells for each of its clusters whether any row wants it.
  void compute(const Simd& simd, size_t panel, const KeyMembers& members, const KeyValue& kv,
               const std::vector<bool>& used, Workspace& work) {
    for (size_t lane = 0; lane < kLanes; lane++) {
      const size_t cluster = panel * kLanes + lane;
      const bool wanted = cluster < used.size() && used[cluster];
      const int32_t* list = wanted ? members.membersOf(static_cast<int64_t>(cluster)) : nullptr;
      const size_t count = wanted ? members.sizeOf(static_cast<int64_t>(cluster)) : 0;
      summarize(simd, panel, lane, list, count, kv, work);
    }
    for (size_t i = 0; i < queryClusters_; i++) {
      const size_t at = (i * panels + panel) * kLanes;
      float* packed = keys_.data() + at * depth_;
      simd.loadTile(packed, kLanes, Rows{work.keys.data() + i * work.keyStride, depth_}, kLanes, depth_, 1.f);
      std::copy_n(work.values.data() + i * work.valueStride, kLanes * size_, values_.data() + at * size_);
      simd.scoreRows(bias_.data() + at, kLanes, negated_.data() + i * depth_, depth_, 1, packed, 1, depth_,
                     logWeight_.data() + at);
    }
  }

 private:
  void summarize(const Simd& simd, size_t panel, size_t lane, const int32_t* list, size_t count,
                 const KeyValue& kv, Workspace& work) {
    float* keys = work.keys.data() + lane * depth_;
    float* values = work.values.data() + lane * size_;
    for (size_t i = 0; i < queryClusters_; i++) {
      std::memset(keys + i * work.keyStride, 0, depth_ * sizeof(float));
      std::memset(values + i * work.valueStride, 0, size_ * sizeof(float));
    }
    float *max = work.max.data(), *sum = work.sum.data(), *factor = work.factor.data();
    for (size_t i = 0; i < width_; i++) {
      max[i] = kMinusInfinity;
      sum[i] = 0;
    }
    const bool spreads = !metric_.empty();
    if (spreads) startSpread(list, count, kv, work);
    for (size_t n = 0; n < count; n += TileSoftmax::kBlock) {
      const size_t block = std::min(TileSoftmax::kBlock, count - n);
      float* scores = work.scores.data();
      simd.scoreTile(scores, centroids_.data(), width_, depth_, kv.keys(list + n), block);
      if (simd.softmaxTile(scores, width_, block, max, sum, factor) && n > 0) {
        simd.scaleRows(keys, work.keyStride, queryClusters_, depth_, factor);
        simd.scaleRows(values, work.valueStride, queryClusters_, size_, factor);
        for (size_t i = 0; spreads && i < width_; i++) work.spread.data()[i] *= factor[i];
      }
      simd.accumulateRows(keys, work.keyStride, queryClusters_, depth_, scores, 1, width_, kv.keys(list + n),
                          block);
      simd.accumulateRows(values, work.valueStride, queryClusters_, size_, scores, 1, width_,
                          kv.values(list + n), block);
      if (spreads) addSpread(simd, kv.keys(list + n), block, work);
    }
    for (size_t i = 0; i < queryClusters_; i++) {
      logWeight_[(i * panels + panel) * kLanes + lane] = count == 0 ? kMinusInfinity : max[i] + std::log2(sum[i]);
      factor[i] = count == 0 ? 0.f : 1.f / sum[i];
    }
    simd.scaleRows(keys, work.keyStride, queryClusters_, depth_, factor);
    simd.scaleRows(values, work.valueStride, queryClusters_, size_, factor);
    if (!spreads) return;
    const float* means = squaredDistances(simd, Rows{keys, work.keyStride}, queryClusters_, work);
    for (size_t i = 0; i < queryClusters_; i++) {
      const float spread = count == 0 ? 0.f : std::max(0.f, work.spread.data()[i] * factor[i] - means[i]);
      spread_[(i * panels + panel) * kLanes + lane] = spread;
    }
  }

  // Spreads are measured from the plain mean of the members: from the origin they would be small differences of
  // large sums.
  void startSpread(const int32_t* list, size_t count, const KeyValue& kv, Workspace& work) const {
    float* mean = work.mean.data();
    std::fill_n(mean, depth_, 0.f);
    std::fill_n(work.spread.data(), width_, 0.f);
    const Rows keys = kv.keys(list);
    for (size_t n = 0; n < count; n++) {
      for (size_t d = 0; d < depth_; d++) mean[d] += keys[n][d];
    }
    for (size_t d = 0; d < depth_; d++) mean[d] /= static_cast<float>(std::max<size_t>(1, count));
  }

  // spread[i] += sum over the keys of score[n][i] |key - mean|_g^2
  void addSpread(const Simd& simd, const Rows& keys, size_t count, Workspace& work) const {
    const float* squares = squaredDistances(simd, keys, count, work);
    for (size_t n = 0; n < count; n++) {
      simd.addScaled(work.spread.data(), work.scores.data() + n * width_, width_, squares[n]);
    }
  }

  // |row - mean|_g^2
  const float* squaredDistances(const Simd& simd, const Rows& rows, size_t count, Workspace& work) const {
    const float* mean = work.mean.data();
    float* scaled = work.scaled.data();
    for (size_t n = 0; n < count; n++) {
      const float* row = rows[n];
      for (size_t d = 0; d < depth_; d++) scaled[n * depth_ + d] = (row[d] - mean[d]) * metric_[d];
    }
    simd.squaredNorms(work.squares.data(), Rows{scaled, depth_}, count, depth_);
    return work.squares.data();
  }

  const size_t queryClusters_, depth_, size_, width_;
  Buffer<float> centroids_;  // [depth][width], scaled to base-2 logits
  Buffer<float> negated_;    // [queryClusters][depth], minus the scaled centroids
  Buffer<float> logWeight_, bias_, keys_, values_, spread_;
  std::vector<float> metric_;  // square roots of the shares g of dimensions; empty where spreads are not wanted
};

}  // namespace onnxrewrite::multipole
