// One call of LocalAttention on a stream, without waiting and without memory of its own.
#pragma once

#include <cmath>
#include <type_traits>

#include "plain.cuh"
#include "tiles.cuh"

namespace onnxrewrite::local::cuda {

/** Positions and distances beyond any sequence are cut to this. */
constexpr int64_t kMostPosition = int64_t{1} << 30;

inline Geometry geometryOf(const Shape& shape, const Parameters& parameters) {
  const auto size = [](size_t n) { return static_cast<int>(n); };
  const auto reach = [](std::optional<int64_t> limit) {
    return static_cast<int>(limit && *limit < kMostPosition ? *limit : kMostPosition);
  };
  const float scale = parameters.scale.value_or(1.f / std::sqrt(static_cast<float>(shape.headDim)));
  const int64_t offset = parameters.offset.value_or(static_cast<int64_t>(shape.keys) - static_cast<int64_t>(shape.queries));
  return {size(shape.batch),    size(shape.heads),      size(shape.kvHeads),     1,
          size(shape.queries),  size(shape.keys),       size(shape.headDim),     size(shape.valueDim),
          reach(parameters.left), reach(parameters.right), static_cast<int>(offset), scale * kLog2E};
}

template <class T>
class LocalAttention {
 public:
  explicit LocalAttention(const Geometry& geometry, bool hopper = hasHopper()) : g_(geometry), hopper_(hopper) {}

  cudaError_t run(const Tensors<T>& tensors, cudaStream_t stream) const {
    constexpr int kPiece = 16 / sizeof(T);
    if (g_.headDim % kPiece == 0 && g_.valueDim % kPiece == 0) {
      if (fits(64, 64)) {
        if constexpr (kSingle<T>) return runTiles<MmaEngine<T, 64, 1>>(tensors, {}, stream);
        else return hopper_ ? runOnHopper(tensors, stream) : runTiles<MmaEngine<T, 64, 2>>(tensors, {}, stream);
      }
      if (fits(128, 128) && hasMemory<MmaEngine<T, 128, 1>>()) return runTiles<MmaEngine<T, 128, 1>>(tensors, {}, stream);
      if constexpr (!kSingle<T>)
        if (fits(256, 128) && hasMemory<WideEngine<128>>())
          return fits(256, 64) ? runTiles<WideEngine<64>>(tensors, {}, stream) : runTiles<WideEngine<128>>(tensors, {}, stream);
    }
    // Queries of wide heads leave less memory for values.
    return g_.valueDim <= 64 || g_.headDim > 256 ? runPlain<2>(tensors, stream) : runPlain<4>(tensors, stream);
  }

 private:
  /** One block of eight warps to a multiprocessor: its queries fill the registers. */
  template <int ValueDim>
  using WideEngine = MmaEngine<T, 256, 1, ValueDim, 8>;

  int tilesOf(int rows) const { return ceilDiv(g_.queries, rows); }
  bool fits(int headDim, int valueDim) const { return g_.headDim <= headDim && g_.valueDim <= valueDim; }
  /** Whether the chip has the shared memory. */
  template <class Engine>
  static bool hasMemory() {
    return sizeof(TileShared<Engine>) <= mostSharedBytes();
  }

  cudaError_t runOnHopper(const Tensors<T>& tensors, cudaStream_t stream) const {
    constexpr bool kBfloat16 = std::is_same_v<T, __nv_bfloat16>;
    KeyMaps maps{};
    if (g_.keys > 0) {
      const int parts = g_.batch * g_.kvHeads;
      CUDA_TRY(encodeTensorMap(maps.key, tensors.key, kBfloat16, g_.headDim, g_.keys, parts));
      CUDA_TRY(encodeTensorMap(maps.value, tensors.value, kBfloat16, g_.valueDim, g_.keys, parts));
    }
    return runTiles<WarpgroupEngine<T, 2>>(tensors, maps, stream);
  }

  template <class Engine>
  cudaError_t runTiles(const Tensors<T>& tensors, const KeyMaps& maps, cudaStream_t stream) const {
    return launch(attendTiles<Engine>, dim3(tilesOf(Engine::kRows), g_.batch * g_.heads), Engine::kThreads,
                  sizeof(TileShared<Engine>), stream, g_, tensors, maps);
  }

  template <int ValuesPerLane>
  cudaError_t runPlain(const Tensors<T>& tensors, cudaStream_t stream) const {
    const dim3 grid(tilesOf(kPlainRows), g_.batch * g_.heads, ceilDiv(g_.valueDim, ValuesPerLane * 32));
    return launch(attendPlain<T, ValuesPerLane>, grid, kPlainWarps * 32, plainSharedBytes<ValuesPerLane>(g_), stream, g_, tensors);
  }

  const Geometry g_;
  const bool hopper_;
};

}  // namespace onnxrewrite::local::cuda
