// Implementation of the vector kernels, compiled once per instruction set: each simd/*.cc defines
// ONNXREWRITE_SIMD (a namespace) and ONNXREWRITE_VECTOR_BYTES, enables its instruction set and includes this
// file. Only GCC and Clang vector extensions, and no inline function from outside this namespace, so that no
// code for a newer processor can be merged by the linker into code for an older one.

namespace onnxrewrite {
namespace ONNXREWRITE_SIMD {

constexpr int kWidth = ONNXREWRITE_VECTOR_BYTES / 4;
constexpr int kVectorsPerBlock = static_cast<int>(kLanes) / kWidth;
// Accumulators that leave room for operands in the register file.
constexpr int kAccumulators = ONNXREWRITE_VECTOR_REGISTERS >= 32 ? 24 : 12;
// Blocks of kLanes handled side by side: as many as leave at least 6 rows, or one.
constexpr int kMaxBlocks =
    kAccumulators / (kVectorsPerBlock * 6) > 1 ? kAccumulators / (kVectorsPerBlock * 6) : 1;

typedef float Vec __attribute__((vector_size(ONNXREWRITE_VECTOR_BYTES)));
typedef int32_t IntVec __attribute__((vector_size(ONNXREWRITE_VECTOR_BYTES)));
typedef uint32_t UintVec __attribute__((vector_size(ONNXREWRITE_VECTOR_BYTES)));
typedef float LooseVec __attribute__((vector_size(ONNXREWRITE_VECTOR_BYTES), aligned(4), may_alias));
typedef int32_t LooseIntVec __attribute__((vector_size(ONNXREWRITE_VECTOR_BYTES), aligned(4), may_alias));

static inline __attribute__((always_inline)) Vec load(const float* p) {
  return *reinterpret_cast<const LooseVec*>(p);
}
static inline __attribute__((always_inline)) IntVec load(const int32_t* p) {
  return *reinterpret_cast<const LooseIntVec*>(p);
}
static inline __attribute__((always_inline)) void store(float* p, Vec v) {
  *reinterpret_cast<LooseVec*>(p) = v;
}
static inline __attribute__((always_inline)) void store(int32_t* p, IntVec v) {
  *reinterpret_cast<LooseIntVec*>(p) = v;
}
static inline __attribute__((always_inline)) Vec splat(float x) { return x - Vec{}; }
static inline __attribute__((always_inline)) IntVec splat(int32_t x) { return x - IntVec{}; }
// NaN in b spreads.
static inline __attribute__((always_inline)) Vec maximum(Vec a, Vec b) { return a > b ? a : b; }
// Elements of IntVec masks are 0 or -1.
static inline __attribute__((always_inline)) Vec select(IntVec mask, Vec a, Vec b) {
  return mask ? a : b;
}
static inline __attribute__((always_inline)) IntVec laneNumbers() {
  IntVec lanes;
  for (int i = 0; i < kWidth; i++) lanes[i] = i;
  return lanes;
}

constexpr float kInfinity = __builtin_inff();

// All lanes moved down by Distance, the first ones coming in at the top.
template <int Distance, class V>
static inline __attribute__((always_inline)) V rotate(V v) {
  constexpr int d = Distance;
#if ONNXREWRITE_VECTOR_BYTES == 64
  return __builtin_shufflevector(v, v, d, d + 1, d + 2, d + 3, d + 4, d + 5, d + 6, d + 7, d + 8, d + 9, d + 10,
                                 d + 11, d + 12, d + 13, d + 14, d + 15);
#elif ONNXREWRITE_VECTOR_BYTES == 32
  return __builtin_shufflevector(v, v, d, d + 1, d + 2, d + 3, d + 4, d + 5, d + 6, d + 7);
#else
  return __builtin_shufflevector(v, v, d, d + 1, d + 2, d + 3);
#endif
}
// All lanes of v combined in log2(kWidth) rounds by Combine, associative and commutative.
template <class Combine, int Distance = kWidth / 2, class V>
static inline __attribute__((always_inline)) auto reduce(V v) {
  if constexpr (Distance == 0) {
    return v[0];
  } else {
    return reduce<Combine, Distance / 2>(Combine::of(v, rotate<Distance>(v)));
  }
}
struct Sum {
  template <class V>
  static inline __attribute__((always_inline)) V of(V a, V b) {
    return a + b;
  }
};
// NaN spreads.
struct Largest {
  static inline __attribute__((always_inline)) Vec of(Vec a, Vec b) { return select(a != a, a, maximum(a, b)); }
  static inline __attribute__((always_inline)) IntVec of(IntVec a, IntVec b) { return a > b ? a : b; }
};
struct Or {
  static inline __attribute__((always_inline)) IntVec of(IntVec a, IntVec b) { return a | b; }
};
// Whether any lane of a mask is set.
static inline __attribute__((always_inline)) bool any(IntVec mask) {
  return reduce<Or>(mask) != 0;
}

// Bit i is set where lane i of a mask is.
static inline __attribute__((always_inline)) uint32_t laneBits(IntVec mask) {
#if defined(ONNXREWRITE_AVX512)
  return _mm512_movepi32_mask((__m512i)mask);
#elif defined(__x86_64__) && ONNXREWRITE_VECTOR_BYTES == 32
  return static_cast<uint32_t>(__builtin_ia32_movmskps256((Vec)mask));
#elif defined(__x86_64__)
  return static_cast<uint32_t>(__builtin_ia32_movmskps((Vec)mask));
#else
  uint32_t bits = 0;
  for (int i = 0; i < kWidth; i++) bits |= static_cast<uint32_t>(mask[i] & 1) << i;
  return bits;
#endif
}

// 2^x with a relative error below 2e-7; exactly 1 at 0 and 0 below -126, NaN stays NaN.
// 2^x = 2^round(x) * 2^f with |f| <= 1/2; minimax polynomial of 2^f, constant term fixed at 1.
static inline __attribute__((always_inline)) Vec exp2(Vec x) {
  constexpr float c1 = 0.693147182f, c2 = 0.240226477f, c3 = 0.0555033237f, c4 = 0.00961843692f,
                  c5 = 0.0013398875f, c6 = 0.00015353362f;
#if defined(ONNXREWRITE_AVX512)
  x = maximum(splat(-150.f), x);
  const Vec n = (Vec)_mm512_maskz_roundscale_ps(0xffff, (__m512)x,
                                                _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const Vec f = x - n;
  const Vec p = (((((c6 * f + c5) * f + c4) * f + c3) * f + c2) * f + c1) * f + 1.f;
  const __mmask16 kept = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-126.f), _CMP_NLT_UQ);
  return (Vec)_mm512_maskz_scalef_ps(kept, (__m512)p, (__m512)n);
#else
  constexpr float rounder = 12582912.f;  // 1.5 * 2^23: adding it leaves the rounded integer in the low bits
  const Vec shifted = x + rounder;
  const Vec f = x - (shifted - rounder);
  const Vec p = (((((c6 * f + c5) * f + c4) * f + c3) * f + c2) * f + c1) * f + 1.f;
  // Out of range the sum wraps, and is replaced below.
  const UintVec exponent = (UintVec)shifted << 23;
  Vec result = (Vec)((UintVec)p + exponent);
  result = select(x < -126.f, Vec{}, result);
  result = select(x >= 128.f, splat(kInfinity), result);
  return select(x == x, result, x);
#endif
}

// Calls kernel.run<rows>(first) for a number of rows known at run time, at most Most.
template <int Most, class Kernel>
static inline void runRows(size_t rows, size_t first, const Kernel& kernel) {
  if (rows == Most) {
    kernel.template run<Most>(first);
  } else if constexpr (Most > 1) {
    runRows<Most - 1>(rows, first, kernel);
  }
}

// Runs kernel.run<M>(first) over [0, count) in groups of nearly equal size M, at most Most: small groups make
// poor use of what they load.
template <int Most, class Kernel>
static inline void sweepRows(size_t count, const Kernel& kernel) {
  const size_t groups = (count + Most - 1) / Most;
  size_t first = 0;
  for (size_t group = 0; group < groups; group++) {
    const size_t end = count * (group + 1) / groups;
    runRows<Most>(end - first, first, kernel);
    first = end;
  }
}

// Calls apply.run<Blocks>(offset) over `blocks` blocks of kLanes floats, kMaxBlocks at a time.
template <int Blocks, class Apply>
static inline void sweepBlocks(size_t offset, size_t blocks, const Apply& apply) {
  for (; blocks >= Blocks; blocks -= Blocks, offset += Blocks * kLanes) apply.template run<Blocks>(offset);
  if constexpr (Blocks > 1) {
    if (blocks > 0) sweepBlocks<Blocks - 1>(offset, blocks, apply);
  }
}

// Rows handled together beside so many blocks of columns. More than 8 would leave no general registers for the
// pointers to scattered rows.
template <int Blocks>
constexpr int kRowsFor =
    kAccumulators / (Blocks * kVectorsPerBlock) < 8 ? kAccumulators / (Blocks * kVectorsPerBlock) : 8;

// ---- tile kernels ----

// Transposes kWidth vectors: log2(kWidth) rounds of interleaving row i with row i + kWidth/2.
static inline __attribute__((always_inline)) void transpose(Vec (&rows)[kWidth]) {
#pragma GCC unroll 4
  for (int round = 1; round < kWidth; round *= 2) {
    Vec next[kWidth];
#pragma GCC unroll 8
    for (int i = 0; i < kWidth / 2; i++) {
      const Vec a = rows[i], b = rows[i + kWidth / 2];
#if ONNXREWRITE_VECTOR_BYTES == 64
      next[2 * i] = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      next[2 * i + 1] =
          __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif ONNXREWRITE_VECTOR_BYTES == 32
      next[2 * i] = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
      next[2 * i + 1] = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
      next[2 * i] = __builtin_shufflevector(a, b, 0, 4, 1, 5);
      next[2 * i + 1] = __builtin_shufflevector(a, b, 2, 6, 3, 7);
#endif
    }
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; i++) rows[i] = next[i];
  }
}

static void loadTile(float* tile, size_t width, Rows rows, size_t count, size_t depth, float multiplier) {
  for (size_t lane = 0; lane < width; lane += kWidth) {
    for (size_t d = 0; d < depth; d += kWidth) {
      Vec block[kWidth];
      for (int i = 0; i < kWidth; i++) {
        block[i] = lane + i < count ? load(rows[lane + i] + d) * multiplier : Vec{};
      }
      transpose(block);
      for (int i = 0; i < kWidth; i++) store(tile + (d + i) * width + lane, block[i]);
    }
  }
}

static void mergeTile(float* rows, size_t stride, const int32_t* index, size_t count, const float* tile,
                      size_t width, size_t depth, const float* keep, const float* gain) {
  for (size_t lane = 0; lane < count; lane += kWidth) {
    const Vec gains = load(gain + lane);
    for (size_t d = 0; d < depth; d += kWidth) {
      Vec block[kWidth];
      for (int i = 0; i < kWidth; i++) block[i] = load(tile + (d + i) * width + lane) * gains;
      transpose(block);
      for (int i = 0; i < kWidth && lane + i < count; i++) {
        const size_t n = index ? static_cast<size_t>(index[lane + i]) : lane + i;
        float* row = rows + n * stride + d;
        store(row, keep ? load(row) * keep[lane + i] + block[i] : block[i]);
      }
    }
  }
}

struct ScoreTile {
  float* scores;
  const float* tile;
  size_t stride, depth;
  Rows keys;
  size_t count;

  template <int Blocks>
  struct Columns {
    const ScoreTile& all;
    size_t offset;

    template <int M>
    void run(size_t first) const {
      constexpr int V = Blocks * kVectorsPerBlock;
      const float* rows[M];
      for (int m = 0; m < M; m++) rows[m] = all.keys[first + m];
      const float* column = all.tile + offset;
      const size_t stride = all.stride;
      if (offset == 0 && first + 2 * M <= all.count) {
        for (int m = 0; m < M; m++) {
          const float* next = all.keys[first + M + m];
          for (size_t d = 0; d < all.depth; d += 16) __builtin_prefetch(next + d);
        }
      }
      Vec sums[M][V] = {};
      for (size_t d = 0; d < all.depth; d++, column += stride) {
        Vec q[V];
#pragma GCC unroll 24
        for (int v = 0; v < V; v++) q[v] = load(column + v * kWidth);
#pragma GCC unroll 24
        for (int m = 0; m < M; m++) {
          const Vec k = splat(rows[m][d]);
#pragma GCC unroll 24
          for (int v = 0; v < V; v++) sums[m][v] += k * q[v];
        }
      }
      float* out = all.scores + first * stride + offset;
#pragma GCC unroll 24
      for (int m = 0; m < M; m++, out += stride) {
#pragma GCC unroll 24
        for (int v = 0; v < V; v++) store(out + v * kWidth, sums[m][v]);
      }
    }
  };

  template <int Blocks>
  void run(size_t offset) const {
    sweepRows<kRowsFor<Blocks>>(count, Columns<Blocks>{*this, offset});
  }
};

static void scoreTile(float* scores, const float* tile, Lanes lanes, size_t depth, Rows keys, size_t count) {
  sweepBlocks<kMaxBlocks>(0, lanes.count / kLanes, ScoreTile{scores, tile, lanes.stride, depth, keys, count});
}

struct AccumulateTile {
  float* sums;
  size_t stride, size;
  const float* weights;
  Rows values;
  size_t count;

  template <int Blocks>
  struct Columns {
    const AccumulateTile& all;
    size_t offset;

    template <int M>
    void run(size_t first) const {
      constexpr int V = Blocks * kVectorsPerBlock;
      const size_t stride = all.stride;
      float* out = all.sums + first * stride + offset;
      Vec sums[M][V];
#pragma GCC unroll 24
      for (int m = 0; m < M; m++) {
#pragma GCC unroll 24
        for (int v = 0; v < V; v++) sums[m][v] = load(out + m * stride + v * kWidth);
      }
      const float* weight = all.weights + offset;
      for (size_t n = 0; n < all.count; n++, weight += stride) {
        const float* value = all.values[n] + first;
        Vec p[V];
#pragma GCC unroll 24
        for (int v = 0; v < V; v++) p[v] = load(weight + v * kWidth);
#pragma GCC unroll 24
        for (int m = 0; m < M; m++) {
          const Vec x = splat(value[m]);
#pragma GCC unroll 24
          for (int v = 0; v < V; v++) sums[m][v] += x * p[v];
        }
      }
#pragma GCC unroll 24
      for (int m = 0; m < M; m++) {
#pragma GCC unroll 24
        for (int v = 0; v < V; v++) store(out + m * stride + v * kWidth, sums[m][v]);
      }
    }
  };

  template <int Blocks>
  void run(size_t offset) const {
    sweepRows<kRowsFor<Blocks>>(size, Columns<Blocks>{*this, offset});
  }
};

static void accumulateTile(float* sums, Lanes lanes, size_t size, const float* weights, Rows values,
                           size_t count) {
  sweepBlocks<kMaxBlocks>(0, lanes.count / kLanes, AccumulateTile{sums, lanes.stride, size, weights, values, count});
}

static void accumulateTileGuarded(float* sums, Lanes lanes, size_t size, const float* weights, Rows values,
                                  size_t count) {
  for (size_t n = 0; n < count; n++) {
    const float* value = values[n];
    for (size_t e = 0; e < size; e++) {
      for (size_t lane = 0; lane < lanes.count; lane += kWidth) {
        const Vec p = load(weights + n * lanes.stride + lane);
        float* sum = sums + e * lanes.stride + lane;
        store(sum, select(p == 0.f, load(sum), load(sum) + p * splat(value[e])));
      }
    }
  }
}

static bool softmaxTile(float* scores, Lanes lanes, size_t count, float* max, float* sum, float* factor) {
  IntVec changed{};
  for (size_t lane = 0; lane < lanes.count; lane += kWidth) {
    const Vec before = load(max + lane);
    Vec top = before;
    for (size_t n = 0; n < count; n++) top = maximum(top, load(scores + n * lanes.stride + lane));
    // A lane that has seen nothing yet keeps -infinity; 0 stands in so that exp2 gives 0, not NaN.
    const Vec reference = select(top == -kInfinity, Vec{}, top);
    const Vec scale = select(before == top, splat(1.f), exp2(before - reference));
    Vec total = load(sum + lane) * scale;
    for (size_t n = 0; n < count; n++) {
      const Vec p = exp2(load(scores + n * lanes.stride + lane) - reference);
      store(scores + n * lanes.stride + lane, p);
      total += p;
    }
    store(max + lane, top);
    store(sum + lane, total);
    store(factor + lane, scale);
    changed |= scale != 1.f;
  }
  return any(changed);
}

static void scaleTile(float* sums, Lanes lanes, size_t size, const float* factor) {
  for (size_t e = 0; e < size; e++, sums += lanes.stride) {
    for (size_t lane = 0; lane < lanes.count; lane += kWidth) {
      store(sums + lane, load(sums + lane) * load(factor + lane));
    }
  }
}

static void argmaxTile(int32_t* index, const float* scores, const float* bias, size_t width, size_t count) {
  for (size_t lane = 0; lane < width; lane += kWidth) {
    Vec best = splat(-kInfinity);
    IntVec where{};
    for (size_t n = 0; n < count; n++) {
      const Vec score = load(scores + n * width + lane) + bias[n];
      const IntVec better = score > best;
      best = select(better, score, best);
      where = better ? splat(static_cast<int32_t>(n)) : where;
    }
    store(index + lane, where);
  }
}

static void hideEarlierLanes(float* scores, Lanes lanes, size_t count, const int32_t* index, int32_t first) {
  const IntVec numbers = laneNumbers();
  for (size_t n = 0; n < count; n++) {
    const int32_t key = index ? index[n] : static_cast<int32_t>(n);
    for (size_t lane = 0; lane < lanes.count; lane += kWidth) {
      float* score = scores + n * lanes.stride + lane;
      const int32_t bound = first + key - static_cast<int32_t>(lane);
      store(score, select(numbers >= splat(bound), load(score), splat(-kInfinity)));
    }
  }
}

// ---- row kernels ----

static void addScaled(float* sums, const float* values, size_t count, float factor) {
  for (size_t n = 0; n < count; n += kWidth) store(sums + n, load(sums + n) + load(values + n) * factor);
}

struct ScoreRows {
  float* scores;
  size_t scoreStride;
  Rows rows;
  size_t count;
  const float* panels;
  size_t depth;
  const float* bias;

  template <int Blocks>
  struct Columns {
    const ScoreRows& all;
    size_t offset;

    template <int M>
    void run(size_t first) const {
      constexpr int V = Blocks * kVectorsPerBlock;
      const size_t panelSize = all.depth * kLanes;
      const float* panel = all.panels + offset / kLanes * panelSize;
      const float* rows[M];
      for (int m = 0; m < M; m++) rows[m] = all.rows[first + m];
      Vec sums[M][V];
#pragma GCC unroll 24
      for (int v = 0; v < V; v++) {
        const Vec start = load(all.bias + offset + v * kWidth);
#pragma GCC unroll 24
        for (int m = 0; m < M; m++) sums[m][v] = start;
      }
      for (size_t d = 0; d < all.depth; d++, panel += kLanes) {
        Vec k[V];
#pragma GCC unroll 24
        for (int v = 0; v < V; v++) {
          k[v] = load(panel + v / kVectorsPerBlock * panelSize + v % kVectorsPerBlock * kWidth);
        }
#pragma GCC unroll 24
        for (int m = 0; m < M; m++) {
          const Vec q = splat(rows[m][d]);
#pragma GCC unroll 24
          for (int v = 0; v < V; v++) sums[m][v] += q * k[v];
        }
      }
      float* out = all.scores + first * all.scoreStride + offset;
#pragma GCC unroll 24
      for (int m = 0; m < M; m++, out += all.scoreStride) {
#pragma GCC unroll 24
        for (int v = 0; v < V; v++) store(out + v * kWidth, sums[m][v]);
      }
    }
  };

  template <int Blocks>
  void run(size_t offset) const {
    sweepRows<kRowsFor<Blocks>>(count, Columns<Blocks>{*this, offset});
  }
};

static void scoreRows(float* scores, size_t scoreStride, const float* rows, size_t rowStride, size_t count,
                      const float* panels, size_t panelCount, size_t depth, const float* bias) {
  sweepBlocks<kMaxBlocks>(0, panelCount,
                          ScoreRows{scores, scoreStride, {rows, rowStride}, count, panels, depth, bias});
}

struct AccumulateRows {
  float* sums;
  size_t sumStride;
  const int32_t* index;  // of rows of sums; null: in order
  size_t rowCount;
  const float* weights;
  size_t weightRow, weightColumn;
  Rows values;
  size_t count;

  template <int Blocks>
  struct Columns {
    const AccumulateRows& all;
    size_t offset;

    template <int M>
    void run(size_t first) const {
      constexpr int V = Blocks * kVectorsPerBlock;
      float* out[M];
      for (int m = 0; m < M; m++) {
        const size_t row = all.index ? static_cast<size_t>(all.index[first + m]) : first + m;
        out[m] = all.sums + row * all.sumStride + offset;
      }
      Vec sums[M][V];
#pragma GCC unroll 24
      for (int m = 0; m < M; m++) {
#pragma GCC unroll 24
        for (int v = 0; v < V; v++) sums[m][v] = load(out[m] + v * kWidth);
      }
      const float* weight = all.weights + first * all.weightRow;
      for (size_t n = 0; n < all.count; n++, weight += all.weightColumn) {
        const float* value = all.values[n] + offset;
        Vec x[V];
#pragma GCC unroll 24
        for (int v = 0; v < V; v++) x[v] = load(value + v * kWidth);
#pragma GCC unroll 24
        for (int m = 0; m < M; m++) {
          const Vec p = splat(weight[m * all.weightRow]);
#pragma GCC unroll 24
          for (int v = 0; v < V; v++) sums[m][v] += p * x[v];
        }
      }
#pragma GCC unroll 24
      for (int m = 0; m < M; m++) {
#pragma GCC unroll 24
        for (int v = 0; v < V; v++) store(out[m] + v * kWidth, sums[m][v]);
      }
    }
  };

  template <int Blocks>
  void run(size_t offset) const {
    sweepRows<kRowsFor<Blocks>>(rowCount, Columns<Blocks>{*this, offset});
  }
};

static void accumulateRows(float* sums, size_t sumStride, size_t rowCount, size_t size, const float* weights,
                           size_t weightRow, size_t weightColumn, Rows values, size_t count) {
  sweepBlocks<kMaxBlocks>(
      0, size / kLanes,
      AccumulateRows{sums, sumStride, nullptr, rowCount, weights, weightRow, weightColumn, values, count});
}

static void accumulateRowsGuarded(float* sums, size_t sumStride, size_t rowCount, size_t size,
                                  const float* weights, size_t weightRow, size_t weightColumn, Rows values,
                                  size_t count) {
  for (size_t r = 0; r < rowCount; r++) {
    for (size_t n = 0; n < count; n++) {
      const float p = weights[r * weightRow + n * weightColumn];
      if (p != 0) addScaled(sums + r * sumStride, values[n], size, p);
    }
  }
}

struct AccumulateLanes {
  float* sums;
  size_t sumRow, rowCount, columns, lanes;
  const float* weights;
  const float* values;
  size_t valueRow, valueTerm, count;

  // Blocks here are columns; `first` is the first of M rows.
  template <int Columns>
  struct Vectors {
    const AccumulateLanes& all;
    size_t column, lane;

    template <int M>
    void run(size_t first) const {
      const size_t lanes = all.lanes;
      float* out = all.sums + first * all.sumRow + column * lanes + lane;
      const float* weight = all.weights + column * lanes + lane;
      const float* value = all.values + first * all.valueRow + lane;
      Vec sums[M][Columns];
#pragma GCC unroll 24
      for (int m = 0; m < M; m++) {
#pragma GCC unroll 24
        for (int c = 0; c < Columns; c++) sums[m][c] = load(out + m * all.sumRow + c * lanes);
      }
      for (size_t n = 0; n < all.count; n++, weight += all.columns * lanes, value += all.valueTerm) {
        Vec w[Columns];
#pragma GCC unroll 24
        for (int c = 0; c < Columns; c++) w[c] = load(weight + c * lanes);
#pragma GCC unroll 24
        for (int m = 0; m < M; m++) {
          const Vec x = load(value + m * all.valueRow);
#pragma GCC unroll 24
          for (int c = 0; c < Columns; c++) sums[m][c] += x * w[c];
        }
      }
#pragma GCC unroll 24
      for (int m = 0; m < M; m++) {
#pragma GCC unroll 24
        for (int c = 0; c < Columns; c++) store(out + m * all.sumRow + c * lanes, sums[m][c]);
      }
    }
  };

  template <int Columns>
  void run(size_t column, size_t left) const {
    for (; left >= Columns; left -= Columns, column += Columns) {
      for (size_t lane = 0; lane < lanes; lane += kWidth) {
        sweepRows<(kAccumulators / Columns < 8 ? kAccumulators / Columns : 8)>(rowCount, Vectors<Columns>{*this, column, lane});
      }
    }
    if constexpr (Columns > 1) {
      if (left > 0) run<Columns / 2>(column, left);
    }
  }
};

static void accumulateLanes(float* sums, size_t sumRow, size_t rowCount, size_t columns, size_t lanes,
                            const float* weights, const float* values, size_t valueRow, size_t valueTerm,
                            size_t count) {
  constexpr int kMostColumns = 4;
  AccumulateLanes{sums, sumRow, rowCount, columns, lanes, weights, values, valueRow, valueTerm, count}
      .template run<kMostColumns>(0, columns);
}

// Sum of (x - center)^Power over `size` numbers.
template <int Power>
static inline float momentOf(const float* row, size_t size, float center) {
  const size_t whole = size / kWidth * kWidth;
  Vec total{};
  for (size_t n = 0; n < whole; n += kWidth) {
    const Vec x = load(row + n) - center;
    total += Power == 2 ? x * x : x;
  }
  float sum = reduce<Sum>(total);
  // One by one: what follows a row is not this function's.
  for (size_t n = whole; n < size; n++) {
    const float x = row[n] - center;
    sum += Power == 2 ? x * x : x;
  }
  return sum;
}

static void normalizeRows(float* rows, size_t stride, size_t count, size_t size, bool centered, float epsilon,
                          const float* gain, float multiplier) {
  const size_t whole = size / kWidth * kWidth;
  const float share = 1.f / static_cast<float>(size);
  for (size_t r = 0; r < count; r++, rows += stride) {
    const float mean = centered ? momentOf<1>(rows, size, 0.f) * share : 0.f;
    const float variance = momentOf<2>(rows, size, mean) * share;
    const float factor = multiplier / __builtin_sqrtf(variance + epsilon);
    for (size_t n = 0; n < whole; n += kWidth) {
      const Vec x = (load(rows + n) - mean) * factor;
      store(rows + n, gain ? x * load(gain + n) : x);
    }
    for (size_t n = whole; n < size; n++) rows[n] = (rows[n] - mean) * factor * (gain ? gain[n] : 1.f);
  }
}

static void scaleRows(float* rows, size_t stride, size_t count, size_t size, const float* factor) {
  for (size_t r = 0; r < count; r++) {
    for (size_t e = 0; e < size; e += kWidth) {
      store(rows + r * stride + e, load(rows + r * stride + e) * factor[r]);
    }
  }
}

// One row's step of an online softmax, see attendRows.
static inline void softmaxRow(float* scores, size_t columns, float& max, float& sum, float* values, size_t size) {
  Vec top = splat(max);
  for (size_t n = 0; n < columns; n += kWidth) top = maximum(top, load(scores + n));
  if (any(top > max)) {
    const float before = max;
    max = reduce<Largest>(top);
    const float scale = before == -kInfinity ? 0.f : exp2(splat(before - max))[0];
    sum *= scale;
    for (size_t e = 0; e < size; e += kWidth) store(values + e, load(values + e) * scale);
  }
  const float reference = max == -kInfinity ? 0.f : max;
  Vec total{};
  for (size_t n = 0; n < columns; n += kWidth) {
    const Vec p = exp2(load(scores + n) - reference);
    store(scores + n, p);
    total += p;
  }
  sum += reduce<Sum>(total);
}

static void attendRows(float* max, float* sum, float* sums, size_t size, Rows rows, size_t count, size_t depth,
                       const float* panels, Rows values, size_t keyCount) {
  constexpr size_t kRows = 32;
  float scores[kRows * kPackedKeys];
  float bias[kPackedKeys];
  const size_t panelCount = (keyCount + kLanes - 1) / kLanes, columns = panelCount * kLanes;
  for (size_t n = 0; n < columns; n++) bias[n] = n < keyCount ? 0.f : -kInfinity;
  for (size_t first = 0; first < count; first += kRows) {
    const size_t chunk = count - first < kRows ? count - first : kRows;
    const int32_t* index = rows.index + first;
    sweepBlocks<kMaxBlocks>(
        0, panelCount,
        ScoreRows{scores, columns, {rows.base, rows.stride, index}, chunk, panels, depth, bias});
    for (size_t r = 0; r < chunk; r++) {
      const auto row = static_cast<size_t>(index[r]);
      softmaxRow(scores + r * columns, columns, max[row], sum[row], sums + row * size, size);
    }
    sweepBlocks<kMaxBlocks>(0, size / kLanes,
                            AccumulateRows{sums, size, index, chunk, scores, columns, 1, values, keyCount});
  }
}

static void scatterRows(float* sums, Rows rows, const int32_t* target, size_t count, size_t size) {
  for (size_t n = 0; n < count; n++) {
    float* sum = sums + static_cast<size_t>(target[n]) * size;
    const float* row = rows[n];
    for (size_t d = 0; d < size; d += kWidth) store(sum + d, load(sum + d) + load(row + d));
  }
}

static void squaredNorms(float* norms, Rows rows, size_t count, size_t size) {
  for (size_t n = 0; n < count; n++) {
    const float* row = rows[n];
    Vec total{};
    for (size_t d = 0; d < size; d += kWidth) total += load(row + d) * load(row + d);
    norms[n] = reduce<Sum>(total);
  }
}

static bool allFinite(const float* values, size_t count) {
  IntVec bad{};
  for (size_t n = 0; n < count; n += kWidth) {
    const Vec x = load(values + n);
    bad |= (x - x) != 0.f;
  }
  return !any(bad);
}

static float maxRow(const float* values, size_t count, float floor) {
  Vec top = splat(floor);
  for (size_t n = 0; n < count; n += kWidth) top = maximum(top, load(values + n));
  return reduce<Largest>(top);
}

static float exp2Row(float* values, size_t count, float max) {
  Vec total{};
  for (size_t n = 0; n < count; n += kWidth) {
    const Vec p = exp2(load(values + n) - max);
    store(values + n, p);
    total += p;
  }
  return reduce<Sum>(total);
}

static float sumRow(const float* values, size_t count) {
  Vec total{};
  for (size_t n = 0; n < count; n += kWidth) total += load(values + n);
  return reduce<Sum>(total);
}

static size_t selectLargest(int32_t* chosen, const float* values, size_t count, size_t wanted) {
  if (wanted == 0) return 0;
  // Nonnegative floats order like their bit patterns.
  const int32_t* bits = reinterpret_cast<const int32_t*>(values);
  const auto countFrom = [&](int32_t bound) {
    IntVec total{};
    for (size_t n = 0; n < count; n += kWidth) total -= load(bits + n) >= bound;
    return static_cast<size_t>(reduce<Sum>(total));
  };
  // What is chosen: all values above `low`, and the first `ties` of those that equal it.
  int32_t low = 0;
  size_t ties = 0;
  if (countFrom(1) > wanted) {
    IntVec top{};
    for (size_t n = 0; n < count; n += kWidth) top = load(bits + n) > top ? load(bits + n) : top;
    // countFrom(low) > wanted > countFrom(high) = above
    int32_t high = reduce<Largest>(top);
    high += high < 0x7fffffff;
    low = 1;
    for (size_t above = 0;;) {
      if (high - low <= 1) {
        ties = wanted - above;
        break;
      }
      const int32_t middle = low + (high - low) / 2;
      const size_t found = countFrom(middle);
      if (found == wanted) {
        low = middle - 1;
        break;
      }
      // Without branches: which way the search goes cannot be predicted.
      const bool many = found > wanted;
      low = many ? middle : low;
      high = many ? high : middle;
      above = many ? above : found;
    }
  }
  size_t size = 0;
  for (size_t n = 0; n < count; n += kWidth) {
    const IntVec block = load(bits + n);
    uint32_t taken = laneBits(block > low);
    if (ties > 0) {
      for (uint32_t equal = laneBits(block == low); equal != 0 && ties > 0; equal &= equal - 1, ties--) {
        taken |= equal & -equal;
      }
    }
    for (; taken != 0 && size < wanted; taken &= taken - 1) {
      chosen[size++] = static_cast<int32_t>(n) + __builtin_ctz(taken);
    }
  }
  return size;
}

}  // namespace ONNXREWRITE_SIMD
}  // namespace onnxrewrite

#include "../../elementwise-attention/cpu_vectors.h"

namespace onnxrewrite {
namespace ONNXREWRITE_SIMD {

static constexpr Simd table = {
    ONNXREWRITE_SIMD_NAME,
    loadTile,
    mergeTile,
    scoreTile,
    accumulateTile,
    accumulateTileGuarded,
    softmaxTile,
    scaleTile,
    argmaxTile,
    hideEarlierLanes,
    scoreRows,
    accumulateRows,
    accumulateRowsGuarded,
    attendRows,
    accumulateLanes,
    normalizeRows,
    scaleRows,
    scatterRows,
    squaredNorms,
    maxRow,
    exp2Row,
    sumRow,
    addScaled,
    allFinite,
    selectLargest,
    &elementwise_kernels::vectors,
};

}  // namespace ONNXREWRITE_SIMD
}  // namespace onnxrewrite
