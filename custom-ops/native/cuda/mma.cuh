// Tensor-core building blocks, sm_80 and later: asynchronous copies, fragment loads, and products with float32
// accumulators: m16n8k16 of 16-bit types, m16n8k8 of TF32.
//
// Fragment layout (lane = 4 * g + t): an accumulator holds rows g and g + 8 of columns 2t and 2t + 1 of a 16 x 8
// tile, in the order (g, 2t) (g, 2t+1) (g+8, 2t) (g+8, 2t+1). Two neighboring accumulator tiles, converted to
// 16 bits, are the A operand of a following product.
#pragma once

#include "platform.cuh"

namespace onnxrewrite::cuda {

/** Four 8 x 8 matrices from shared memory; lane l gives the address of row l % 8 of matrix l / 8. */
__device__ inline void loadMatrices(uint32_t (&fragment)[4], const void* row) {
#ifdef ONNX_REWRITE_EMULATE_CUDA
  emulation::loadMatrices(fragment, row, false);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row))));
#endif
}

/** The same with every matrix transposed. */
__device__ inline void loadMatricesTransposed(uint32_t (&fragment)[4], const void* row) {
#ifdef ONNX_REWRITE_EMULATE_CUDA
  emulation::loadMatrices(fragment, row, true);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row))));
#endif
}

/** sum += a (16 x 16) * b (16 x 8). */
template <class T>
__device__ inline void multiplyAdd(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ inline void multiplyAdd<__half>(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef ONNX_REWRITE_EMULATE_CUDA
  emulation::multiplyAdd<__half>(sum, a, b0, b1);
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

template <>
__device__ inline void multiplyAdd<__nv_bfloat16>(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef ONNX_REWRITE_EMULATE_CUDA
  emulation::multiplyAdd<__nv_bfloat16>(sum, a, b0, b1);
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

/** sum += a (16 x 8) * b (8 x 8) in TF32: of every number only sign, exponent and the first 10 bits of the mantissa count. */
__device__ inline void multiplyAddTf32(float (&sum)[4], const float (&a)[4], float b0, float b1) {
#ifdef ONNX_REWRITE_EMULATE_CUDA
  emulation::multiplyAddTf32(sum, a, b0, b1);
#else
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
#endif
}

/** Copies 16 bytes from global to shared memory without waiting, or zeroes them where `valid` is false. */
__device__ inline void copyAsync(void* shared, const void* global, bool valid) {
#ifdef ONNX_REWRITE_EMULATE_CUDA
  emulation::copyAsync(shared, global, valid, 16);
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global), "r"(valid ? 16 : 0)
               : "memory");
#endif
}

/** The same for one 4-byte word. */
__device__ inline void copyWordAsync(void* shared, const void* global, bool valid) {
#ifdef ONNX_REWRITE_EMULATE_CUDA
  emulation::copyAsync(shared, global, valid, 4);
#else
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global), "r"(valid ? 4 : 0)
               : "memory");
#endif
}

/** Closes a group of this thread's asynchronous copies. */
__device__ inline void commitCopies() {
#ifdef ONNX_REWRITE_EMULATE_CUDA
  emulation::commitCopies();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/** Waits until at most `Pending` of this thread's groups are under way; a barrier must follow. */
template <int Pending>
__device__ inline void waitForCopies() {
#ifdef ONNX_REWRITE_EMULATE_CUDA
  emulation::waitForCopies(Pending);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
#endif
}

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

/** 2^x, flushing denormals; 2^-infinity is 0. */
__device__ inline float exp2Fast(float x) {
#ifdef ONNX_REWRITE_EMULATE_CUDA
  return exp2f(x);
#else
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#endif
}

/** Two 16-bit numbers in one word. */
template <class T>
struct Pair;

template <>
struct Pair<__half> {
  __device__ static uint32_t pack(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
  }
  __device__ static float2 unpack(uint32_t bits) {
    __half2 pair;
    memcpy(static_cast<void*>(&pair), &bits, sizeof bits);
    return __half22float2(pair);
  }
};

template <>
struct Pair<__nv_bfloat16> {
  __device__ static uint32_t pack(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
  }
  __device__ static float2 unpack(uint32_t bits) {
    __nv_bfloat162 pair;
    memcpy(static_cast<void*>(&pair), &bits, sizeof bits);
    return __bfloat1622float2(pair);
  }
};

/** Matrix in shared memory, `Columns` a multiple of 64, in 16-byte pieces xored by row: no bank conflicts. */
template <class T, int Columns>
struct SharedMatrix {
  /** Numbers of a piece, and pieces of a row. */
  static constexpr int kPiece = 16 / sizeof(T), kPieces = Columns / kPiece;
  T* data;

  __device__ T* piece(int row, int index) const {
    // Float32 operands are read as pieces of four columns of two neighboring rows, and of two columns of every other row.
    const int moved = sizeof(T) == 2 ? row & 7 : (row & 6) ^ (row & 1) << 2;
    return data + row * Columns + (index ^ moved) * kPiece;
  }
  __device__ T& at(int row, int column) const { return piece(row, column / kPiece)[column % kPiece]; }
};

}  // namespace onnxrewrite::cuda
