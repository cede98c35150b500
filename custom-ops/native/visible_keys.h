// Which keys a mask leaves, as lists that the tile kernels read through.
#pragma once

#include <algorithm>
#include <vector>

#include "span.h"

namespace onnxrewrite {

class VisibleKeys {
 public:
  // `mask` is [batch][keys], or null where every key is visible.
  VisibleKeys(const bool* mask, size_t batch, size_t keys) {
    if (!mask) return;
    lists_.resize(batch);
    for (size_t b = 0; b < batch; b++) {
      for (size_t n = 0; n < keys; n++) {
        if (mask[b * keys + n]) lists_[b].push_back(static_cast<int32_t>(n));
      }
    }
  }

  // `count` keys in `index`, ascending, or all from `first` on when index is null.
  struct Part {
    const int32_t* index;
    int64_t first;
    size_t count;
  };
  // The visible keys of a range.
  Part in(size_t batch, Span range) const {
    if (range.empty()) return {nullptr, 0, 0};
    if (lists_.empty()) return {nullptr, range.begin, static_cast<size_t>(range.end - range.begin)};
    const std::vector<int32_t>& list = lists_[batch];
    const auto begin = std::lower_bound(list.begin(), list.end(), range.begin);
    const auto end = std::lower_bound(begin, list.end(), range.end);
    return {list.data() + (begin - list.begin()), 0, static_cast<size_t>(end - begin)};
  }

 private:
  std::vector<std::vector<int32_t>> lists_;  // by batch row, empty without a mask
};

}  // namespace onnxrewrite
