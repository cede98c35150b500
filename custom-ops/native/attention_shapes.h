// What every attention operator asks of the shapes of its inputs.
#pragma once

#include <string>

#include "kernel.h"

namespace onnxrewrite {

inline std::string describe(const std::vector<int64_t>& dims) {
  std::string text = "[";
  for (size_t i = 0; i < dims.size(); i++) text += (i ? "," : "") + std::to_string(dims[i]);
  return text + "]";
}

inline void requireRank(const char* op, const TensorView& tensor, const char* name, size_t rank) {
  if (tensor.dims.size() == rank) return;
  refuse(op, std::string(name) + " has shape " + describe(tensor.dims) + ", not " + std::to_string(rank) +
                 " dimensions");
}

// query [B,H,N,D], key [B,G,S,D], value [B,G,S,E], G divides H.
inline void checkShapes(const char* op, const TensorView& query, const TensorView& key, const TensorView& value) {
  requireRank(op, query, "query", 4);
  requireRank(op, key, "key", 4);
  requireRank(op, value, "value", 4);
  const auto &q = query.dims, &k = key.dims, &v = value.dims;
  if (k[0] != q[0] || k[3] != q[3] || (k[1] == 0 ? q[1] != 0 : q[1] % k[1] != 0)) {
    refuse(op, "key " + describe(k) + " does not fit query " + describe(q));
  }
  if (v[0] != k[0] || v[1] != k[1] || v[2] != k[2]) {
    refuse(op, "value " + describe(v) + " does not fit key " + describe(k));
  }
}

inline void checkKeyMask(const char* op, const TensorView& mask, int64_t batch, int64_t keys) {
  requireRank(op, mask, "key_mask", 2);
  if (mask.dims[0] == batch && mask.dims[1] == keys) return;
  refuse(op, "key_mask " + describe(mask.dims) + " does not fit " + std::to_string(keys) + " keys in " +
                 std::to_string(batch) + " batch rows");
}

}  // namespace onnxrewrite
