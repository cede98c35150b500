// Tensors as the vector kernels read them.
#pragma once

#include <initializer_list>

#include "environment.h"
#include "float16.h"
#include "kernel.h"

namespace onnxrewrite {

// Elements [at, at + count) of a tensor of float32 or float16.
inline void toFloats(const TensorView& tensor, size_t at, size_t count, float* out) {
  if (tensor.type == ort::kFloat16) {
    const uint16_t* in = tensor.as<const uint16_t>() + at;
    for (size_t n = 0; n < count; n++) out[n] = fromHalf(in[n]);
  } else {
    std::copy_n(tensor.as<const float>() + at, count, out);
  }
}

// Rows of one or two tensors in float32, padded to multiples of kLanes: in place where they already are.
class PaddedRows {
 public:
  // `parts` are tensors [heads][rows][size] whose rows follow each other, head by head.
  PaddedRows(const Environment& environment, size_t heads, std::initializer_list<const TensorView*> parts,
             std::initializer_list<size_t> rowCounts, size_t size) {
    const size_t padded = roundUpToLanes(size);
    const TensorView& last = **(parts.end() - 1);
    if (parts.size() == 1 && last.type == ort::kFloat && padded == size) {
      data_ = last.as<const float>();
      return;
    }
    size_t rows = 0;
    for (const size_t count : rowCounts) rows += count;
    float* target = copy_.reset(environment.allocator, std::max<size_t>(1, heads * rows * padded));
    data_ = target;
    environment.parallel.forEach(heads, [&](size_t head, size_t) {
      float* out = target + head * rows * padded;
      auto count = rowCounts.begin();
      for (const TensorView* part : parts) {
        for (size_t n = head * *count; n < (head + 1) * *count; n++, out += padded) {
          toFloats(*part, n * size, size, out);
          std::fill(out + size, out + padded, 0.f);
        }
        count++;
      }
    });
  }

  const float* data() const { return data_; }

 private:
  Buffer<float> copy_;
  const float* data_;
};

}  // namespace onnxrewrite
