// Operands of products on tensor cores in parts of 16 x 16 numbers, alike for 16-bit types and float32.
//
// A float32 number x goes in as two TF32 numbers, x rounded to 11 bits and the rest, and a product as three: what is left
// out is below 2^-21 of it. As many products of three bfloat16 numbers (six) take as long, two float16 numbers have not the
// range. Sums over whole tiles are added up by ordinary instructions, since tensor cores cut off instead of rounding.
//
// The order in which a product runs over its inner dimension is free, so that float32 operands are read in wide pieces and
// accumulators serve as left operands where they are. With lane = 4 g + t, a thread's numbers of 16 columns are, in float32,
// 4 t to 4 t + 3, and its two accumulator tiles hold them as (0, 2) and (1, 3).
#pragma once

#include "mma.cuh"

#include <type_traits>

namespace onnxrewrite::cuda {

template <class T>
constexpr bool kSingle = std::is_same_v<T, float>;

/** A thread's part of a left or right operand: pairs of 16-bit numbers, or float32 ones. */
template <class T>
using OperandPart = std::conditional_t<kSingle<T>, float[8], uint32_t[4]>;

/** Rows [row, row + 16) and columns [16 k, 16 k + 16) as a left operand. */
template <class T, int Columns>
__device__ inline void loadLeft(OperandPart<T>& part, SharedMatrix<T, Columns> matrix, int row, int k) {
  const int lane = threadIdx.x % 32;
  if constexpr (kSingle<T>) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float4 four = *reinterpret_cast<const float4*>(matrix.piece(row + lane / 4 + 8 * half, 4 * k + lane % 4));
      part[half] = four.x;
      part[2 + half] = four.y;
      part[4 + half] = four.z;
      part[6 + half] = four.w;
    }
  } else {
    loadMatrices(part, matrix.piece(row + (lane & 7) + (lane & 8), 2 * k + lane / 16));
  }
}

/** Rows [row, row + 16) as the columns of a right operand, over their columns [16 k, 16 k + 16). */
template <class T, int Columns>
__device__ inline void loadKeys(OperandPart<T>& part, SharedMatrix<T, Columns> matrix, int row, int k) {
  const int lane = threadIdx.x % 32;
  if constexpr (kSingle<T>) {
#pragma unroll
    for (int tile = 0; tile < 2; tile++) {
      const float4 four = *reinterpret_cast<const float4*>(matrix.piece(row + lane / 4 + 8 * tile, 4 * k + lane % 4));
      part[4 * tile] = four.x;
      part[4 * tile + 1] = four.y;
      part[4 * tile + 2] = four.z;
      part[4 * tile + 3] = four.w;
    }
  } else {
    loadMatrices(part, matrix.piece(row + (lane & 7) + lane / 16 * 8, 2 * k + (lane / 8 & 1)));
  }
}

/** Columns [8 n, 8 n + 16), n even, of a right operand over the rows [row, row + 16). */
template <class T, int Columns>
__device__ inline void loadValues(OperandPart<T>& part, SharedMatrix<T, Columns> matrix, int row, int n) {
  const int lane = threadIdx.x % 32;
  if constexpr (kSingle<T>) {
    const int column = 8 * n + lane / 4 * 2;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float2 two = *reinterpret_cast<const float2*>(&matrix.at(row + i / 2 * 8 + lane % 4 * 2 + i % 2, column));
      part[i] = two.x;
      part[4 + i] = two.y;
    }
  } else {
    loadMatricesTransposed(part, matrix.piece(row + (lane & 7) + (lane & 8), n + lane / 16));
  }
}

/** Two neighboring accumulator tiles as a left operand over their columns. */
template <class T>
__device__ inline void packLeft(OperandPart<T>& part, const float (&low)[4], const float (&high)[4]) {
  if constexpr (kSingle<T>) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      part[i] = low[i % 2 * 2 + i / 2];
      part[4 + i] = high[i % 2 * 2 + i / 2];
    }
  } else {
    part[0] = Pair<T>::pack(low[0], low[1]);
    part[1] = Pair<T>::pack(low[2], low[3]);
    part[2] = Pair<T>::pack(high[0], high[1]);
    part[3] = Pair<T>::pack(high[2], high[3]);
  }
}

/** The TF32 number next to x. */
__device__ inline float leadingPart(float x) { return __uint_as_float((__float_as_uint(x) + 0x1000u) & ~0x1fffu); }

/** sum += left * tile 0 or 1 of the right operand; products of rests go to `rest`, which may be `sum`. */
__device__ inline void multiplyAddSingle(float (&sum)[4], float (&rest)[4], const float (&left)[8], const float (&right)[8],
                                         int tile) {
#pragma unroll
  for (int step = 0; step < 2; step++) {
    float lead[4], tail[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      lead[i] = leadingPart(left[4 * step + i]);
      tail[i] = left[4 * step + i] - lead[i];
    }
    const float b0 = right[4 * tile + 2 * step], b1 = right[4 * tile + 2 * step + 1];
    const float lead0 = leadingPart(b0), lead1 = leadingPart(b1);
    multiplyAddTf32(rest, tail, lead0, lead1);
    multiplyAddTf32(rest, lead, b0 - lead0, b1 - lead1);
    multiplyAddTf32(sum, lead, lead0, lead1);
  }
}

/** The accumulators of two neighboring tiles += left * right, over few parts. */
template <class T>
__device__ inline void multiplyAddPart(float (&low)[4], float (&high)[4], const OperandPart<T>& left, const OperandPart<T>& right) {
  if constexpr (kSingle<T>) {
    multiplyAddSingle(low, low, left, right, 0);
    multiplyAddSingle(high, high, left, right, 1);
  } else {
    multiplyAdd<T>(low, left, right[0], right[1]);
    multiplyAdd<T>(high, left, right[2], right[3]);
  }
}

/** What a thread holds of one row and 16 columns in the accumulators of two tiles: (low.x, low.y), (high.x, high.y). */
struct RowPart {
  float2 low, high;

  /** Rounded to T. */
  template <class T>
  __device__ RowPart rounded() const {
    if constexpr (kSingle<T>) return *this;
    else
      return {Pair<T>::unpack(Pair<T>::pack(low.x, low.y)), Pair<T>::unpack(Pair<T>::pack(high.x, high.y))};
  }
  __device__ float dot(const RowPart& other) const {
    return low.x * other.low.x + low.y * other.low.y + high.x * other.high.x + high.y * other.high.y;
  }
};

/** A row (half 0 or 1) of a left operand, by the columns that accumulators would have there. */
template <class T>
__device__ inline RowPart rowPart(const OperandPart<T>& left, int half) {
  if constexpr (kSingle<T>)
    return {{left[half], left[4 + half]}, {left[2 + half], left[6 + half]}};
  else
    return {Pair<T>::unpack(left[half]), Pair<T>::unpack(left[2 + half])};
}

/** Tiles n and n + 1 of a row of a shared matrix. */
template <class T, int Columns>
__device__ inline void storePart(SharedMatrix<T, Columns> matrix, int row, int n, const RowPart& part) {
  const int t = threadIdx.x % 4;
  if constexpr (kSingle<T>) {
    *reinterpret_cast<float4*>(matrix.piece(row, 2 * n + t)) = make_float4(part.low.x, part.high.x, part.low.y, part.high.y);
  } else {
    *reinterpret_cast<uint32_t*>(&matrix.at(row, n * 8 + 2 * t)) = Pair<T>::pack(part.low.x, part.low.y);
    *reinterpret_cast<uint32_t*>(&matrix.at(row, n * 8 + 8 + 2 * t)) = Pair<T>::pack(part.high.x, part.high.y);
  }
}
template <class T, int Columns>
__device__ inline RowPart loadPart(SharedMatrix<T, Columns> matrix, int row, int n) {
  const int t = threadIdx.x % 4;
  if constexpr (kSingle<T>) {
    const float4 four = *reinterpret_cast<const float4*>(matrix.piece(row, 2 * n + t));
    return {{four.x, four.z}, {four.y, four.w}};
  } else {
    return {Pair<T>::unpack(*reinterpret_cast<const uint32_t*>(&matrix.at(row, n * 8 + 2 * t))),
            Pair<T>::unpack(*reinterpret_cast<const uint32_t*>(&matrix.at(row, n * 8 + 8 + 2 * t)))};
  }
}

/** The same to a row of `dim` float32 numbers from accumulators of products with T. */
template <class T>
__device__ inline void storePart(float* row, int dim, int n, const RowPart& part) {
  const int t = threadIdx.x % 4;
  if constexpr (kSingle<T>) {
    if (n * 8 + 4 * t < dim)
      *reinterpret_cast<float4*>(row + n * 8 + 4 * t) = make_float4(part.low.x, part.high.x, part.low.y, part.high.y);
  } else {
    if (n * 8 < dim) *reinterpret_cast<float2*>(row + n * 8 + 2 * t) = part.low;
    if (n * 8 + 8 < dim) *reinterpret_cast<float2*>(row + n * 8 + 8 + 2 * t) = part.high;
  }
}

/** Columns [16 k, 16 k + 16) of a row of `dim` numbers, as the row `half` of a left operand; zeros beyond. */
template <class T>
__device__ inline void loadLeftRow(OperandPart<T>& left, int half, const T* row, int dim, int k) {
  const int t = threadIdx.x % 4;
  if constexpr (kSingle<T>) {
    const int column = 16 * k + 4 * t;
    const float4 four = column < dim ? *reinterpret_cast<const float4*>(row + column) : make_float4(0, 0, 0, 0);
    left[half] = four.x;
    left[2 + half] = four.y;
    left[4 + half] = four.z;
    left[6 + half] = four.w;
  } else {
#pragma unroll
    for (int word = 0; word < 2; word++) {
      const int column = 16 * k + 8 * word + 2 * t;
      left[2 * word + half] = column < dim ? *reinterpret_cast<const uint32_t*>(row + column) : 0;
    }
  }
}

}  // namespace onnxrewrite::cuda
