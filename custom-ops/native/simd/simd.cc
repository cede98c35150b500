#include "simd.h"

#include <cstdlib>
#include <cstring>

namespace onnxrewrite {

extern const Simd* const kSimdBaseline;
#if defined(__x86_64__)
extern const Simd* const kSimdAvx2;
extern const Simd* const kSimdAvx512;
#endif

static const Simd& choose() {
  const char* wanted = std::getenv("ONNX_REWRITE_SIMD");
  [[maybe_unused]] const auto allowed = [&](const Simd* table) { return !wanted || !std::strcmp(wanted, table->name); };
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    if (allowed(kSimdAvx512)) return *kSimdAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    if (allowed(kSimdAvx2)) return *kSimdAvx2;
    if (std::strcmp(wanted, kSimdBaseline->name)) return *kSimdAvx2;
  }
#endif
  return *kSimdBaseline;
}

const Simd& simd() {
  static const Simd& chosen = choose();
  return chosen;
}

}  // namespace onnxrewrite
