// Device memory of one call, taken from a single allocation: laid out once to learn the size, once more for real.
#pragma once

#include <cstddef>

namespace onnxrewrite::cuda {

class Arena {
 public:
  /** A null `base` only measures. */
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}

  /** Room for `count` elements, 256-byte aligned; null while measuring. */
  template <class V>
  V* take(size_t count) {
    size_t at = used_;
    used_ += (count * sizeof(V) + 255) / 256 * 256;
    return base_ ? reinterpret_cast<V*>(base_ + at) : nullptr;
  }

  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

}  // namespace onnxrewrite::cuda
