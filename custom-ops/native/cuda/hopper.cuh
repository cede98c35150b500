// Building blocks of the Hopper passes (sm_90a): tiles that the copy engine brings, barriers that count their bytes,
// and products of a whole warpgroup (128 threads, 64 rows) with operands in shared memory.
//
// Every tile is 64 columns of 16 bits wide and starts at a multiple of 1024 bytes; its 16-byte pieces are xored by
// row, which is what SharedMatrix<T, 64>, the copy engine and the products mean by the 128-byte swizzle.
// Accumulators are laid out as those of mma.cuh, warp w of the group holding rows 16 w to 16 w + 15.
#pragma once

#include "mma.cuh"

#ifndef ONNX_REWRITE_EMULATE_CUDA
#include <cuda.h>
#endif

namespace onnxrewrite::cuda {

/** Whether device code of this compilation has the instructions; elsewhere the kernels that use them stay empty. */
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
constexpr bool kHopperCode = true;
#define ONNX_REWRITE_HOPPER_ASM(...) asm volatile(__VA_ARGS__)
#else
constexpr bool kHopperCode = false;
#define ONNX_REWRITE_HOPPER_ASM(...) ((void)0)
#endif

constexpr int kTileRows = 64;

#ifdef ONNX_REWRITE_EMULATE_CUDA

using emulation::encodeTensorMap;
inline bool hasHopper() { return emulation::hasHopper(); }

#else

using TensorMap = CUtensorMap;

/** Describes [parts, rows, columns] (columns up to 64, a multiple of 8) for copies of tiles of 64 rows; zeros outside. */
inline cudaError_t encodeTensorMap(TensorMap& map, const void* data, bool bfloat16, int columns, int rows, int parts) {
  static void* entry = nullptr;
  if (!entry) {
    cudaDriverEntryPointQueryResult found;
    CUDA_TRY(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found));
    if (found != cudaDriverEntryPointSuccess) return cudaErrorNotSupported;
  }
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows), static_cast<cuuint64_t>(parts)};
  const cuuint64_t strides[2] = {sizes[0] * 2, sizes[0] * sizes[1] * 2};
  const cuuint32_t box[3] = {64, kTileRows, 1}, steps[3] = {1, 1, 1};
  CUresult status = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(entry)(
      &map, bfloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 3, const_cast<void*>(data), sizes,
      strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return status == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

/** Whether the current device runs code for sm_90a, and this compilation makes some (ONNX_REWRITE_HOPPER tells). */
inline bool hasHopper() {
#ifndef ONNX_REWRITE_HOPPER
  return false;
#else
  int device = 0, major = 0, minor = 0;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess && major == 9 && minor == 0;
#endif
}

#endif

/** A barrier in shared memory; its phases complete when `arrivals` threads have arrived and all expected bytes are in. */
__device__ inline void initBarrier(uint64_t* barrier, int arrivals) {
#ifdef ONNX_REWRITE_EMULATE_CUDA
  emulation::initBarrier(barrier, arrivals);
#else
  ONNX_REWRITE_HOPPER_ASM("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(barrier))),
               "r"(arrivals)
               : "memory");
#endif
}

/** Makes initialized barriers known to the copy engine; __syncthreads must follow. */
__device__ inline void publishBarriers() {
#ifndef ONNX_REWRITE_EMULATE_CUDA
  ONNX_REWRITE_HOPPER_ASM("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

__device__ inline void arrive(uint64_t* barrier) {
#ifdef ONNX_REWRITE_EMULATE_CUDA
  emulation::arrive(barrier, 0);
#else
  ONNX_REWRITE_HOPPER_ASM("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(barrier)))
               : "memory");
#endif
}

/** Arrives, and makes the phase wait for `bytes` more. */
__device__ inline void arriveExpecting(uint64_t* barrier, int bytes) {
#ifdef ONNX_REWRITE_EMULATE_CUDA
  emulation::arrive(barrier, bytes);
#else
  ONNX_REWRITE_HOPPER_ASM("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(barrier))),
               "r"(bytes)
               : "memory");
#endif
}

/** Waits for the end of a phase; phases have parity 0, 1, 0, ... */
__device__ inline void waitBarrier(uint64_t* barrier, int parity) {
#ifdef ONNX_REWRITE_EMULATE_CUDA
  emulation::waitBarrier(barrier, parity);
#else
  ONNX_REWRITE_HOPPER_ASM(
      "{ .reg .pred done;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra.uni ready;\n"
      "bra.uni again;\n"
      "ready: }\n" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(barrier))),
      "r"(parity)
      : "memory");
#endif
}

/** Starts the copy of a tile: 64 rows from `row` on of part `part`. */
__device__ inline void copyTile(void* shared, const TensorMap* map, uint64_t* barrier, int row, int part) {
#ifdef ONNX_REWRITE_EMULATE_CUDA
  emulation::copyTile(shared, map, barrier, row, part);
#else
  ONNX_REWRITE_HOPPER_ASM(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {0, %3, %4}], [%2];" ::"r"(
          static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
      "l"(map), "r"(static_cast<uint32_t>(__cvta_generic_to_shared(barrier))), "r"(row), "r"(part)
      : "memory");
#endif
}

/** Starts the copy of `bytes` neighboring bytes; all 16-byte aligned. */
__device__ inline void copyRun(void* shared, const void* global, int bytes, uint64_t* barrier) {
#ifdef ONNX_REWRITE_EMULATE_CUDA
  emulation::copyRun(shared, global, bytes, barrier);
#else
  ONNX_REWRITE_HOPPER_ASM("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global), "r"(bytes), "r"(static_cast<uint32_t>(__cvta_generic_to_shared(barrier)))
               : "memory");
#endif
}

/** Makes this thread's ordinary writes to shared memory visible to warpgroup products; a barrier must follow. */
__device__ inline void publishShared() {
#ifndef ONNX_REWRITE_EMULATE_CUDA
  ONNX_REWRITE_HOPPER_ASM("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

/** Before the first product after registers of operands were written. */
__device__ inline void beginProducts() {
#ifndef ONNX_REWRITE_EMULATE_CUDA
  ONNX_REWRITE_HOPPER_ASM("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

/** Closes a group of products. */
__device__ inline void commitProducts() {
#ifndef ONNX_REWRITE_EMULATE_CUDA
  ONNX_REWRITE_HOPPER_ASM("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

/** Waits until at most `Pending` groups are under way. */
template <int Pending>
__device__ inline void waitForProducts() {
#ifndef ONNX_REWRITE_EMULATE_CUDA
  ONNX_REWRITE_HOPPER_ASM("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
#endif
}

/** Keeps the compiler from moving accumulators while products are under way. */
__device__ inline void pin(float (&sum)[8][4]) {
#ifndef ONNX_REWRITE_EMULATE_CUDA
#pragma unroll
  for (int n = 0; n < 8; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) ONNX_REWRITE_HOPPER_ASM("" : "+f"(sum[n][i])::"memory");
#endif
}

#ifndef ONNX_REWRITE_EMULATE_CUDA

/** Operand in shared memory with the 128-byte swizzle, groups of 8 rows 1024 bytes apart. */
__device__ inline uint64_t operand(const void* shared) {
  const uint64_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  return (address & 0x3ffff) >> 4 | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}

#define ACCUMULATORS \
  "+f"(sum[0][0]), "+f"(sum[0][1]), "+f"(sum[0][2]), "+f"(sum[0][3]), \
  "+f"(sum[1][0]), "+f"(sum[1][1]), "+f"(sum[1][2]), "+f"(sum[1][3]), \
  "+f"(sum[2][0]), "+f"(sum[2][1]), "+f"(sum[2][2]), "+f"(sum[2][3]), \
  "+f"(sum[3][0]), "+f"(sum[3][1]), "+f"(sum[3][2]), "+f"(sum[3][3]), \
  "+f"(sum[4][0]), "+f"(sum[4][1]), "+f"(sum[4][2]), "+f"(sum[4][3]), \
  "+f"(sum[5][0]), "+f"(sum[5][1]), "+f"(sum[5][2]), "+f"(sum[5][3]), \
  "+f"(sum[6][0]), "+f"(sum[6][1]), "+f"(sum[6][2]), "+f"(sum[6][3]), \
  "+f"(sum[7][0]), "+f"(sum[7][1]), "+f"(sum[7][2]), "+f"(sum[7][3])

/** sum = or += a (64 x 16, shared) * b (64 keys x 16, shared) transposed. */
template <class T>
__device__ inline void multiplyShared(float (&sum)[8][4], uint64_t a, uint64_t b, int add);

/** sum += a (64 x 16, registers) * b (16 x 64, shared). */
template <class T>
__device__ inline void multiplyRegisters(float (&sum)[8][4], const uint32_t (&a)[4], uint64_t b);

template <>
__device__ inline void multiplyShared<__half>(float (&sum)[8][4], uint64_t a, uint64_t b, int add) {
  ONNX_REWRITE_HOPPER_ASM(
      "{ .reg .pred p; setp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
      ", %32, %33, p, 1, 1, 0, 0; }\n"
      : ACCUMULATORS
      : "l"(a), "l"(b), "r"(add));
}

template <>
__device__ inline void multiplyRegisters<__half>(float (&sum)[8][4], const uint32_t (&a)[4], uint64_t b) {
  ONNX_REWRITE_HOPPER_ASM(
      "{ .reg .pred p; setp.ne.b32 p, 1, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
      ", {%32, %33, %34, %35}, %36, p, 1, 1, 1; }\n"
      : ACCUMULATORS
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

template <>
__device__ inline void multiplyShared<__nv_bfloat16>(float (&sum)[8][4], uint64_t a, uint64_t b, int add) {
  ONNX_REWRITE_HOPPER_ASM(
      "{ .reg .pred p; setp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
      ", %32, %33, p, 1, 1, 0, 0; }\n"
      : ACCUMULATORS
      : "l"(a), "l"(b), "r"(add));
}

template <>
__device__ inline void multiplyRegisters<__nv_bfloat16>(float (&sum)[8][4], const uint32_t (&a)[4], uint64_t b) {
  ONNX_REWRITE_HOPPER_ASM(
      "{ .reg .pred p; setp.ne.b32 p, 1, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
      ", {%32, %33, %34, %35}, %36, p, 1, 1, 1; }\n"
      : ACCUMULATORS
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef ACCUMULATORS

#endif

/**
 * products = or += one slice, 16 columns, of the queries (64 x 64) * one of the keys (64 x 64) transposed; both in shared
 * memory.
 */
template <class T>
__device__ inline void groupMultiplySlice(float (&products)[8][4], const T* queries, int querySlice, const T* keys, int keySlice,
                                          bool add) {
#ifdef ONNX_REWRITE_EMULATE_CUDA
  emulation::multiplySlice<T>(products, SharedMatrix<T, 64>{const_cast<T*>(queries)}, querySlice,
                              SharedMatrix<T, 64>{const_cast<T*>(keys)}, keySlice, add);
#else
  multiplyShared<T>(products, operand(queries) + 2 * querySlice, operand(keys) + 2 * keySlice, add);
#endif
}

/** products = queries (64 x 64) * keys (64 x 64) transposed; both in shared memory. */
template <class T>
__device__ inline void groupMultiplyKeys(float (&products)[8][4], const T* queries, const T* keys) {
#pragma unroll
  for (int k = 0; k < 4; k++) groupMultiplySlice(products, queries, k, keys, k, k > 0);
}

/** sum += weights (64 x 64, this thread's part packed in pairs) * values (64 x 64, shared). */
template <class T>
__device__ inline void groupMultiplyValues(float (&sum)[8][4], const uint32_t (&weights)[4][4], const T* values) {
#ifdef ONNX_REWRITE_EMULATE_CUDA
  emulation::multiplyValues<T>(sum, weights, SharedMatrix<T, 64>{const_cast<T*>(values)});
#else
  const uint64_t b = operand(values);
#pragma unroll
  for (int k = 0; k < 4; k++) multiplyRegisters<T>(sum, weights[k], b + (k * 16 * 128 >> 4));
#endif
}

#undef ONNX_REWRITE_HOPPER_ASM

}  // namespace onnxrewrite::cuda
