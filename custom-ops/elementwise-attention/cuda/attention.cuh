// One call of ElementwiseAttention on a stream, without waiting and in memory that the caller provides.
#pragma once

#include "../../native/cuda/arena.h"
#include "exact.cuh"
#include "series.cuh"

namespace onnxrewrite::elementwise::cuda {

template <class T>
class ElementwiseAttention {
 public:
  /** `memory` has bytes() bytes; null where only these are asked for. */
  ElementwiseAttention(const Shape& shape, const Parameters& parameters, void* memory) {
    const auto size = [](size_t n) { return static_cast<int>(n); };
    g_ = {size(shape.batch), size(shape.rows), size(shape.keys), size(shape.channels), parameters.causal, parameters.order, kLeastChunk, 0, 0};
    if (parameters.order == 0) return;
    while (g_.chunk < kMostChunk && warpsFor(g_.chunk) > kWarpsWanted) g_.chunk *= 2;
    g_.chunks = ceilDiv(g_.keys, g_.chunk);
    g_.groups = ceilDiv(g_.chunks, kWarps);
    Arena arena(memory);
    const size_t state = (sumsOf(templateOrder(parameters.order)) + 1) * shape.channels, groups = shape.batch * static_cast<size_t>(g_.groups);
    if (sums()) {
      groups_ = {arena.take<float>(groups * state), g_.channels};
      if (g_.causal) chunks_ = {arena.take<float>(groups * kWarps * state), g_.channels};
    }
    bytes_ = arena.used();
  }

  size_t bytes() const { return bytes_; }

  cudaError_t run(const SeriesTensors<T>& tensors, cudaStream_t stream) const {
    switch (templateOrder(g_.order)) {
      case 0:
        return runExact(tensors, stream);
      case 2:
        return runSeries<2>(tensors, stream);
      case 4:
        return runSeries<4>(tensors, stream);
      case 6:
        return runSeries<6>(tensors, stream);
      case 8:
        return runSeries<8>(tensors, stream);
      default:
        return runSeries<kMostOrder>(tensors, stream);
    }
  }

 private:
  /**
   * Chunks are as long as leaves this many warps, some 16 to a multiprocessor of a large chip. That is no property
   * of the chip at hand, so that all give the same bits.
   */
  static constexpr long long kWarpsWanted = 4096;
  static constexpr int kLeastChunk = 32, kMostChunk = 4096;

  /** The order that kernels are compiled for: its own up to 8, then the largest. */
  static int templateOrder(int order) { return order <= 8 ? order : kMostOrder; }

  int channelBlocks() const { return ceilDiv(g_.channels, kBlockChannels); }
  long long warpsFor(int chunk) const {
    return static_cast<long long>(g_.batch) * channelBlocks() * ceilDiv(max(g_.keys, g_.rows), chunk);
  }
  /** Whether there is more to know of keys than what their own chunk tells. */
  bool sums() const { return g_.causal ? g_.chunks > 1 : g_.chunks > 0; }

  cudaError_t runExact(const SeriesTensors<T>& in, cudaStream_t stream) const {
    const dim3 grid(ceilDiv(g_.channels, 32), ceilDiv(g_.rows, kExactRows), g_.batch);
    return launch(attendExact<T>, grid, kExactWarps * 32, 0, stream,
                  ExactGeometry{g_.batch, g_.rows, g_.keys, g_.channels, g_.causal}, in.query, in.key, in.value, in.visible,
                  in.output);
  }

  template <int Order>
  cudaError_t runSeries(const SeriesTensors<T>& tensors, cudaStream_t stream) const {
    constexpr int kThreads = kWarps * 32;
    constexpr size_t kShared = SharedStates<Order>::kBytes;
    if (sums()) {
      const dim3 grid(channelBlocks(), g_.groups, g_.batch);
      CUDA_TRY(launch(sumGroups<T, Order>, grid, kThreads, kShared, stream, g_, tensors, groups_, chunks_));
    }
    // At least one block a batch row, for the state after.
    const dim3 grid(channelBlocks(), max(1, ceilDiv(ceilDiv(g_.rows, g_.chunk), kWarps)), g_.batch);
    const auto attend = g_.causal ? attendGroups<T, Order, true> : attendGroups<T, Order, false>;
    return launch(attend, grid, kThreads, kShared, stream, g_, tensors, groups_, chunks_);
  }

  SeriesGeometry g_;
  States groups_{}, chunks_{};
  size_t bytes_ = 0;
};

}  // namespace onnxrewrite::elementwise::cuda
