// What every library of operators exports, the one of CUDA kernels included.
#include "operators.h"

ONNXREWRITE_EXPORT const onnxrewrite::ort::CustomOp* const* OnnxRewriteOperators(size_t* count) {
  static const std::vector<const onnxrewrite::ort::CustomOp*> ops = onnxrewrite::Registration::all();
  *count = ops.size();
  return ops.data();
}
