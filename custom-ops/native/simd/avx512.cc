#include "simd.h"

#if defined(__x86_64__)

#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#endif

#define ONNXREWRITE_AVX512
#define ONNXREWRITE_SIMD avx512
#define ONNXREWRITE_SIMD_NAME "avx512"
#define ONNXREWRITE_VECTOR_BYTES 64
#define ONNXREWRITE_VECTOR_REGISTERS 32
#include "kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace onnxrewrite {
extern const Simd* const kSimdAvx512;
const Simd* const kSimdAvx512 = &avx512::table;
}  // namespace onnxrewrite

#endif
