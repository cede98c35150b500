#include "simd.h"

// The instruction set that every processor of the platform has: NEON on arm64, SSE2 on x86-64.
#if defined(__aarch64__)
#define ONNXREWRITE_SIMD_NAME "neon"
#define ONNXREWRITE_VECTOR_REGISTERS 32
#else
#define ONNXREWRITE_SIMD_NAME "baseline"
#define ONNXREWRITE_VECTOR_REGISTERS 16
#endif
#define ONNXREWRITE_SIMD baseline
#define ONNXREWRITE_VECTOR_BYTES 16
#include "kernels.h"

namespace onnxrewrite {
extern const Simd* const kSimdBaseline;
const Simd* const kSimdBaseline = &baseline::table;
}  // namespace onnxrewrite
