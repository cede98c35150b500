// The choice of retrieved clusters for pools of neighboring rows: their mean masses or expected errors, then the largest
// ones of every pool. Pools that overlap (`sliding`) take their sums from tensor cores, as the product of a 0/1 band (which rows a
// pool averages, times each row's norm) with the rows' masses.
#pragma once

#include "attend.cuh"

namespace onnxrewrite::multipole::cuda {

/** Most clusters per pool that chooseSliding finds. */
constexpr int kMostChosen = 192;
/** Candidates beyond the wanted ones that may stay until the last tile. */
constexpr int kSlack = 16;
/** Sums of masses below this are nothing but rounding; the least float16 above 0. */
constexpr float kLeastMass = 1.f / (1 << 24);
constexpr uint32_t kLeastMassBits = 1;
/** The largest float16 number. */
constexpr float kMostMass = 65504;

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
    uint32_t low = least[half], high = highest + 1;
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
            found += bits(mass[i], which) == low && static_cast<int>(bits(word(shared.cluster[pool], i), which)) <= middle;
        found = quadSum(found);
        if (end - first <= 1) continue;
        if (above + found >= wanted)
          end = middle;
        else
          first = middle;
      }
      if (atLow > most) lastTie = end;
    }
    if (__any_sync(kWholeWarp, choosing)) {
      // In order: what is kept moves to places that have been read.
      int end = 0;
#pragma unroll
      for (int i = 0; i < kWords; i++) {
        const uint32_t cluster = word(shared.cluster[pool], i);
        auto stays = [&](int which) {
          const uint32_t own = bits(mass[i], which);
          return own > low || (own == low && static_cast<int>(bits(cluster, which)) <= lastTie);
        };
        const int kept = stays(0) + stays(1);
        __syncwarp();
        int at = end + quadBefore(kept);
        end += quadSum(kept);
        if (!choosing) continue;
#pragma unroll
        for (int which = 0; which < 2; which++)
          if (stays(which)) {
            shared.mass[pool][at] = static_cast<uint16_t>(bits(mass[i], which));
            shared.cluster[pool][at++] = static_cast<uint16_t>(bits(cluster, which));
          }
      }
      if (choosing) {
        if (t == 0) shared.count[pool] = end;
        least[half] = low;
      }
    }
    __syncwarp();
  }
}

/** Sums over the rows of 16 neighboring `sliding` pools, for a tile of clusters at a time; of a whole warp. */
class SlidingSums {
 public:
  using Sums = float[kColumns / 8][4];

  __device__ SlidingSums(const Geometry& g, const Pools& pools, const Masses& masses, int head, int firstPool)
      : g_(g), masses_(masses), head_(head), from_(g.rows), to_(0) {
    const int poolCount = pools.count();
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int pool = firstPool + static_cast<int>(threadIdx.x) % 32 / 4 + 8 * half;
      own_[half] = pool < poolCount ? pools.rows(pool) : Range{0, 0};
      if (own_[half].size() > 0) {
        from_ = min(from_, own_[half].begin);
        to_ = max(to_, own_[half].end);
      }
    }
    from_ = static_cast<int>(__reduce_min_sync(kWholeWarp, static_cast<unsigned>(from_)));
    to_ = static_cast<int>(__reduce_max_sync(kWholeWarp, static_cast<unsigned>(to_)));
    firstSegment_ = from_ < to_ ? g.segmentOf(from_) : 0;
    firstEnd_ = (firstSegment_ + 1) * g.segment - g.offset;
    norm_ = from_ + static_cast<int>(threadIdx.x) % 32 < to_ ? norm(from_ + static_cast<int>(threadIdx.x) % 32) : 0;
  }

  /** Rows of the pools that this lane's sums belong to: threadIdx.x % 32 / 4 and the eighth after it. */
  __device__ int members(int half) const { return own_[half].size(); }
  /** Tiles of the clusters that some row uses by summary. */
  __device__ int tiles() const {
    if (from_ >= to_) return 0;
    return ceilDiv(g_.causal ? g_.nearClusters(to_ - 1).begin : g_.clusters(), kColumns);
  }

  /** What codes of a tile count in row 32 `chunk` + lane of all rows; 0 beyond the last, and without the tile in its far field. */
  __device__ float weight(int tile, int chunk = 0) const {
    const int row = from_ + 32 * chunk + static_cast<int>(threadIdx.x) % 32;
    if (row >= to_ || !isFar(row, tile)) return 0;
    const float norm = chunk == 0 ? norm_ : this->norm(row);
    return norm == -INFINITY ? 0 : exp2Fast(masses_.peaks[masses_.at(g_, head_, row, tile)] - norm);
  }

  /** No sum of the tile is above this; `first` is its weight(). */
  __device__ float bound(int tile, float first) const {
    float total = first;
    for (int chunk = 1; from_ + 32 * chunk < to_; chunk++) total += weight(tile, chunk);
    return warpSum(total);
  }

  /** sum[n][2 half + i] is that of cluster column(n, i) of the tile, whose weight() is `first`. */
  __device__ void take(int tile, float first, Sums& sum) const {
    const int lane = threadIdx.x % 32, row8 = lane / 4, t = lane % 4;
    float zero[4] = {}, ofLane = first;
#pragma unroll
    for (auto& four : sum)
#pragma unroll
      for (float& one : four) one = 0;
#pragma unroll 2
    for (int base = from_; base < to_; base += 16) {
      const int offset = (base - from_) % 32;
      if (offset == 0 && base > from_) ofLane = weight(tile, (base - from_) / 32);
      float weights[4];
      uint2 codes[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int local = 2 * t + i % 2 + i / 2 * 8;
        weights[i] = __shfl_sync(kWholeWarp, ofLane, offset + local);
        // What is read without need, or was never written, is finite, and its weight 0.
        const size_t at = masses_.at(g_, head_, min(base + local, to_ - 1), tile);
        codes[i] = reinterpret_cast<const uint2*>(masses_.codes + at * kColumns)[row8];
      }
      uint32_t band[4];
#pragma unroll
      for (int word = 0; word < 4; word++) {
        const int row = base + 2 * t + word / 2 * 8, i = word / 2 * 2;
        const Range& own = own_[word % 2];
        const bool low = row >= own.begin && row < own.end;
        const bool high = row + 1 >= own.begin && row + 1 < own.end;
        band[word] = Pair<__nv_bfloat16>::pack(low ? weights[i] : 0.f, high ? weights[i + 1] : 0.f);
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
#pragma unroll
    for (auto& four : sum)
#pragma unroll
      for (int i = 0; i < 4; i++) four[i] -= zero[i];
  }

  /** See Masses: product column 2 t + i of tile n is byte 8 (2 t + i) + n. */
  __device__ static int column(int n, int i) { return (i * 4 + n / 2) * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + n % 2; }

 private:
  /** Rows without a tile in their far field have no masses there; their segments without a division each. */
  __device__ bool isFar(int row, int tile) const {
    if (!g_.causal) return true;
    int segment = firstSegment_;
    if (row >= firstEnd_) segment += row - firstEnd_ < g_.segment ? 1 : 1 + (row - firstEnd_) / g_.segment;
    return tile * kColumns < (segment - g_.window) * g_.keyClusters;
  }
  /** Of a row that has masses. */
  __device__ float norm(int row) const { return masses_.norms[static_cast<size_t>(head_) * g_.rows + row]; }

  const Geometry& g_;
  const Masses& masses_;
  const int head_;
  /** Rows of the pools of this lane's sums, and of all 16. */
  Range own_[2];
  int from_, to_, firstSegment_, firstEnd_;
  /** Of the row of this lane among the first 32. */
  float norm_;
};

/** Which groups of 16 `sliding` pools hold one that more clusters reach the bound in than are wanted: [B*H, groups]. */
struct CrowdedPools {
  uint8_t* flags;
  int groups;

  __device__ uint8_t& of(int head, int group) const { return flags[static_cast<size_t>(head) * groups + group]; }
};

/**
 * Of 16 `sliding` pools per warp, the clusters whose mean expected error is at least `least`, for the heads of `masses`;
 * where these are too many, chooseSliding follows.
 */
__global__ void __launch_bounds__(128) chooseReaching(Geometry g, RetrieveCounts retrieve, float least, Pools pools, Masses masses,
                                                      ChosenClusters chosen, CrowdedPools crowded) {
  const int head = masses.firstHead + blockIdx.y, lane = threadIdx.x % 32;
  const int group = blockIdx.x * 4 + threadIdx.x / 32, firstPool = group * 16, poolCount = pools.count();
  if (firstPool >= poolCount) return;
  const SlidingSums sums(g, pools, masses, head, firstPool);
  const int wanted = retrieve.of(g, head), tiles = wanted <= 0 ? 0 : sums.tiles();
  float bound[2];
  int count[2] = {0, 0};
#pragma unroll
  for (int half = 0; half < 2; half++) bound[half] = least * static_cast<float>(max(1, sums.members(half)));
  const float lowest = __uint_as_float(__reduce_min_sync(kWholeWarp, __float_as_uint(fminf(bound[0], bound[1]))));
  float next = sums.weight(0);
  for (int tile = 0; 2 * tile < chosen.words; tile++) {
    uint32_t bits[2][2] = {};
    // Of the next tile already, while this one's are waited for.
    const float first = next;
    next = tile + 1 < tiles ? sums.weight(tile + 1) : 0;
    if (tile < tiles && sums.bound(tile, first) >= lowest) {
      SlidingSums::Sums sum;
      sums.take(tile, first, sum);
#pragma unroll
      for (int half = 0; half < 2; half++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
          for (int n = 0; n < kColumns / 8; n++)
            bits[half][i] |= sum[n][2 * half + i] >= bound[half] ? 1u << (n / 2 * 8 + n % 2) : 0;
          bits[half][i] <<= lane % 4 * 2;
          bits[half][i] |= __shfl_xor_sync(kWholeWarp, bits[half][i], 1);
          bits[half][i] |= __shfl_xor_sync(kWholeWarp, bits[half][i], 2);
          count[half] += __popc(bits[half][i]);
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int pool = firstPool + lane / 4 + 8 * half;
      if (lane % 4 == 0 && pool < poolCount)
        reinterpret_cast<uint2*>(chosen.of(pools, head, pool))[tile] = make_uint2(bits[half][0], bits[half][1]);
    }
  }
  const bool any = __any_sync(kWholeWarp, max(count[0], count[1]) > wanted);
  if (lane == 0) crowded.of(head, group) = wanted > 0 && any;
}

/** Words of shared memory for the bits of 16 pools. */
__host__ __device__ inline size_t chooseSharedBytes(int words) {
  return ChooseShared::kWarps * (sizeof(ChooseShared) + static_cast<size_t>(ChooseShared::kPools) * words * sizeof(uint32_t));
}

/**
 * Choices of 16 `sliding` pools per warp, for the heads of `masses`: the largest masses or, with `leastError` above 0 and in
 * crowded groups alone, the largest expected errors of at least that.
 */
__global__ void __launch_bounds__(128) chooseSliding(Geometry g, RetrieveCounts retrieve, float leastError, CrowdedPools crowded,
                                                     Pools pools, Masses masses, ChosenClusters chosen) {
  const int head = masses.firstHead + blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32, row8 = lane / 4, t = lane % 4;
  const int group = blockIdx.x * ChooseShared::kWarps + warp, firstPool = group * ChooseShared::kPools;
  const int poolCount = pools.count(), wanted = retrieve.of(g, head);
  if (firstPool >= poolCount || (leastError > 0 && !crowded.of(head, group))) return;
  auto& shared = reinterpret_cast<ChooseShared*>(dynamicShared())[warp];
  uint32_t* bits = reinterpret_cast<uint32_t*>(dynamicShared() + ChooseShared::kWarps * sizeof(ChooseShared)) +
                   warp * ChooseShared::kPools * chosen.words;
  for (int i = lane; i < ChooseShared::kPools * chosen.words; i += 32) bits[i] = 0;
  if (lane < ChooseShared::kPools) shared.count[lane] = 0;
  __syncwarp();

  const SlidingSums sums(g, pools, masses, head, firstPool);
  uint32_t least[2] = {kLeastMassBits, kLeastMassBits};
  float factor[2] = {1, 1};
  if (leastError > 0) {
    // Errors have no upper bound: units in which the least one is small, but float16.
    const float unit = fminf(kLeastMass * 1024 / leastError, 64.f);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      least[half] = max(kLeastMassBits, Pair<__half>::pack(leastError * unit, 0.f));
      factor[half] = unit / static_cast<float>(max(1, sums.members(half)));
    }
  }
  // Nearest clusters first, which are likely to be large.
  for (int tile = (wanted <= 0 ? 0 : sums.tiles()) - 1; tile >= 0; tile--) {
    SlidingSums::Sums sum;
    sums.take(tile, sums.weight(tile), sum);
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
        return Pair<__half>::pack(fminf(fmaxf(sum[n][2 * half + i] * factor[half], 0.f), kMostMass), 0.f);
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
          shared.mass[pool][at] = static_cast<uint16_t>(bits(n, i));
          shared.cluster[pool][at++] = static_cast<uint16_t>(tile * kColumns + SlidingSums::column(n, i));
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

/**
 * Choices of one `tile` pool per block, for the heads of `masses`: the largest masses or, with `leastError` above 0, the
 * largest expected errors of at least that. The rows of a pool have the same far field.
 */
__global__ void __launch_bounds__(128) chooseTiles(Geometry g, RetrieveCounts retrieve, float leastError, Pools pools, Masses masses,
                                                   ChosenClusters chosen) {
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
  const float size = static_cast<float>(rows.size());
  uint32_t bound = __float_as_uint(leastError > 0 ? leastError * size : kLeastMass);
  uint32_t end = __float_as_uint(leastError > 0 ? INFINITY : 2 * size + 2);
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
