// k-means of keys and queries (operator README, steps 3 and 4) and the lists of cluster members.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "../native/environment.h"

namespace onnxrewrite::multipole {

// Assigns points to their nearest centroids, a tile of points at a time.
class Assigner {
 public:
  Assigner(const Environment& environment, size_t depth, size_t clusters)
      : simd_(environment.simd),
        depth_(depth),
        clusters_(clusters),
        scores_(environment.allocator, clusters * kTile) {}

  // `bias` is minus half the squared norm of each centroid: the nearest centroid has the largest
  // point . centroid + bias.
  void assign(const float* tile, size_t count, const float* centroids, const float* bias, int32_t* out) {
    int32_t nearest[kTile];
    simd_.scoreTile(scores_.data(), tile, kTile, depth_, Rows{centroids, depth_}, clusters_);
    simd_.argmaxTile(nearest, scores_.data(), bias, kTile, clusters_);
    std::copy_n(nearest, count, out);
  }

 private:
  const Simd& simd_;
  const size_t depth_, clusters_;
  Buffer<float> scores_;
};

struct KMeansProblem {
  Rows points;
  size_t count;
  float* centroids;     // [clusters][depth], result
  int32_t* assignment;  // [count], result: the assignment of the last iteration
};

// Many k-means problems with one cluster count, solved together. Small ones are an item of work each; large
// ones are cut in blocks whose partial sums are added in block order, so that results do not depend on
// threads.
class KMeans {
 public:
  KMeans(const Environment& environment, size_t depth, size_t clusters, int64_t iterations)
      : environment_(environment), depth_(depth), clusters_(clusters), iterations_(iterations) {}

  void add(const KMeansProblem& problem) { problems_.push_back(problem); }

  void run() {
    std::vector<const KMeansProblem*> small, large;
    for (const KMeansProblem& problem : problems_) {
      (problem.count <= kBlock ? small : large).push_back(&problem);
    }
    PerRunner<Workspace> workspaces(small.size());
    environment_.parallel.forEach(small.size(), [&](size_t item, size_t runner) {
      solveSmall(*small[item], workspaces.get(runner, environment_, depth_, clusters_));
    });
    if (!large.empty()) solveLarge(large);
  }

  // bias[c] = -|centroid c|^2 / 2
  static void biases(const Simd& simd, const float* centroids, size_t clusters, size_t depth, float* bias) {
    simd.squaredNorms(bias, Rows{centroids, depth}, clusters, depth);
    for (size_t c = 0; c < clusters; c++) bias[c] *= -0.5f;
  }

 private:
  static constexpr size_t kBlock = 1024;

  struct Workspace {
    Workspace(const Environment& environment, size_t depth, size_t clusters)
        : tiles(environment.allocator, kBlock * depth),
          bias(environment.allocator, clusters),
          sums(environment.allocator, clusters * depth),
          members(environment.allocator, clusters),
          assigner(environment, depth, clusters) {}

    Buffer<float> tiles, bias, sums;
    Buffer<int32_t> members;
    Assigner assigner;
  };

  void seed(const KMeansProblem& problem) const {
    if (problem.count == 0) {
      std::memset(problem.centroids, 0, clusters_ * depth_ * sizeof(float));
      return;
    }
    for (size_t m = 0; m < clusters_; m++) {
      std::copy_n(problem.points[m * problem.count / clusters_], depth_, problem.centroids + m * depth_);
    }
    std::fill_n(problem.assignment, problem.count, 0);
  }

  void loadTiles(const KMeansProblem& problem, size_t begin, size_t end, float* tiles) const {
    for (size_t n = begin; n < end; n += kTile, tiles += kTile * depth_) {
      environment_.simd.loadTile(tiles, kTile, problem.points.from(n), std::min(kTile, end - n), depth_, 1.f);
    }
  }

  void assignBlock(const KMeansProblem& problem, size_t begin, size_t end, const float* tiles,
                   const float* bias, Assigner& assigner) const {
    for (size_t n = begin; n < end; n += kTile, tiles += kTile * depth_) {
      assigner.assign(tiles, std::min(kTile, end - n), problem.centroids, bias, problem.assignment + n);
    }
  }

  void sumMembers(const KMeansProblem& problem, size_t begin, size_t end, float* sums,
                  int32_t* members) const {
    std::memset(sums, 0, clusters_ * depth_ * sizeof(float));
    std::memset(members, 0, clusters_ * sizeof(int32_t));
    const int32_t* assignment = problem.assignment + begin;
    environment_.simd.scatterRows(sums, problem.points.from(begin), assignment, end - begin, depth_);
    for (size_t n = 0; n < end - begin; n++) members[assignment[n]]++;
  }

  // An empty cluster keeps its centroid.
  void updateCentroids(float* centroids, const float* sums, const int32_t* members) const {
    for (size_t c = 0; c < clusters_; c++) {
      if (members[c] == 0) continue;
      const float count = static_cast<float>(members[c]);
      for (size_t d = 0; d < depth_; d++) centroids[c * depth_ + d] = sums[c * depth_ + d] / count;
    }
  }

  void solveSmall(const KMeansProblem& problem, Workspace& work) {
    seed(problem);
    if (problem.count == 0) return;
    loadTiles(problem, 0, problem.count, work.tiles.data());
    for (int64_t iteration = 0; iteration < iterations_; iteration++) {
      biases(environment_.simd, problem.centroids, clusters_, depth_, work.bias.data());
      assignBlock(problem, 0, problem.count, work.tiles.data(), work.bias.data(), work.assigner);
      sumMembers(problem, 0, problem.count, work.sums.data(), work.members.data());
      updateCentroids(problem.centroids, work.sums.data(), work.members.data());
    }
  }

  void solveLarge(const std::vector<const KMeansProblem*>& problems) {
    struct Block {
      size_t problem, begin, end;
    };
    std::vector<Block> blocks;
    std::vector<size_t> firstBlock;
    for (size_t p = 0; p < problems.size(); p++) {
      firstBlock.push_back(blocks.size());
      for (size_t n = 0; n < problems[p]->count; n += kBlock) {
        blocks.push_back({p, n, std::min(n + kBlock, problems[p]->count)});
      }
    }
    firstBlock.push_back(blocks.size());
    Allocator& allocator = environment_.allocator;
    const size_t size = clusters_ * depth_;
    Buffer<float> sums(allocator, blocks.size() * size);
    Buffer<int32_t> members(allocator, blocks.size() * clusters_);
    Buffer<float> bias(allocator, problems.size() * clusters_);
    for (size_t p = 0; p < problems.size(); p++) {
      seed(*problems[p]);
      biases(environment_.simd, problems[p]->centroids, clusters_, depth_, bias.data() + p * clusters_);
    }
    PerRunner<Workspace> workspaces(blocks.size());
    for (int64_t iteration = 0; iteration < iterations_; iteration++) {
      environment_.parallel.forEach(blocks.size(), [&](size_t item, size_t runner) {
        const Block& block = blocks[item];
        const KMeansProblem& problem = *problems[block.problem];
        Workspace& work = workspaces.get(runner, environment_, depth_, clusters_);
        loadTiles(problem, block.begin, block.end, work.tiles.data());
        assignBlock(problem, block.begin, block.end, work.tiles.data(),
                    bias.data() + block.problem * clusters_, work.assigner);
        sumMembers(problem, block.begin, block.end, sums.data() + item * size,
                   members.data() + item * clusters_);
      });
      environment_.parallel.forEach(problems.size(), [&](size_t p, size_t) {
        const size_t first = firstBlock[p];
        float* total = sums.data() + first * size;
        int32_t* count = members.data() + first * clusters_;
        for (size_t block = first + 1; block < firstBlock[p + 1]; block++) {
          environment_.simd.addScaled(total, sums.data() + block * size, size, 1.f);
          for (size_t c = 0; c < clusters_; c++) count[c] += members[block * clusters_ + c];
        }
        updateCentroids(problems[p]->centroids, total, count);
        biases(environment_.simd, problems[p]->centroids, clusters_, depth_, bias.data() + p * clusters_);
      });
    }
  }

  const Environment& environment_;
  const size_t depth_, clusters_;
  const int64_t iterations_;
  std::vector<KMeansProblem> problems_;
};

}  // namespace onnxrewrite::multipole
