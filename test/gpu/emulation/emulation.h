// A small emulation of the CUDA execution model on one CPU thread: every thread of a block is a fiber, barriers
// and warp operations are rendezvous, asynchronous copies land only when waited for. Kernels compiled against it
// compute what they compute on a GPU; it checks logic, not speed.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <tuple>

#undef __shared__
#define __shared__ static
#undef __noinline__
#define __noinline__
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __grid_constant__
#define __grid_constant__

namespace onnxrewrite::cuda {

/** A tensor map: [parts, rows, columns], columns up to 64. */
struct TensorMap {
  const uint16_t* data;
  int columns, rows, parts;
};

}  // namespace onnxrewrite::cuda

namespace onnxrewrite::emulation {

using cuda::TensorMap;

struct Lane {
  uint3 thread;
  int lane;
};

/** The running thread, and what is the same for its whole block or grid. */
Lane& lane();
uint3 blockIndex();
dim3 blockSize();
dim3 gridSize();
unsigned char* dynamicShared();

void syncBlock();
/**
 * Blocks until all lanes of `mask` have called with their own `data`; the last one runs `combine` on all of them
 * (null for lanes outside the mask).
 */
void meet(unsigned mask, void* data, const std::function<void(void* const* lanes)>& combine);
void runGrid(dim3 grid, unsigned threads, size_t sharedBytes, const std::function<void()>& kernel);

void copyAsync(void* shared, const void* global, bool valid, size_t bytes);
void commitCopies();
void waitForCopies(int pending);

cudaError_t encodeTensorMap(TensorMap& map, const void* data, bool bfloat16, int columns, int rows, int parts);
/** Kernels for Hopper run too. */
inline bool hasHopper() { return true; }

void initBarrier(uint64_t* barrier, int arrivals);
void arrive(uint64_t* barrier, int bytes);
void waitBarrier(uint64_t* barrier, int parity);
void copyTile(void* shared, const TensorMap* map, uint64_t* barrier, int row, int part);
void copyRun(void* shared, const void* global, int bytes, uint64_t* barrier);

/** As meet(), for the 128 threads of a warpgroup. */
void meetGroup(void* data, const std::function<void(void* const* threads)>& combine);

/** Order in which blocks and threads run; tests repeat a case under several. */
void setSchedule(unsigned seed);

template <class V>
V shuffle(unsigned mask, V value, int source) {
  struct Exchange {
    V value;
    int source;
    V result;
  } mine{value, source, value};
  meet(mask, &mine, [](void* const* lanes) {
    for (int l = 0; l < 32; l++) {
      auto* exchange = static_cast<Exchange*>(lanes[l]);
      if (!exchange) continue;
      auto* from = static_cast<Exchange*>(lanes[exchange->source & 31]);
      if (!from) std::abort();
      exchange->result = from->value;
    }
  });
  return mine.result;
}

template <class V>
V reduce(unsigned mask, V value, const std::function<V(V, V)>& combine) {
  V mine = value;
  meet(mask, &mine, [&](void* const* lanes) {
    bool first = true;
    V total{};
    for (int l = 0; l < 32; l++)
      if (lanes[l]) {
        V next = *static_cast<V*>(lanes[l]);
        total = first ? next : combine(total, next);
        first = false;
      }
    for (int l = 0; l < 32; l++)
      if (lanes[l]) *static_cast<V*>(lanes[l]) = total;
  });
  return mine;
}

inline void loadMatrices(uint32_t (&fragment)[4], const void* row, bool transposed) {
  struct Load {
    const uint16_t* row;
    uint32_t* fragment;
  } mine{static_cast<const uint16_t*>(row), fragment};
  meet(0xffffffffu, &mine, [transposed](void* const* lanes) {
    for (int matrix = 0; matrix < 4; matrix++)
      for (int l = 0; l < 32; l++) {
        auto element = [&](int r, int c) -> uint32_t { return static_cast<Load*>(lanes[matrix * 8 + r])->row[c]; };
        int g = l / 4, t = l % 4 * 2;
        static_cast<Load*>(lanes[l])->fragment[matrix] =
            transposed ? element(t, g) | element(t + 1, g) << 16 : element(g, t) | element(g, t + 1) << 16;
      }
  });
}

template <class T>
float half16(uint32_t bits, int index) {
  uint16_t word = static_cast<uint16_t>(bits >> (16 * index));
  T value;
  std::memcpy(static_cast<void*>(&value), &word, 2);
  return static_cast<float>(value);
}

template <class T>
void multiplyAdd(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Product {
    float* sum;
    const uint32_t* a;
    uint32_t b[2];
  } mine{sum, a, {b0, b1}};
  meet(0xffffffffu, &mine, [](void* const* lanes) {
    static float left[16][16], right[16][8];
    for (int l = 0; l < 32; l++) {
      auto* product = static_cast<Product*>(lanes[l]);
      int g = l / 4, t = l % 4;
      for (int word = 0; word < 4; word++)
        for (int half = 0; half < 2; half++)
          left[g + word % 2 * 8][2 * t + half + word / 2 * 8] = half16<T>(product->a[word], half);
      for (int word = 0; word < 2; word++)
        for (int half = 0; half < 2; half++) right[2 * t + half + word * 8][g] = half16<T>(product->b[word], half);
    }
    for (int l = 0; l < 32; l++) {
      auto* product = static_cast<Product*>(lanes[l]);
      for (int i = 0; i < 4; i++) {
        int row = l / 4 + i / 2 * 8, column = l % 4 * 2 + i % 2;
        float total = product->sum[i];
        for (int k = 0; k < 16; k++) total += left[row][k] * right[k][column];
        product->sum[i] = total;
      }
    }
  });
}

inline void multiplyAddTf32(float (&sum)[4], const float (&a)[4], float b0, float b1) {
  struct Product {
    float* sum;
    const float* a;
    float b[2];
  } mine{sum, a, {b0, b1}};
  const auto cut = [](float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    bits &= ~0x1fffu;
    std::memcpy(&x, &bits, 4);
    return x;
  };
  meet(0xffffffffu, &mine, [&](void* const* lanes) {
    static float left[16][8], right[8][8];
    for (int l = 0; l < 32; l++) {
      auto* product = static_cast<Product*>(lanes[l]);
      int g = l / 4, t = l % 4;
      for (int i = 0; i < 4; i++) left[g + i % 2 * 8][t + i / 2 * 4] = cut(product->a[i]);
      for (int i = 0; i < 2; i++) right[t + i * 4][g] = cut(product->b[i]);
    }
    for (int l = 0; l < 32; l++)
      for (int i = 0; i < 4; i++) {
        auto* product = static_cast<Product*>(lanes[l]);
        for (int k = 0; k < 8; k++)
          product->sum[i] += left[l / 4 + i / 2 * 8][k] * right[k][l % 4 * 2 + i % 2];
      }
  });
}

/** sum (64 x 64 over a warpgroup) = or += left(row, k) * right(k, column), k < depth. */
template <class Left, class Right>
void multiplyGroup(float* const* sums, bool add, int depth, Left left, Right right) {
  for (int thread = 0; thread < 128; thread++)
    for (int n = 0; n < 8; n++)
      for (int i = 0; i < 4; i++) {
        int row = thread / 32 * 16 + thread % 32 / 4 + i / 2 * 8, column = n * 8 + thread % 4 * 2 + i % 2;
        float total = add ? sums[thread][n * 4 + i] : 0;
        for (int k = 0; k < depth; k++) total += left(row, k) * right(k, column);
        sums[thread][n * 4 + i] = total;
      }
}

template <class T, class Matrix>
void multiplySlice(float (&products)[8][4], Matrix queries, int querySlice, Matrix keys, int keySlice, bool add) {
  meetGroup(&products[0][0], [=](void* const* threads) {
    multiplyGroup(
        reinterpret_cast<float* const*>(threads), add, 16,
        [=](int row, int k) { return static_cast<float>(queries.at(row, querySlice * 16 + k)); },
        [=](int k, int column) { return static_cast<float>(keys.at(column, keySlice * 16 + k)); });
  });
}

template <class T, class Matrix>
void multiplyValues(float (&sum)[8][4], const uint32_t (&weights)[4][4], Matrix values) {
  struct Part {
    float* sum;
    const uint32_t (*weights)[4];
  } mine{&sum[0][0], weights};
  meetGroup(&mine, [=](void* const* threads) {
    static float left[64][64];
    float* sums[128];
    for (int thread = 0; thread < 128; thread++) {
      auto* part = static_cast<Part*>(threads[thread]);
      sums[thread] = part->sum;
      for (int k = 0; k < 4; k++)
        for (int word = 0; word < 4; word++)
          for (int half = 0; half < 2; half++)
            left[thread / 32 * 16 + thread % 32 / 4 + word % 2 * 8][k * 16 + thread % 4 * 2 + half + word / 2 * 8] =
                half16<T>(part->weights[k][word], half);
    }
    multiplyGroup(
        sums, true, 64, [](int row, int k) { return left[row][k]; },
        [=](int k, int column) { return static_cast<float>(values.at(k, column)); });
  });
}

}  // namespace onnxrewrite::emulation

#define threadIdx (::onnxrewrite::emulation::lane().thread)
#define blockIdx (::onnxrewrite::emulation::blockIndex())
#define blockDim (::onnxrewrite::emulation::blockSize())
#define gridDim (::onnxrewrite::emulation::gridSize())

inline void __syncthreads() { onnxrewrite::emulation::syncBlock(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  onnxrewrite::emulation::meet(mask, nullptr, [](void* const*) {});
}
template <class V>
V __shfl_sync(unsigned mask, V value, int source) {
  return onnxrewrite::emulation::shuffle(mask, value, source);
}
template <class V>
V __shfl_xor_sync(unsigned mask, V value, int distance) {
  return onnxrewrite::emulation::shuffle(mask, value, onnxrewrite::emulation::lane().lane ^ distance);
}
template <class V>
V __shfl_up_sync(unsigned mask, V value, int distance) {
  int lane = onnxrewrite::emulation::lane().lane;
  return onnxrewrite::emulation::shuffle(mask, value, lane < distance ? lane : lane - distance);
}
inline unsigned __match_any_sync(unsigned mask, int value) {
  unsigned equal = 0;
  for (int source = 0; source < 32; source++)
    if (mask >> source & 1 && onnxrewrite::emulation::shuffle(mask, value, source) == value) equal |= 1u << source;
  return equal;
}
inline unsigned __ballot_sync(unsigned mask, bool predicate) {
  unsigned bit = predicate ? 1u << onnxrewrite::emulation::lane().lane : 0;
  return onnxrewrite::emulation::reduce<unsigned>(mask, bit, [](unsigned a, unsigned b) { return a | b; });
}
inline bool __any_sync(unsigned mask, bool predicate) { return __ballot_sync(mask, predicate) != 0; }
inline unsigned __reduce_max_sync(unsigned mask, unsigned value) {
  return onnxrewrite::emulation::reduce<unsigned>(mask, value, [](unsigned a, unsigned b) { return std::max(a, b); });
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value) {
  return onnxrewrite::emulation::reduce<unsigned>(mask, value, [](unsigned a, unsigned b) { return std::min(a, b); });
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned value) {
  return onnxrewrite::emulation::reduce<unsigned>(mask, value, [](unsigned a, unsigned b) { return a + b; });
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value) {
  return onnxrewrite::emulation::reduce<unsigned>(mask, value, [](unsigned a, unsigned b) { return a | b; });
}
inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __clz(int value) { return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value)); }
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const uint64_t bytes = low | static_cast<uint64_t>(high) << 32;
  unsigned result = 0;
  for (int i = 0; i < 4; i++) result |= static_cast<unsigned>(bytes >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  return result;
}
inline int __float_as_int(float value) {
  int bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline float __int_as_float(int bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline unsigned __float_as_uint(float value) { return static_cast<unsigned>(__float_as_int(value)); }
inline float __uint_as_float(unsigned bits) { return __int_as_float(static_cast<int>(bits)); }
template <class V>
V __ldg(const V* address) {
  return *address;
}
template <class V>
V atomicAdd(V* address, V value) {
  V old = *address;
  *address = old + value;
  return old;
}
template <class V>
V atomicOr(V* address, V value) {
  V old = *address;
  *address = old | value;
  return old;
}

namespace onnxrewrite::cuda {

constexpr unsigned kWholeWarp = 0xffffffffu;
using std::max;
using std::min;

inline unsigned char* dynamicShared() { return emulation::dynamicShared(); }
/** That of an A100, the least of the chips that kernels are compiled for. */
inline size_t mostSharedBytes() { return 163 * 1024; }

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, size_t sharedBytes, cudaStream_t,
                   const Arguments&... arguments) {
  std::tuple<Parameters...> bound{static_cast<Parameters>(arguments)...};
  emulation::runGrid(grid, threads, sharedBytes, [&] { std::apply(kernel, bound); });
  return cudaSuccess;
}

}  // namespace onnxrewrite::cuda
