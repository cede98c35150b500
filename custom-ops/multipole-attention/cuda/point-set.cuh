// The points that one k-means works on, and how they are cut into problems (independent clusterings) and chunks
// (the rows one thread block handles).
#pragma once

#include "geometry.cuh"

namespace onnxrewrite::multipole::cuda {

/** Label of a point outside every cluster. */
constexpr uint16_t kNoLabel = 0xffff;
/** `members` are the rows that a problem labels, `sources` those that its centroids are means of. */
enum class Part { members, sources };

/** Rows per chunk of members. */
constexpr int kMemberChunk = 1024;

struct PointSet {
  enum class Kind { keySegments, queryBlocks };
  Geometry g;
  Kind kind;
  /** [batch, rows], zero = takes no part; null = all do. */
  const bool* visible;

  __host__ __device__ bool ofKeys() const { return kind == Kind::keySegments; }
  __host__ __device__ int heads() const { return g.batch * (ofKeys() ? g.kvHeads : g.heads); }
  __host__ __device__ int rows() const { return ofKeys() ? g.keys : g.rows; }
  __host__ __device__ int clusters() const { return ofKeys() ? g.keyClusters : g.queryClusters; }
  __host__ __device__ int problems() const { return ofKeys() ? g.segments : g.blocks; }

  __host__ __device__ Range range(int problem, Part part) const {
    if (!ofKeys()) return part == Part::members ? g.blockRows(problem) : g.centroidRows(problem);
    long long begin = static_cast<long long>(problem) * g.segment;
    return {clamped(begin, 0, g.keys), clamped(begin + g.segment, 0, g.keys)};
  }
  /** Whether sources and members are the same rows, so that the last assignment labels them. */
  __host__ __device__ bool selfLabeled() const { return ofKeys() || !g.causal; }

  /** Where a row of a problem keeps its label among those of its head, and how many there are. */
  __host__ __device__ int slot(int problem, Part part, int row) const {
    if (part == Part::members || ofKeys()) return row;
    int before = 0;
    for (int p = 0; p < problem; p++) before += range(p, part).size();
    return before + row - range(problem, part).begin;
  }
  __host__ __device__ int slots(Part part) const {
    if (part == Part::members || ofKeys()) return rows();
    return slot(problems(), part, range(problems(), part).begin);
  }

  /**
   * Rows per chunk, a multiple of the rows that the warps of a block take at a time. Short chunks of sources fill the last
   * wave of blocks, but each leaves a sum per cluster.
   */
  __host__ __device__ int chunkRows(Part part) const {
    return part == Part::members ? kMemberChunk : clamped(ceilDiv(clusters(), 16) * 256, 256, 1024);
  }
  __host__ __device__ int chunksOf(int problem, Part part) const { return ceilDiv(range(problem, part).size(), chunkRows(part)); }
  __host__ __device__ int chunksBefore(int problem, Part part) const {
    if (ofKeys()) return problem * chunksOf(0, part);
    int count = 0;
    for (int p = 0; p < problem; p++) count += chunksOf(p, part);
    return count;
  }
  __host__ __device__ int chunks(Part part) const { return chunksBefore(problems(), part); }
  /** Rows of a chunk, and its problem. */
  __device__ Range chunk(int index, Part part, int& problem) const {
    problem = 0;
    if (ofKeys()) {
      problem = index / chunksOf(0, part);
      index -= problem * chunksOf(0, part);
    } else {
      for (int n; index >= (n = chunksOf(problem, part)); problem++) index -= n;
    }
    Range all = range(problem, part);
    return {all.begin + index * chunkRows(part), min(all.begin + (index + 1) * chunkRows(part), all.end)};
  }

  __device__ bool takesPart(int head, int row) const {
    return !visible || visible[static_cast<size_t>(head / (heads() / g.batch)) * rows() + row];
  }
};

/** k-means state of a point set: centroids by [head, problem, cluster, dim]. */
template <class T>
struct Centroids {
  float* mean;
  /** The same rounded to the type of the points: what distances and stage 1 use on tensor cores. */
  T* rounded;
  /** Half the squared length of `rounded`. */
  float* halfNorm;
};

}  // namespace onnxrewrite::multipole::cuda
