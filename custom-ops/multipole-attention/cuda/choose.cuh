// The choice of retrieved clusters for pools of neighboring rows: their mean masses, then the largest ones of every
// pool. Pools that overlap (`sliding`) take their sums from tensor cores, as the product of a 0/1 band (which rows a
// pool averages, times each row's norm) with the rows' masses.
#pragma once

#include "attend.cuh"

namespace onnxrewrite::multipole::cuda {

/** Most clusters per pool that chooseSliding finds. */
constexpr int kMostChosen = 64;
/** Candidates beyond the wanted ones that may stay until the last tile. */
constexpr int kSlack = 16;
/** Sums of masses below this are nothing but rounding; the least float16 above 0. */
constexpr float kLeastMass = 1.f / (1 << 24);
constexpr uint32_t kLeastMassBits = 1;

/** One warp's work: 16 pools and the largest sums found for each so far, as bits of float16, which have their order. */
struct ChooseShared {
  static constexpr int kWarps = 4, kPools = 16, kCandidates = kMostChosen + kColumns;
  /** Rows of candidates are padded, so that eight pools side by side lie in different banks. */
  static constexpr int kStride = kCandidates + 8;
  alignas(4) uint16_t mass[kPools][kStride];
  alignas(4) uint16_t cluster[kPools][kStride];
  int count[kPools];
};

/** How many of the float16 numbers, two in a word, are at least the one with the bits `bound`; up to 64 words. */
template <int Words>
__device__ inline int countAtLeast(const uint32_t (&pairs)[Words], uint32_t bound) {
#ifdef ONNX_REWRITE_EMULATE_CUDA
  int found = 0;
  for (uint32_t pair : pairs) found += ((pair & 0xffff) >= bound) + (pair >> 16 >= bound);
  return found;
#else
  const uint32_t bounds = bound * 0x10001u;
  uint32_t found = 0;
#pragma unroll
  for (int i = 0; i < Words; i++)
    asm("{ .reg .b32 reached; set.ge.f16x2.f16x2 reached, %1, %2; add.f16x2 %0, %0, reached; }"
        : "+r"(found)
        : "r"(pairs[i]), "r"(bounds));
  const float2 counts = Pair<__half>::unpack(found);
  return static_cast<int>(counts.x + counts.y);
#endif
}

/** Sum of `value` over the four lanes that share a pool. */
__device__ inline int quadSum(int value) {
  value += __shfl_xor_sync(kWholeWarp, value, 1);
  return value + __shfl_xor_sync(kWholeWarp, value, 2);
}

/** Sum of `value` over the lanes before this one of the four that share a pool. */
__device__ inline int quadBefore(int value) {
  const int t = threadIdx.x % 4;
  const int below = __shfl_up_sync(kWholeWarp, value, 1), two = value + (t > 0 ? below : 0);
  const int further = __shfl_up_sync(kWholeWarp, two, 2);
  return two + (t > 1 ? further : 0) - value;
}

/**
 * Keeps the largest of the candidates of pools g and g + 8 (lane = 4 g + t), at least `wanted` and at most `most` of
 * them, ties to the lowest cluster when the two are equal, and raises `least` to the smallest mass kept once there are
 * that many. `most` above `wanted` is found in fewer steps. Four lanes share a pool.
 */
__device__ inline void keepLargest(ChooseShared& shared, int wanted, int most, uint32_t (&least)[2]) {
  constexpr int kWords = ChooseShared::kCandidates / 8;
  const int lane = threadIdx.x % 32, t = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int pool = lane / 4 + 8 * half, count = shared.count[pool];
    // A lane holds words t, t + 4, ... of two candidates each; 0 where there is none.
    auto word = [&](const uint16_t* of, int i) { return reinterpret_cast<const uint32_t*>(of)[4 * i + t]; };
    auto bits = [](uint32_t pair, int which) { return pair >> 16 * which & 0xffff; };
    uint32_t mass[kWords];
    uint32_t highest = 0;
#pragma unroll
    for (int i = 0; i < kWords; i++) {
      const int left = count - 2 * (4 * i + t);
      mass[i] = left <= 0 ? 0 : word(shared.mass[pool], i) & (left == 1 ? 0xffffu : ~0u);
      highest = max(highest, max(bits(mass[i], 0), bits(mass[i], 1)));
    }
    highest = max(highest, __shfl_xor_sync(kWholeWarp, highest, 1));
    highest = max(highest, __shfl_xor_sync(kWholeWarp, highest, 2));
    // `low` has at least `wanted` masses at or above it, `high` fewer; a pool with few candidates keeps all.
    uint32_t low = kLeastMassBits, high = highest + 1;
    const bool choosing = count > most;
    int atLow = choosing ? count : wanted;
    while (__any_sync(kWholeWarp, atLow > most && high - low > 1)) {
      const uint32_t middle = low + (high - low) / 2;
      const int found = quadSum(countAtLeast(mass, middle));
      if (atLow <= most || high - low <= 1) continue;
      if (found >= wanted) {
        low = middle;
        atLow = found;
      } else {
        high = middle;
      }
    }
    uint32_t cluster[kWords];
#pragma unroll
    for (int i = 0; i < kWords; i++) cluster[i] = word(shared.cluster[pool], i);
    // More than that only if equal masses straddle the bound: among those the lowest clusters stay.
    int lastTie = 0xffff;
    if (__any_sync(kWholeWarp, atLow > most)) {
      const int above = quadSum(countAtLeast(mass, low + 1));
      int first = -1, end = 0xffff;
      while (__any_sync(kWholeWarp, atLow > most && end - first > 1)) {
        const int middle = first + (end - first) / 2;
        int found = 0;
#pragma unroll
        for (int i = 0; i < kWords; i++)
#pragma unroll
          for (int which = 0; which < 2; which++)
            found += bits(mass[i], which) == low && static_cast<int>(bits(cluster[i], which)) <= middle;
        found = quadSum(found);
        if (end - first <= 1) continue;
        if (above + found >= wanted)
          end = middle;
        else
          first = middle;
      }
      if (atLow > most) lastTie = end;
    }
    auto stays = [&](int i, int which) {
      const uint32_t own = bits(mass[i], which);
      return own > low || (own == low && static_cast<int>(bits(cluster[i], which)) <= lastTie);
    };
    int kept = 0;
#pragma unroll
    for (int i = 0; i < kWords; i++) kept += stays(i, 0) + stays(i, 1);
    int at = quadBefore(kept);
    kept = quadSum(kept);
    __syncwarp();
    if (choosing) {
#pragma unroll
      for (int i = 0; i < kWords; i++)
#pragma unroll
        for (int which = 0; which < 2; which++)
          if (stays(i, which)) {
            shared.mass[pool][at] = static_cast<uint16_t>(bits(mass[i], which));
            shared.cluster[pool][at++] = static_cast<uint16_t>(bits(cluster[i], which));
          }
      if (t == 0) shared.count[pool] = kept;
      least[half] = low;
    }
    __syncwarp();
  }
}

/** Words of shared memory for the bits of 16 pools. */
__host__ __device__ inline size_t chooseSharedBytes(int words) {
  return ChooseShared::kWarps * (sizeof(ChooseShared) + static_cast<size_t>(ChooseShared::kPools) * words * sizeof(uint32_t));
}

/** Choices of 16 `sliding` pools per warp, for the heads of `masses`. */
__global__ void __launch_bounds__(128)
    chooseSliding(Geometry g, RetrieveCounts retrieve, Pools pools, Masses masses, ChosenClusters chosen) {
  const int head = masses.firstHead + blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32, row8 = lane / 4, t = lane % 4;
  const int firstPool = (blockIdx.x * ChooseShared::kWarps + warp) * ChooseShared::kPools, poolCount = pools.count();
  const int wanted = retrieve.of(g, head);
  if (firstPool >= poolCount) return;
  auto& shared = reinterpret_cast<ChooseShared*>(dynamicShared())[warp];
  uint32_t* bits = reinterpret_cast<uint32_t*>(dynamicShared() + ChooseShared::kWarps * sizeof(ChooseShared)) +
                   warp * ChooseShared::kPools * chosen.words;
  for (int i = lane; i < ChooseShared::kPools * chosen.words; i += 32) bits[i] = 0;
  if (lane < ChooseShared::kPools) shared.count[lane] = 0;
  __syncwarp();

  // Rows of the pools that this lane's products belong to, and of all 16.
  Range own[2];
  int from = g.rows, to = 0;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int pool = firstPool + row8 + 8 * half;
    own[half] = pool < poolCount ? pools.rows(pool) : Range{0, 0};
    if (own[half].size() > 0) {
      from = min(from, own[half].begin);
      to = max(to, own[half].end);
    }
  }
  from = static_cast<int>(__reduce_min_sync(kWholeWarp, static_cast<unsigned>(from)));
  to = static_cast<int>(__reduce_max_sync(kWholeWarp, static_cast<unsigned>(to)));

  // Where the far field of one of these rows ends when causal; their segments without a division each.
  const int firstSegment = from < to ? g.segmentOf(from) : 0, firstEnd = (firstSegment + 1) * g.segment - g.offset;
  auto farEnd = [&](int row) {
    int segment = firstSegment;
    if (row >= firstEnd) segment += row - firstEnd < g.segment ? 1 : 1 + (row - firstEnd) / g.segment;
    return (segment - g.window) * g.keyClusters;
  };
  uint32_t least[2] = {kLeastMassBits, kLeastMassBits};
  // Clusters that some row uses by summary; nearest ones first, which are likely to be large.
  const int seen = wanted <= 0 || from >= to ? 0 : g.causal ? g.nearClusters(to - 1).begin : g.clusters();
  for (int tile = ceilDiv(seen, kColumns) - 1; tile >= 0; tile--) {
    float sum[kColumns / 8][4] = {}, zero[4] = {};
    for (int base = from; base < to; base += 16) {
      float weight[4];
      uint2 codes[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int row = base + 2 * t + i % 2 + i / 2 * 8;
        // Rows without this tile in their far field have no masses there.
        const bool far = row < to && (!g.causal || tile * kColumns < farEnd(row));
        weight[i] = 0;
        codes[i] = make_uint2(0, 0);
        if (!far) continue;
        const size_t at = masses.at(g, head, row, tile);
        const float norm = masses.norms[static_cast<size_t>(head) * g.rows + row];
        weight[i] = norm == -INFINITY ? 0.f : exp2Fast(masses.peaks[at] - norm);
        codes[i] = reinterpret_cast<const uint2*>(masses.codes + at * kColumns)[row8];
      }
      uint32_t band[4];
#pragma unroll
      for (int word = 0; word < 4; word++) {
        const int row = base + 2 * t + word / 2 * 8, half = word % 2, i = word / 2 * 2;
        const bool low = row >= own[half].begin && row < own[half].end;
        const bool high = row + 1 >= own[half].begin && row + 1 < own[half].end;
        band[word] = Pair<__nv_bfloat16>::pack(low ? weight[i] : 0.f, high ? weight[i + 1] : 0.f);
      }
#pragma unroll
      for (int n = 0; n < kColumns / 8; n++) {
        // Byte n of two rows becomes a pair of bfloat16: a code times 8 is exponent and mantissa but for the bias.
        uint32_t b[2];
#pragma unroll
        for (int word = 0; word < 2; word++) {
          const unsigned low = n < 4 ? codes[2 * word].x : codes[2 * word].y;
          const unsigned high = n < 4 ? codes[2 * word + 1].x : codes[2 * word + 1].y;
          b[word] = __byte_perm(low, high, 0x0400u + 0x0101u * (n % 4)) & 0x00ff00ffu;
          b[word] = b[word] * 8 + Masses::kLeastExponent * 0x00800080u;
        }
        multiplyAdd<__nv_bfloat16>(sum[n], band, b[0], b[1]);
      }
      const uint32_t zeros = Pair<__nv_bfloat16>::pack(Masses::kZero, Masses::kZero);
      multiplyAdd<__nv_bfloat16>(zero, band, zeros, zeros);
    }

    int most = 0;
#pragma unroll
    for (int half = 0; half < 2; half++) most = max(most, shared.count[row8 + 8 * half]);
    if (__any_sync(kWholeWarp, most > ChooseShared::kCandidates - kColumns))
      keepLargest(shared, wanted, min(wanted + kSlack, kMostChosen), least);
    __syncwarp();
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int pool = row8 + 8 * half;
      auto bits = [&](int n, int i) {
        return Pair<__half>::pack(fmaxf(sum[n][2 * half + i] - zero[2 * half + i], 0.f), 0.f);
      };
      int added = 0;
#pragma unroll
      for (int n = 0; n < kColumns / 8; n++) added += (bits(n, 0) >= least[half]) + (bits(n, 1) >= least[half]);
      const int before = shared.count[pool];
      int at = before + quadBefore(added);
      added = quadSum(added);
#pragma unroll
      for (int n = 0; n < kColumns / 8; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
          if (bits(n, i) < least[half]) continue;
          // See Masses: product column 2 t + i of tile n is byte 8 (2 t + i) + n.
          const int column = (i * 4 + n / 2) * 8 + 2 * t + n % 2;
          shared.mass[pool][at] = static_cast<uint16_t>(bits(n, i));
          shared.cluster[pool][at++] = static_cast<uint16_t>(tile * kColumns + column);
        }
      __syncwarp();
      if (t == 0) shared.count[pool] = before + added;
    }
    __syncwarp();
  }
  keepLargest(shared, wanted, wanted, least);
  for (int pool = 0; pool < ChooseShared::kPools; pool++)
    for (int i = lane; i < shared.count[pool]; i += 32) {
      const int cluster = shared.cluster[pool][i];
      atomicOr(&bits[pool * chosen.words + cluster / 32], 1u << cluster % 32);
    }
  __syncwarp();
  for (int i = lane; i < ChooseShared::kPools * chosen.words; i += 32)
    if (firstPool + i / chosen.words < poolCount)
      chosen.of(pools, head, firstPool + i / chosen.words)[i % chosen.words] = bits[i];
}

/** Shared memory of chooseTiles: the masses of all clusters. */
__host__ __device__ inline size_t chooseTilesSharedBytes(int tiles) { return static_cast<size_t>(tiles) * kColumns * sizeof(uint32_t); }

/** Choices of one `tile` pool per block, for the heads of `masses`. The rows of a pool have the same far field. */
__global__ void __launch_bounds__(128)
    chooseTiles(Geometry g, RetrieveCounts retrieve, Pools pools, Masses masses, ChosenClusters chosen) {
  constexpr int kWarps = 4, kRowsAtATime = 8, kOwn = 16;
  const int head = masses.firstHead + blockIdx.y, pool = blockIdx.x, thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const int wanted = retrieve.of(g, head);
  auto* mass = reinterpret_cast<uint32_t*>(dynamicShared());
  __shared__ int byWarp[kWarps];
  const Range rows = pools.rows(pool);
  const bool far = wanted > 0 && rows.size() > 0 && g.blockOf(rows.begin) >= 0;
  const int clusters = !far ? 0 : g.causal ? g.nearClusters(rows.begin).begin : g.clusters(), tiles = ceilDiv(clusters, kColumns);

  // Four lanes share a row, each with 16 of the tile's 64 codes; the rows of the warp's eight groups are added up last.
  for (int tile = warp; tile < tiles; tile += kWarps) {
    float sum[kOwn] = {}, zero = 0;
    for (int row = rows.begin + lane / 4; row < rows.end; row += kRowsAtATime) {
      const size_t at = masses.at(g, head, row, tile);
      const float norm = masses.norms[static_cast<size_t>(head) * g.rows + row];
      const float weight = norm == -INFINITY ? 0.f : exp2Fast(masses.peaks[at] - norm);
      const uint4 codes = reinterpret_cast<const uint4*>(masses.codes + at * kColumns)[lane % 4];
      const unsigned words[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
      for (int i = 0; i < kOwn; i++) sum[i] += weight * Masses::decode(words[i / 4] >> i % 4 * 8 & 0xff);
      zero += weight * Masses::kZero;
    }
#pragma unroll
    for (int i = 0; i < kOwn; i++) {
      float total = sum[i] - zero;
      for (int distance = 4; distance < 32; distance *= 2) total += __shfl_xor_sync(kWholeWarp, total, distance);
      // See Masses: byte 16 t + 2 n + i % 2 belongs to column 8 n + 2 t + i % 2.
      const int column = i / 2 * 8 + lane % 4 * 2 + i % 2;
      if (lane / 4 == i % 8) mass[tile * kColumns + column] = __float_as_uint(fmaxf(total, 0.f));
    }
  }
  __syncthreads();

  // The largest bound that `wanted` masses reach, or the least mass that counts.
  uint32_t bound = __float_as_uint(kLeastMass), end = __float_as_uint(2.f * static_cast<float>(rows.size() + 1));
  auto atLeast = [&](uint32_t least) {
    int found = 0;
    for (int c = thread; c < tiles * kColumns; c += 128) found += mass[c] >= least;
    for (int distance = 16; distance > 0; distance /= 2) found += __shfl_xor_sync(kWholeWarp, found, distance);
    __syncthreads();
    if (lane == 0) byWarp[warp] = found;
    __syncthreads();
    return byWarp[0] + byWarp[1] + byWarp[2] + byWarp[3];
  };
  if (far && atLeast(bound) > wanted)
    while (end - bound > 1) {
      const uint32_t middle = bound + (end - bound) / 2;
      (atLeast(middle) >= wanted ? bound : end) = middle;
    }
  int ties = far ? wanted - atLeast(bound + 1) : 0;
  if (warp > 0) return;
  uint32_t* set = chosen.of(pools, head, pool);
  for (int word = 0; word < chosen.words; word++) {
    const int cluster = word * 32 + lane;
    const uint32_t own = cluster < tiles * kColumns ? mass[cluster] : 0;
    const unsigned equal = __ballot_sync(kWholeWarp, own == bound);
    const bool first = own == bound && __popc(equal & ((1u << lane) - 1)) < ties;
    const unsigned bits = __ballot_sync(kWholeWarp, own > bound || first);
    ties = max(0, ties - __popc(equal));
    if (lane == 0) set[word] = bits;
  }
}

}  // namespace onnxrewrite::multipole::cuda
