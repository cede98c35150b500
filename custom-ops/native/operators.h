// Where operators are listed. A kernel's source file holds one Registration per OrtCustomOp; the
// libraries of operators, one for the CPU and one for CUDA, export them through two functions:
//
//   OnnxRewriteOperators  the library's operators as a list, for whoever picks some, or puts the operators of
//                         several libraries in one domain object: ONNX Runtime refuses a second one.
//   RegisterCustomOps     of the CPU's library alone; what ONNX Runtime's own loaders call (Python, C#, Triton):
//                         registers everything in one domain object, the CUDA library's operators included when
//                         it lies in the same folder.
#pragma once

#include <vector>

#include "ort_abi.h"

#define ONNXREWRITE_EXPORT extern "C" __attribute__((visibility("default")))

namespace onnxrewrite {

constexpr const char* kDomain = "ai.onnxrewrite";

// Keeps an operator in the list of its library; static storage only.
class Registration {
 public:
  explicit Registration(const ort::CustomOp& op) : next_(first_), op_(op) { first_ = this; }
  Registration(const Registration&) = delete;
  Registration& operator=(const Registration&) = delete;

  static std::vector<const ort::CustomOp*> all() {
    std::vector<const ort::CustomOp*> ops;
    for (const Registration* entry = first_; entry; entry = entry->next_) ops.push_back(&entry->op_);
    return ops;
  }

 private:
  static inline const Registration* first_ = nullptr;
  const Registration* const next_;
  const ort::CustomOp& op_;
};

// Signature of OnnxRewriteOperators. The list lives as long as the library.
using ListOperators = const ort::CustomOp* const* (*)(size_t* count);

}  // namespace onnxrewrite
