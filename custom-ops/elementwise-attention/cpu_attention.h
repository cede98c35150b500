// The algorithm of ElementwiseAttention on the CPU: a scan over chunks of rows. For every batch row and block of
// channels
//   1. each chunk sums its own keys,
//   2. the sums are joined from chunk to chunk, so that each chunk knows what is before it,
//   3. each chunk gives its outputs; under causality it adds its keys again, row by row.
// Steps 1 and 3 run in parallel over everything, step 2 over batch rows and blocks. Where there are blocks enough
// for all threads the whole sequence is one chunk, and causal rows need step 3 only.
#pragma once

#include <algorithm>
#include <thread>

#include "../native/environment.h"
#include "vectors.h"

namespace onnxrewrite::elementwise {

// Rows [batch][rows or keys][channels, padded to kLanes].
struct Operands {
  const float* query;
  const float* key;
  const float* value;
  const bool* visible;  // [batch][keys], or null
  float* output;
};

// The sums before and after, in the layout of the operator; null where the node connects none.
struct States {
  const float* pastSums;    // [batch][2(order+1)][channels]
  const float* pastOffset;  // [batch][channels]
  float* presentSums;
  float* presentOffset;
};

class Attention {
 public:
  Attention(const Environment& environment, const Shape& shape, const Operands& operands)
      : environment_(environment),
        shape_(shape),
        operands_(operands),
        stride_(roundUpToLanes(shape.channels)),
        blocks_((stride_ + kBlock - 1) / kBlock) {}

  // The exponential itself, every row by every key.
  void runExact(bool causal) const {
    const size_t tiles = (shape_.rows + kExactRows - 1) / kExactRows;
    environment_.parallel.forEach(shape_.batch * blocks_ * tiles, [&](size_t item, size_t) {
      const size_t tile = item % tiles, part = item / tiles;
      const size_t first = tile * kExactRows;
      const Tile queries = rows(part, first, std::min(kExactRows, shape_.rows - first), shape_.rows);
      kernels().exact(queries, lanes(part), rows(part, 0, shape_.keys, shape_.keys), causal, first);
    });
  }

  // Its Taylor polynomial of an even order.
  void runSeries(int order, bool causal, const States& states) const {
    const size_t parts = shape_.batch * blocks_;
    const size_t most = std::max<size_t>(1, std::max(shape_.keys, shape_.rows) / kLeastChunk);
    const size_t chunks = std::clamp<size_t>(parts == 0 ? 1 : pieces() / parts, 1, most);
    const size_t stateSize = stateRows(order) * std::min(kBlock, stride_);
    Buffer<float> memory(environment_.allocator, std::max<size_t>(1, (chunks + 1) * parts * stateSize));
    // The sums before chunk n, and after the last.
    const auto state = [&](size_t chunk, size_t part) { return memory.data() + (chunk * parts + part) * stateSize; };
    const auto cut = [&](size_t chunk, size_t length) { return length * chunk / chunks; };

    environment_.parallel.forEach(parts, [&](size_t part, size_t) { begin(state(0, part), part, order, states); });
    const size_t summed = causal ? chunks - 1 : chunks;
    environment_.parallel.forEach(summed * parts, [&](size_t item, size_t) {
      const size_t chunk = item / parts, part = item % parts;
      clear(state(chunk + 1, part), part, order);
      inTiles(part, cut(chunk, shape_.keys), cut(chunk + 1, shape_.keys), [&](size_t first, size_t count) {
        kernels().absorb(state(chunk + 1, part), lanes(part), order, rows(part, first, count, shape_.keys));
      });
    });
    environment_.parallel.forEach(summed == 0 ? 0 : parts, [&](size_t part, size_t) {
      for (size_t chunk = 0; chunk < summed; chunk++) {
        kernels().join(state(chunk + 1, part), lanes(part), order, state(chunk, part));
      }
    });
    environment_.parallel.forEach(chunks * parts, [&](size_t item, size_t) {
      const size_t chunk = item / parts, part = item % parts;
      float* sums = state(causal ? chunk : chunks, part);
      inTiles(part, cut(chunk, shape_.rows), cut(chunk + 1, shape_.rows), [&](size_t first, size_t count) {
        const Tile tile = rows(part, first, count, shape_.rows);
        (causal ? kernels().attend : kernels().means)(sums, lanes(part), order, tile);
      });
    });
    const size_t last = causal ? chunks - 1 : chunks;
    environment_.parallel.forEach(parts, [&](size_t part, size_t) { end(state(last, part), part, order, states); });
  }

 private:
  // Most channels that one thread works on. Whole rows, where they are no longer, lie one after the other: reading
  // pieces of them takes twice as long.
  static constexpr size_t kBlock = 512;
  // Numbers of each operand in a tile, which stay in the first-level cache, and rows worth loading sums for.
  static constexpr size_t kTileSize = 2048;
  static constexpr size_t kLeastTileRows = 8;
  static constexpr size_t kExactRows = 32;
  static constexpr size_t kLeastChunk = 256;

  // Pieces of work that keep every processor busy: causal chunks cost a second look at their keys. The number of a
  // session's threads makes no difference, so that results do not depend on it.
  static size_t pieces() { return 2 * std::max<size_t>(1, std::thread::hardware_concurrency()); }

  const Vectors& kernels() const { return *environment_.simd.elementwise; }

  size_t channel(size_t part) const { return part % blocks_ * kBlock; }
  size_t lanes(size_t part) const { return std::min(kBlock, stride_ - channel(part)); }
  // Channels that are not padding.
  size_t width(size_t part) const { return std::min(kBlock, shape_.channels - channel(part)); }

  // Rows [first, first + count) of sequences of `length` rows.
  Tile rows(size_t part, size_t first, size_t count, size_t length) const {
    const size_t row = part / blocks_ * length + first, at = row * stride_ + channel(part);
    return {operands_.query + at, operands_.key + at, operands_.value + at, operands_.output + at,
            stride_,              count,              operands_.visible ? operands_.visible + row : nullptr};
  }

  template <class Body>
  void inTiles(size_t part, size_t first, size_t last, const Body& body) const {
    const size_t rows = std::max(kLeastTileRows, kTileSize / lanes(part));
    for (; first < last; first += rows) body(first, std::min(rows, last - first));
  }

  void clear(float* state, size_t part, int order) const {
    const size_t sums = (stateRows(order) - 1) * lanes(part);
    std::fill_n(state, sums, 0.f);
    std::fill_n(state + sums, lanes(part), kEmptyOffset);
  }

  void begin(float* state, size_t part, int order, const States& states) const {
    clear(state, part, order);
    if (!states.pastSums) return;
    const size_t sums = stateRows(order) - 1, b = part / blocks_;
    for (size_t n = 0; n < sums; n++) {
      std::copy_n(states.pastSums + (b * sums + n) * shape_.channels + channel(part), width(part),
                  state + n * lanes(part));
    }
    const float* offset = states.pastOffset + b * shape_.channels + channel(part);
    std::transform(offset, offset + width(part), state + sums * lanes(part),
                   [](float x) { return std::min(x, kEmptyOffset); });
  }

  void end(const float* state, size_t part, int order, const States& states) const {
    const size_t sums = stateRows(order) - 1, b = part / blocks_;
    for (size_t n = 0; states.presentSums && n < sums; n++) {
      std::copy_n(state + n * lanes(part), width(part),
                  states.presentSums + (b * sums + n) * shape_.channels + channel(part));
    }
    if (!states.presentOffset) return;
    std::copy_n(state + sums * lanes(part), width(part),
                states.presentOffset + b * shape_.channels + channel(part));
  }

  const Environment& environment_;
  const Shape shape_;
  const Operands operands_;
  const size_t stride_, blocks_;
};

}  // namespace onnxrewrite::elementwise
