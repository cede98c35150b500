// Attention over tiles on tensor cores: a tile of rows meets the keys that any of its rows sees.
#pragma once

#include "../../native/cuda/engines.cuh"
#include "../../native/cuda/key-by-key.cuh"
#include "../../native/cuda/range-logit.cuh"
#include "geometry.cuh"

namespace onnxrewrite::local::cuda {

/** Keys and values for the copy engine: [B*G, S, dim]. */
struct KeyMaps {
  TensorMap key, value;
};

template <class Engine>
struct TileShared {
  typename Engine::Shared engine;
  /** What each row of the block sees. */
  Range seen[Engine::kRows];
};

/** Block (tile of rows, head). */
template <class Engine>
__global__ void __launch_bounds__(Engine::kThreads, Engine::kBlocksPerMultiprocessor)
    attendTiles(const __grid_constant__ Geometry g, Tensors<typename Engine::T> tensors, const __grid_constant__ KeyMaps maps) {
  if constexpr (Engine::kCompiled) {
    using T = typename Engine::T;
    const int head = blockIdx.y, thread = threadIdx.x;
    auto& shared = *reinterpret_cast<TileShared<Engine>*>(dynamicShared());
    Engine engine(dynamicShared());
    // Late tiles see most keys where only the right side has a limit: they come first.
    const int firstRow = static_cast<int>(gridDim.x - 1 - blockIdx.x) * Engine::kRows;
    const Range rows{firstRow, min(firstRow + Engine::kRows, g.queries)};
    const auto rowAt = [&](int local) {
      const int row = firstRow + thread / 32 * Engine::kWarpRows + local;
      return row < rows.end ? row : -1;
    };
    const T* const queries = tensors.query + g.firstQuery(head) * g.headDim;
    loadRows(engine.queryRows(), Engine::kWarpRows, queries, g.headDim, thread % 32, 32, rowAt);
    commitCopies();
    if (thread < Engine::kRows) shared.seen[thread] = thread < rows.size() ? g.keysOf(firstRow + thread) : Range{0, 0};
    __syncthreads();

    const Range least = shared.seen[0], most = shared.seen[rows.size() - 1], seen{least.begin, most.end};
    const int kvHead = g.kvHeadOf(head);
    const T* const keys = tensors.key + static_cast<size_t>(kvHead) * g.keys * g.headDim;
    const T* const values = tensors.value + static_cast<size_t>(kvHead) * g.keys * g.valueDim;
    const Columns<T> columns{rowOf(keys, seen.begin, g.headDim),
                             rowOf(values, seen.begin, g.valueDim),
                             g.headDim,
                             g.valueDim,
                             nullptr,
                             seen.size(),
                             &maps.key,
                             &maps.value,
                             seen.begin,
                             kvHead};
    const int tiles = ceilDiv(seen.size(), kColumns);
    engine.start(columns, tiles);

    const int groupRow = firstRow + thread / Engine::kGroupThreads * Engine::kGroupRows;
    const Range groupRows{groupRow, min(groupRow + Engine::kGroupRows, rows.end)};
    const int own = groupRows.size() > 0 ? ceilDiv(Range{seen.begin, g.keysOf(groupRows).end}.size(), kColumns) : 0;
    const bool* const mask = tensors.mask ? tensors.mask + static_cast<size_t>(head / g.heads) * g.keys : nullptr;
    RangeLogit<Engine> logit{g.scale, mask, seen.begin, Range{most.begin, least.end}, seen.end, {}, {}, false};
    Engine::Rows::eachRow([&](int m, int half) {
      logit.seen[m][half] = shared.seen[thread / 32 * Engine::kWarpRows + warpRow(m, half)];
    });
    typename Engine::Rows softmax;
    softmax.begin();
    engine.template run<false>(softmax, columns, tiles, own, logit, [] { commitCopies(); });

    softmax.finishTotals();
    softmax.store(engine.meanRows());
    T* const output = tensors.output + static_cast<size_t>(head) * g.queries * g.valueDim;
    if (__any_sync(kWholeWarp, !softmax.finite())) {
      for (int local = 0; local < Engine::kWarpRows; local++) {
        const int row = rowAt(local);
        if (row < 0) break;
        const T* const query = rowOf(queries, row, g.headDim);
        attendKeyByKey(g.keysOf(row), values, g.valueDim, rowOf(output, row, g.valueDim), [&](int key) {
          if (mask && !mask[key]) return -INFINITY;
          const T* const numbers = rowOf(keys, key, g.headDim);
          float product = 0;
          for (int d = 0; d < g.headDim; d++) product += static_cast<float>(query[d]) * static_cast<float>(numbers[d]);
          return product * g.scale;
        });
      }
    } else {
      storeRows(engine.meanRows(), Engine::kWarpRows, output, g.valueDim, rowAt);
    }
    if (tensors.lse && thread % 4 == 0)
      softmax.eachRow([&](int m, int half) {
        const int row = rowAt(warpRow(m, half));
        if (row >= 0) tensors.lse[static_cast<size_t>(head) * g.queries + row] = static_cast<T>(softmax.lse(m, half) * kLn2);
      });
  }
}

}  // namespace onnxrewrite::local::cuda
