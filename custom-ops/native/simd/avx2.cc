#include "simd.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#define ONNXREWRITE_SIMD avx2
#define ONNXREWRITE_SIMD_NAME "avx2"
#define ONNXREWRITE_VECTOR_BYTES 32
#define ONNXREWRITE_VECTOR_REGISTERS 16
#include "kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace onnxrewrite {
extern const Simd* const kSimdAvx2;
const Simd* const kSimdAvx2 = &avx2::table;
}  // namespace onnxrewrite

#endif
