// Implementation of elementwise::Vectors, part of simd/kernels.h: compiled once per instruction set.
//
// Sums stand in registers while the rows of a tile go by. A key smaller than the offset changes the scale of all
// sums, which is rare after the first keys.

namespace onnxrewrite {
namespace ONNXREWRITE_SIMD {
namespace elementwise_kernels {

using elementwise::Tile;

constexpr float kLog2E = 1.44269504f;

static inline __attribute__((always_inline)) Vec magnitude(Vec x) { return (Vec)((IntVec)x & 0x7fffffff); }

// exp(a^2 - b^2), without squares that would swallow the difference.
static inline __attribute__((always_inline)) Vec ratio(Vec a, Vec b) {
  return exp2((a - b) * (a + b) * kLog2E);
}

// Whether any element is not 0.
static inline __attribute__((always_inline)) bool any(IntVec mask) {
#if defined(ONNXREWRITE_AVX512)
  return _mm512_movepi32_mask((__m512i)mask) != 0;
#elif defined(__x86_64__) && ONNXREWRITE_VECTOR_BYTES == 32
  return __builtin_ia32_movmskps256((Vec)mask) != 0;
#elif defined(__x86_64__)
  return __builtin_ia32_movmskps((Vec)mask) != 0;
#else
  int32_t bits = 0;
  for (int i = 0; i < kWidth; i++) bits |= mask[i];
  return bits != 0;
#endif
}

template <int Order>
struct Sums {
  Vec numerators[Order + 1], denominators[Order + 1], offset;

  __attribute__((always_inline)) void read(const float* state, size_t lanes) {
#pragma GCC unroll 17
    for (int n = 0; n <= Order; n++) {
      numerators[n] = load(state + n * lanes);
      denominators[n] = load(state + (Order + 1 + n) * lanes);
    }
    offset = load(state + 2 * (Order + 1) * lanes);
  }
  __attribute__((always_inline)) void write(float* state, size_t lanes) const {
#pragma GCC unroll 17
    for (int n = 0; n <= Order; n++) {
      store(state + n * lanes, numerators[n]);
      store(state + (Order + 1 + n) * lanes, denominators[n]);
    }
    store(state + 2 * (Order + 1) * lanes, offset);
  }
  __attribute__((always_inline)) void lower(Vec size) {
    const Vec least = select(size < offset, size, offset);
    const Vec factor = ratio(least, offset);
#pragma GCC unroll 17
    for (int n = 0; n <= Order; n++) {
      numerators[n] *= factor;
      denominators[n] *= factor;
    }
    offset = least;
  }
  __attribute__((always_inline)) void add(Vec key, Vec value) {
    const Vec size = magnitude(key);
    if (any(size < offset)) lower(size);
    Vec term = ratio(offset, size);
#pragma GCC unroll 17
    for (int n = 0; n <= Order; n++) {
      denominators[n] += term;
      numerators[n] += term * value;
      term *= key;
    }
  }
  // With n-th coefficient 2^n / n!, by Horner's rule in 2 q: ((s_t 2q/t + s_{t-1}) 2q/(t-1) + ...) 2q/1 + s_0.
  __attribute__((always_inline)) Vec mean(Vec query) const {
    Vec numerator = numerators[Order], denominator = denominators[Order];
#pragma GCC unroll 17
    for (int n = Order; n > 0; n--) {
      const Vec factor = query * (2.f / static_cast<float>(n));
      numerator = numerator * factor + numerators[n - 1];
      denominator = denominator * factor + denominators[n - 1];
    }
    return select(denominators[0] > 0.f, numerator / denominator, Vec{});
  }
};

template <int Order, bool Keys, bool Means>
static void sweep(float* state, size_t lanes, const Tile& tile) {
  // Rows of some channels are no stream that a processor would follow: what the next tile takes is asked for here.
  const size_t next = tile.rows * tile.stride;
  for (size_t lane = 0; lane < lanes; lane += kWidth) {
    Sums<Order> sums;
    sums.read(state + lane, lanes);
    for (size_t n = 0; n < tile.rows; n++) {
      const size_t at = n * tile.stride + lane;
      if (lane % kLanes == 0) {
        if (Keys) __builtin_prefetch(tile.key + at + next, 0, 2);
        if (Keys) __builtin_prefetch(tile.value + at + next, 0, 2);
        if (Means) __builtin_prefetch(tile.query + at + next, 0, 2);
      }
      if (Keys && (!tile.visible || tile.visible[n])) sums.add(load(tile.key + at), load(tile.value + at));
      if (Means) store(tile.output + at, sums.mean(load(tile.query + at)));
    }
    if (Keys) sums.write(state + lane, lanes);
  }
}

// sweep for an order that is known at run time only.
template <bool Keys, bool Means, int Order = elementwise::kMostOrder>
static void sweepOrder(float* state, size_t lanes, int order, const Tile& tile) {
  if constexpr (Order > 2) {
    if (order < Order) return sweepOrder<Keys, Means, Order - 2>(state, lanes, order, tile);
  }
  sweep<Order, Keys, Means>(state, lanes, tile);
}

static void join(float* state, size_t lanes, int order, const float* earlier) {
  const size_t sums = 2 * (static_cast<size_t>(order) + 1);
  for (size_t lane = 0; lane < lanes; lane += kWidth) {
    const Vec a = load(state + sums * lanes + lane), b = load(earlier + sums * lanes + lane);
    const Vec least = select(a < b, a, b);
    const Vec gainA = ratio(least, a), gainB = ratio(least, b);
    for (size_t n = 0; n < sums; n++) {
      float* sum = state + n * lanes + lane;
      store(sum, load(sum) * gainA + load(earlier + n * lanes + lane) * gainB);
    }
    store(state + sums * lanes + lane, least);
  }
}

static void exact(const Tile& queries, size_t lanes, const Tile& keys, bool causal, size_t first) {
  for (size_t lane = 0; lane < lanes; lane += kWidth) {
    for (size_t row = 0; row < queries.rows; row++) {
      const Vec query = load(queries.query + row * queries.stride + lane);
      const size_t count = causal ? first + row + 1 : keys.rows;
      Vec nearest = splat(elementwise::kEmptyOffset);
      for (size_t n = 0; n < count; n++) {
        if (keys.visible && !keys.visible[n]) continue;
        const Vec distance = magnitude(query - load(keys.key + n * keys.stride + lane));
        nearest = select(distance < nearest, distance, nearest);
      }
      Vec numerator{}, denominator{};
      for (size_t n = 0; n < count; n++) {
        if (keys.visible && !keys.visible[n]) continue;
        const Vec weight = ratio(nearest, magnitude(query - load(keys.key + n * keys.stride + lane)));
        numerator += weight * load(keys.value + n * keys.stride + lane);
        denominator += weight;
      }
      store(queries.output + row * queries.stride + lane,
            select(denominator > 0.f, numerator / denominator, Vec{}));
    }
  }
}

static constexpr elementwise::Vectors vectors = {sweepOrder<true, false>, sweepOrder<true, true>,
                                                 sweepOrder<false, true>, join, exact};

}  // namespace elementwise_kernels
}  // namespace ONNXREWRITE_SIMD
}  // namespace onnxrewrite
