// MultipoleAttention on CUDA: which kernels run, in what order, on what memory. Everything is enqueued on one
// stream, but for what prepares the far field, which runs on another beside the near field; nothing waits, allocates or
// reads back, so a call can be captured in a CUDA graph.
#pragma once

#include <type_traits>
#include <utility>

#include "../../native/cuda/arena.h"
#include "../../native/cuda/side-stream.h"
#include "attend-retrieved.cuh"
#include "choose.cuh"
#include "plain.cuh"
#include "query-shares.cuh"

namespace onnxrewrite::multipole::cuda {

/** All on the device, row-major; mask, pastQuery and lse may be null. */
template <class T>
struct Tensors {
  const T* query;
  const T* key;
  const T* value;
  const bool* mask;
  const T* pastQuery;
  T* output;
  T* lse;
};

/** Shape with the index type of the kernels. */
struct Sizes {
  int batch, heads, kvHeads, queries, past, keys, headDim, valueDim;

  explicit Sizes(const Shape& s)
      : batch(static_cast<int>(s.batch)), heads(static_cast<int>(s.heads)), kvHeads(static_cast<int>(s.kvHeads)),
        queries(static_cast<int>(s.queries)), past(static_cast<int>(s.past)), keys(static_cast<int>(s.keys)),
        headDim(static_cast<int>(s.headDim)), valueDim(static_cast<int>(s.valueDim)) {}
};

/** Kernels are compiled for these padded head sizes. */
template <class Visit>
auto withHeadSize(int dim, Visit visit) {
  return dim <= 64 ? visit(std::integral_constant<int, 64>{}) : visit(std::integral_constant<int, 128>{});
}

template <class V>
struct Tag {
  using type = V;
};

template <class T>
class MultipoleAttention {
 public:
  /** Numbers in 16 bytes, which head sizes have to be multiples of for tensor cores. */
  static constexpr int kPiece = 16 / sizeof(T);

  /** `memory` holds the bytes that bytes() tells; null only to ask for them. */
  MultipoleAttention(const Shape& shape, const Parameters& parameters, bool masked, void* memory, bool hopper = hasHopper())
      : shape_(shape), parameters_(parameters), masked_(masked), hopper_(hopper), sharedLimit_(mostSharedBytes()) {
    setGeometry();
    Arena arena(memory);
    layOut(arena);
    bytes_ = arena.used();
  }

  size_t bytes() const { return bytes_; }

  cudaError_t run(const Tensors<T>& tensors, cudaStream_t stream, SideStream& side) {
    if (queryHeads() == 0 || shape_.queries == 0 || shape_.valueDim == 0) return cudaSuccess;
    const T* queries = tensors.query;
    if (joinedQueries_) {
      CUDA_TRY(join(tensors, stream));
      queries = joinedQueries_;
    }
    if (fast_) return runFast(tensors, queries, stream, side);
    if (approximate_) {
      CUDA_TRY(cluster(tensors, queries, stream));
      CUDA_TRY(summarizeSlow(tensors, stream));
    }
    return attendSlow(tensors, queries, stream);
  }

  // What the discrete steps chose, for tests.
  const Geometry& geometry() const { return g_; }
  bool approximate() const { return approximate_; }
  const uint16_t* keyLabels() const { return keyLabels_; }
  const uint16_t* queryLabels() const { return queryLabels_; }
  const Centroids<T>& queryCentroids() const { return queryCentroids_; }
  bool roundsCentroids() const { return fast_; }
  const ChosenClusters& chosen() const { return chosen_; }
  const int* places() const { return places_; }
  Pools pools() const {
    return {g_, parameters_.selection, clamped(parameters_.group, 1, kMostPosition), queryOrder_.order, queryOrder_.begin};
  }

 private:
  int queryHeads() const { return shape_.batch * shape_.heads; }
  PointSet keySet(const bool* mask) const { return {g_, PointSet::Kind::keySegments, mask}; }
  PointSet querySet() const { return {g_, PointSet::Kind::queryBlocks, nullptr}; }
  int keysPerRun() const { return ceilDiv(g_.segment, g_.keyClusters); }
  bool groupsRuns() const { return parameters_.keyGrouping == KeyGrouping::contiguous; }
  bool needsKeyLabels() const { return !groupsRuns() || masked_; }
  /** Tensor cores hold up to 64 centroids of a k-means. */
  bool assignsFast(const PointSet& set) const {
    return set.clusters() <= 64 && shape_.headDim % kPiece == 0 && shape_.headDim <= kMostTiledDim;
  }
  KeyClusters keyClusters() const {
    return needsKeyLabels() ? KeyClusters{keyOrder_.order, keyOrder_.begin, 0} : KeyClusters{nullptr, nullptr, keysPerRun()};
  }

  void setGeometry() {
    const Parameters& p = parameters_;
    bool anyChoice = false, anyMultipole = false;
    for (int64_t count : p.retrieve) {
      anyMultipole = anyMultipole || count >= 0;
      anyChoice = anyChoice || count > 0;
    }
    approximate_ = anyMultipole && shape_.keys > 0 && shape_.keys >= p.exactBelow && shape_.queries >= p.exactBelowRows;
    retrieves_ = approximate_ && (anyChoice || (p.retrieveMass > 0 && anyMultipole));
    byError_ = retrieves_ && p.retrieveError > 0;
    retrieve_.entries = approximate_ ? static_cast<int>(p.retrieve.size()) : 1;
    for (int i = 0; i < retrieve_.entries; i++)
      retrieve_.count[i] = approximate_ ? clamped(p.retrieve[i], -1, INT32_MAX) : -1;
    retrieve_.orderHeads();

    g_.batch = shape_.batch;
    g_.heads = shape_.heads;
    g_.kvHeads = shape_.kvHeads;
    g_.rows = shape_.past + shape_.queries;
    g_.past = shape_.past;
    g_.keys = shape_.keys;
    g_.headDim = shape_.headDim;
    g_.valueDim = shape_.valueDim;
    g_.segment = p.segment > 0 ? clamped(p.segment, 1, kMostPosition) : (shape_.keys > 0 ? shape_.keys : 1);
    g_.segments = ceilDiv(shape_.keys, g_.segment);
    g_.keyClusters = static_cast<int>(p.keyClusters);
    g_.queryClusters = static_cast<int>(p.queryClusters);
    g_.causal = p.causal;
    g_.local = p.causal || (p.segment > 0 && g_.rows == shape_.keys);
    g_.offset = p.causal ? static_cast<int>(p.causalOffset.value_or(shape_.keys - shape_.queries)) - shape_.past : 0;
    g_.firstRow = clamped(-static_cast<long long>(g_.offset), 0, g_.rows);
    g_.window = clamped(p.window, 0, g_.segments);
    g_.scale = p.scale.value_or(1 / sqrtf(static_cast<float>(shape_.headDim)));
    g_.blocks = 1;
    if (p.causal) {
      g_.blocks = 0;
      while (g_.blockBegin(g_.blocks) < g_.rows) g_.blocks++;
    }
    fast_ = shape_.headDim % kPiece == 0 && shape_.valueDim % kPiece == 0 && shape_.headDim <= kMostTiledDim &&
            shape_.valueDim <= kMostTiledDim && (!retrieves_ || choosesFast()) && fitsShared();
    // Small query clusters waste less of small tiles, of which more are under way at a time.
    const bool wideTiles = !kSingle<T> && g_.headDim <= 64 && g_.valueDim <= 64 && g_.rows / g_.queryClusters >= 1024;
    tileRows_ = wideTiles ? 128 : 64;
    massTiles_ = ceilDiv(g_.clusters(), kColumns);
    const size_t massBytes = static_cast<size_t>(g_.rows) * massTiles_ * (kColumns + sizeof(float));
    const size_t headsAtATime = massBytes == 0 ? 1 : kMassBytes / massBytes;
    massHeads_ = clamped(static_cast<long long>(headsAtATime), 1, queryHeads() > 0 ? queryHeads() : 1);
  }

  /** Rows of a warp are two tiles of 16, where registers allow. */
  template <int Dim>
  using NearEngine = MmaEngine<T, Dim, Dim == 64 && !kSingle<T> ? 2 : 1>;

  /** Whether the largest blocks find room on the device; the size of others depends on it. */
  bool fitsShared() const {
    return withHeadSize(g_.headDim > g_.valueDim ? g_.headDim : g_.valueDim, [&](auto dim) {
      return sizeof(NearShared<NearEngine<dim.value>>) <= sharedLimit_ && sizeof(FarShared<NearEngine<dim.value>>) <= sharedLimit_ &&
             (!retrieves_ || RetrievedPass<T, dim.value, 4>::sharedBytes(chosenWords()) <= sharedLimit_) &&
             (!retrieves_ || chooseSharedBytes(chosenWords()) <= sharedLimit_);
    });
  }
  int chosenWords() const { return 2 * ceilDiv(g_.clusters(), 64); }

  /** Whether pools and counts are those that tensor cores choose for. */
  bool choosesFast() const {
    int64_t most = 0;
    for (int64_t count : parameters_.retrieve) most = most > count ? most : count;
    return parameters_.retrieveMass <= 0 && parameters_.selection != Selection::cluster && g_.clusters() <= kMostFastClusters &&
           (parameters_.selection == Selection::tile || most <= kMostChosen);
  }

  void layOut(Arena& arena) {
    const int heads = queryHeads();
    if (shape_.past > 0) joinedQueries_ = arena.take<T>(static_cast<size_t>(heads) * g_.rows * g_.headDim);
    partLse_ = arena.take<float>(static_cast<size_t>(heads) * g_.rows);
    if (!approximate_) return;

    size_t sums = 0, counts = 0, labels = 0;
    auto layOutSet = [&](const PointSet& set, bool kmeans, bool tiled, Sorted& sorted, Centroids<T>& centroids,
                         uint16_t*& setLabels) {
      const size_t problems = static_cast<size_t>(set.heads()) * set.problems();
      setLabels = arena.take<uint16_t>(static_cast<size_t>(set.heads()) * set.rows());
      sorted.order = arena.take<int>(static_cast<size_t>(set.heads()) * set.rows());
      sorted.begin = arena.take<int>(problems * (set.clusters() + 1));
      sorted.chunkOffsets = arena.take<int>(static_cast<size_t>(set.heads()) * set.chunks(Part::members) * set.clusters());
      sorted.tileRows = tileRows_;
      sorted.tiles = tiled ? arena.take<RowTile>(static_cast<size_t>(set.heads()) * tileSlots(set, tileRows_)) : nullptr;
      if (!kmeans) return;
      centroids.mean = arena.take<float>(problems * set.clusters() * g_.headDim);
      centroids.rounded = arena.take<T>(problems * set.clusters() * g_.headDim);
      centroids.halfNorm = arena.take<float>(problems * set.clusters());
      const size_t partials = static_cast<size_t>(set.heads()) * set.chunks(Part::sources) * set.clusters();
      if (assignsFast(set)) {
        sums = sums > partials * g_.headDim ? sums : partials * g_.headDim;
        counts = counts > partials ? counts : partials;
      } else if (!set.selfLabeled()) {
        labels = static_cast<size_t>(set.heads()) * set.slots(Part::sources);
      }
    };
    if (needsKeyLabels())
      layOutSet(keySet(nullptr), !groupsRuns(), false, keyOrder_, keyCentroids_, keyLabels_);
    layOutSet(querySet(), true, true, queryOrder_, queryCentroids_, queryLabels_);
    sums_ = arena.take<float>(sums);
    counts_ = arena.take<int>(counts);
    sourceLabels_ = arena.take<uint16_t>(labels);

    const size_t summaries = g_.summaries();
    float *bias = arena.take<float>(summaries), *spread = nullptr;
    if (byError_) {
      spread = arena.take<float>(summaries);
      squares_ = arena.take<float>(static_cast<size_t>(heads) * querySet().chunks(Part::sources) * g_.headDim);
      queryShares_ = arena.take<float>(static_cast<size_t>(heads) * g_.blocks * g_.headDim);
    }
    if (fast_)
      summaries_ = {arena.take<T>(summaries * g_.headDim), arena.take<T>(summaries * g_.valueDim), bias, spread};
    else
      plainSummaries_ = {arena.take<float>(summaries * g_.headDim), arena.take<float>(summaries * g_.valueDim), bias, spread};
    if (!retrieves_) return;
    chosen_.words = chosenWords();
    chosen_.bits = arena.take<uint32_t>(static_cast<size_t>(heads) * pools().count() * chosen_.words);
    if (fast_) {
      if (byError_ && parameters_.selection == Selection::sliding) {
        crowded_.groups = ceilDiv(pools().count(), ChooseShared::kPools);
        crowded_.flags = arena.take<uint8_t>(static_cast<size_t>(heads) * crowded_.groups);
      }
      const size_t tiles = static_cast<size_t>(massHeads_) * g_.rows * massTiles_;
      massMemory_ = {arena.take<uint8_t>(tiles * kColumns), arena.take<float>(tiles),
                     arena.take<float>(static_cast<size_t>(heads) * g_.rows), massTiles_, 0};
      return;
    }
    masses_ = arena.take<float>(static_cast<size_t>(kChooseBlocks) * 4 * g_.clusters());
    if (parameters_.selection == Selection::cluster) places_ = arena.take<int>(static_cast<size_t>(heads) * g_.rows);
  }

  /** past_query and query in one tensor of rows. */
  cudaError_t join(const Tensors<T>& tensors, cudaStream_t stream) {
    const size_t rowBytes = g_.headDim * sizeof(T), past = shape_.past * rowBytes, present = shape_.queries * rowBytes;
    auto* target = reinterpret_cast<char*>(joinedQueries_);
    CUDA_TRY(cudaMemcpy2DAsync(target, past + present, tensors.pastQuery, past, past, queryHeads(),
                               cudaMemcpyDeviceToDevice, stream));
    return cudaMemcpy2DAsync(target + past, past + present, tensors.query, present, present, queryHeads(),
                             cudaMemcpyDeviceToDevice, stream);
  }

  cudaError_t cluster(const Tensors<T>& tensors, const T* queries, cudaStream_t stream) {
    if (needsKeyLabels()) {
      PointSet keys = keySet(tensors.mask);
      if (groupsRuns()) {
        CUDA_TRY(launch(labelRuns, dim3(ceilDiv(keys.rows(), 256), keys.heads()), 256, 0, stream, keys, keysPerRun(), keyLabels_));
      } else {
        CUDA_TRY(lloyd(keys, tensors.key, keyCentroids_, keyLabels_, stream));
      }
      CUDA_TRY(sort(keys, keyLabels_, keyOrder_, stream));
    }
    PointSet rows = querySet();
    if (rows.problems() == 0) return cudaSuccess;
    CUDA_TRY(lloyd(rows, queries, queryCentroids_, queryLabels_, stream));
    CUDA_TRY(sort(rows, queryLabels_, queryOrder_, stream));
    if (byError_) {
      const size_t shared = kShareWarps * g_.headDim * sizeof(float);
      CUDA_TRY(launch(sumSquares<T>, dim3(rows.chunks(Part::sources), rows.heads()), kShareWarps * 32, shared, stream, rows, queries,
                      g_.headDim, squares_));
      CUDA_TRY(launch(shareSquares, dim3(rows.problems(), rows.heads()), kShareWarps * 32, shared, stream, rows, g_.headDim,
                      squares_, queryShares_));
    }
    if (!places_) return cudaSuccess;
    return launch(invertOrder, dim3(rows.problems(), rows.heads()), 256, 0, stream, rows, queryOrder_, places_);
  }

  cudaError_t lloyd(const PointSet& set, const T* points, const Centroids<T>& centroids, uint16_t* labels,
                    cudaStream_t stream) {
    const dim3 perCluster(ceilDiv(set.clusters(), 4), set.problems(), set.heads());
    int parts = 1;
    for (const int chunks = set.problems() > 0 ? set.chunksOf(set.problems() - 1, Part::sources) : 0; parts < 8 && 16 * parts <= chunks;)
      parts *= 2;
    CUDA_TRY(launch(seedCentroids<T>, dim3(set.problems(), set.heads()), 256, 0, stream, set, points, g_.headDim, centroids));
    for (int iteration = 0; iteration < parameters_.iterations; iteration++) {
      const bool labelsNow = iteration + 1 == parameters_.iterations && set.selfLabeled();
      if (assignsFast(set)) {
        CUDA_TRY(assign(set, Part::sources, points, centroids, labelsNow ? labels : nullptr, sums_, counts_, stream));
        CUDA_TRY(launch(finishMeans<T>, dim3(ceilDiv(set.clusters(), 8 / parts), set.problems(), set.heads()), 256,
                        8 * (g_.headDim + 1) * sizeof(float), stream, set, g_.headDim, parts, sums_, counts_, centroids));
      } else {
        uint16_t* own = set.selfLabeled() ? labels : sourceLabels_;
        CUDA_TRY(assign(set, Part::sources, points, centroids, own, nullptr, nullptr, stream));
        CUDA_TRY(launch(meansPlain<T>, perCluster, 128, 0, stream, set, points, g_.headDim, own, centroids));
      }
    }
    if (set.selfLabeled()) return cudaSuccess;
    return assign(set, Part::members, points, centroids, labels, nullptr, nullptr, stream);
  }

  cudaError_t assign(const PointSet& set, Part part, const T* points, const Centroids<T>& centroids, uint16_t* labels,
                     float* sums, int* counts, cudaStream_t stream) {
    const unsigned chunks = set.chunks(part), heads = set.heads();
    if (assignsFast(set))
      return withHeadSize(g_.headDim, [&](auto dim) {
        auto start = [&](auto tiles) {
          using Plan = AssignChunk<T, dim.value, tiles.value>;
          return launch(assignChunk<T, dim.value, tiles.value>, dim3(chunks, heads), 128, sizeof(typename Plan::Shared),
                        stream, set, part, points, g_.headDim, centroids, labels, sums, counts);
        };
        if (set.clusters() <= 16) return start(std::integral_constant<int, 2>{});
        if (set.clusters() <= 32) return start(std::integral_constant<int, 4>{});
        return start(std::integral_constant<int, 8>{});
      });
    return launch(assignPlain<T>, dim3(chunks, heads), 128, 0, stream, set, part, points, g_.headDim, centroids.mean, labels);
  }

  cudaError_t sort(const PointSet& set, const uint16_t* labels, const Sorted& sorted, cudaStream_t stream) {
    const dim3 perChunk(set.chunks(Part::members), set.heads());
    CUDA_TRY(launch(countLabels, perChunk, 256, set.clusters() * sizeof(int), stream, set, labels, sorted));
    CUDA_TRY(launch(scanLabels, dim3(set.problems(), set.heads()), 256, 0, stream, set, sorted));
    return launch(scatterRows, perChunk, 256, 9 * set.clusters() * sizeof(int), stream, set, labels, sorted);
  }

  cudaError_t summarizeFast(const Tensors<T>& tensors, cudaStream_t stream) {
    if (g_.blocks == 0) return cudaSuccess;
    return byError_ ? summarizeFast<true>(tensors, stream) : summarizeFast<false>(tensors, stream);
  }
  template <bool Spreads>
  cudaError_t summarizeFast(const Tensors<T>& tensors, cudaStream_t stream) {
    return withHeadSize(g_.headDim > g_.valueDim ? g_.headDim : g_.valueDim, [&](auto dim) {
      constexpr int kDim = dim.value, kMostKeys = 256, kBlockKeys = 128, kTileKeys = kDim * sizeof(T) <= 256 ? 64 : 32;
      // Small tiles overlap loads and products of more blocks; clusters of a k-means may be as large as the segment.
      const int clusters = groupsRuns() ? clamped(kBlockKeys / keysPerRun(), 1, g_.keyClusters) : g_.keyClusters;
      const int keys = groupsRuns() ? clusters * keysPerRun() : g_.segment;
      const int tileWarps = keys <= kBlockKeys ? kMostSummarizeWarps / 2 : kMostSummarizeWarps;
      const size_t tileBytes = summarizeShared<T, kDim>(keys, 1, tileWarps);
      if (g_.segment <= kMostKeys && tileBytes <= sharedLimit_)
        return launch(summarizeTile<T, kDim, Spreads>, dim3(g_.segments * ceilDiv(g_.keyClusters, clusters), queryHeads()),
                      tileWarps * 32, tileBytes, stream, g_, keyClusters(), tensors.key, tensors.value, queryCentroids_,
                      queryShares_, summaries_, clusters, keys);
      const int centerTiles = ceilDiv(g_.queryClusters, 16), warps = centerTiles < kClusterWarps ? centerTiles : kClusterWarps;
      return launch(summarizeCluster<T, kDim, Spreads>, dim3(g_.clusters(), queryHeads(), g_.blocks), warps * 32,
                    summarizeShared<T, kDim>(kTileKeys, 2, warps), stream, g_, keyClusters(), tensors.key, tensors.value,
                    queryCentroids_, queryShares_, summaries_, kTileKeys, warps);
    });
  }

  /** The near field is bound by arithmetic, what prepares the far field by memory, and neither needs the other. */
  cudaError_t runFast(const Tensors<T>& tensors, const T* queries, cudaStream_t stream, SideStream& side) {
    const AttentionOutputs<T> out{tensors.output, tensors.lse, partLse_};
    bool near = g_.local;
    for (int i = 0; i < retrieve_.entries; i++) near = near || retrieve_.count[i] < 0;
    if (!approximate_) return attendNearFast(tensors, queries, out, stream);
    {
      const std::lock_guard<std::mutex> own(side.mutex());
      CUDA_TRY(side.fork(stream));
      auto prepare = [&] {
        CUDA_TRY(cluster(tensors, queries, side.stream()));
        CUDA_TRY(summarizeFast(tensors, side.stream()));
        return near ? attendNearFast(tensors, queries, out, stream) : cudaSuccess;
      };
      const cudaError_t prepared = prepare();
      // Also after an error: the memory is given back behind `stream`.
      CUDA_TRY(side.join(stream));
      CUDA_TRY(prepared);
    }
    return g_.blocks == 0 ? cudaSuccess : attendFarField(tensors, queries, out, stream);
  }

  cudaError_t attendFarField(const Tensors<T>& tensors, const T* queries, const AttentionOutputs<T>& out, cudaStream_t stream) {
    const RowInputs<T, T> in = rowInputs(tensors, queries, summaries_);
    ColumnMaps maps{};
    if (farOnHopper())
      for (int block = 0; block < g_.blocks; block++) {
        const size_t first = g_.summaryIndex(block, 0, 0);
        CUDA_TRY(encodeMaps(maps, block, summaries_.key + first * g_.headDim, summaries_.value + first * g_.valueDim,
                            g_.blockClusters(block), queryHeads() * g_.queryClusters));
      }
    if (!retrieves_) return attendFarFast<FarPass::all>(in, maps, massMemory_, queryHeads(), out, stream);
    for (int first = 0; first < queryHeads(); first += massHeads_) {
      const int heads = queryHeads() - first < massHeads_ ? queryHeads() - first : massHeads_;
      Masses masses = massMemory_;
      masses.firstHead = first;
      CUDA_TRY(byError_ ? attendFarFast<FarPass::errors>(in, maps, masses, heads, out, stream)
                        : attendFarFast<FarPass::masses>(in, maps, masses, heads, out, stream));
      const float leastError = byError_ ? parameters_.retrieveError : 0;
      if (parameters_.selection == Selection::tile) {
        CUDA_TRY(launch(chooseTiles, dim3(pools().count(), heads), 128, chooseTilesSharedBytes(massTiles_), stream, g_, retrieve_,
                        leastError, pools(), masses, chosen_));
        continue;
      }
      const dim3 grid(ceilDiv(pools().count(), ChooseShared::kWarps * ChooseShared::kPools), heads);
      if (byError_)
        CUDA_TRY(launch(chooseReaching, grid, 128, 0, stream, g_, retrieve_, leastError, pools(), masses, chosen_, crowded_));
      CUDA_TRY(launch(chooseSliding, grid, 128, chooseSharedBytes(chosen_.words), stream, g_, retrieve_, leastError, crowded_,
                      pools(), masses, chosen_));
    }
    CUDA_TRY(attendFarFast<FarPass::rest>(in, maps, massMemory_, queryHeads(), out, stream));
    return withHeadSize(g_.headDim > g_.valueDim ? g_.headDim : g_.valueDim, [&](auto dim) {
      auto with = [&](auto warps) {
        using Pass = RetrievedPass<T, dim.value, warps.value>;
        const int tiles = ceilDiv(g_.rows - nearTilesBegin(g_, g_.past, Pass::kRows), Pass::kRows);
        return launch(attendRetrieved<T, dim.value, warps.value>, dim3(tiles, queryHeads()), Pass::kThreads,
                      Pass::sharedBytes(chosen_.words), stream, g_, retrieve_, pools(), chosen_, in, out);
      };
      // More rows share what they gather, where shared memory holds the sets of two blocks.
      if constexpr (dim.value == 64 && !kSingle<T>)
        if (2 * RetrievedPass<T, dim.value, 8>::sharedBytes(chosen_.words) <= sharedLimit_)
          return with(std::integral_constant<int, 8>{});
      return with(std::integral_constant<int, 4>{});
    });
  }

  template <class S>
  RowInputs<T, S> rowInputs(const Tensors<T>& tensors, const T* queries, const Summaries<S>& summaries) const {
    const S* centroids;
    if constexpr (std::is_same_v<S, T>)
      centroids = queryCentroids_.rounded;
    else
      centroids = queryCentroids_.mean;
    return {queries, tensors.key, tensors.value, tensors.mask, keyClusters(), summaries, centroids, queryLabels_};
  }

  /** Whether the passes for Hopper take these sizes; over the far field they take biases in pieces of 16 bytes. */
  bool onHopper() const { return !kSingle<T> && hopper_ && g_.headDim <= 64 && g_.valueDim <= 64; }
  bool farOnHopper() const { return onHopper() && g_.blocks <= ColumnMaps::kMost && g_.keyClusters % 4 == 0; }

  /** Maps of [parts, rows, headDim] and [parts, rows, valueDim]. */
  cudaError_t encodeMaps(ColumnMaps& maps, int index, const T* key, const T* value, int rows, int parts) const {
    constexpr bool kBfloat16 = std::is_same_v<T, __nv_bfloat16>;
    if (rows == 0) return cudaSuccess;
    CUDA_TRY(encodeTensorMap(maps.key[index], key, kBfloat16, g_.headDim, rows, parts));
    return encodeTensorMap(maps.value[index], value, kBfloat16, g_.valueDim, rows, parts);
  }

  template <FarPass Pass>
  cudaError_t attendFarFast(const RowInputs<T, T>& in, const ColumnMaps& maps, const Masses& masses, int heads,
                            const AttentionOutputs<T>& out, cudaStream_t stream) {
    auto with = [&](auto tag) {
      using Engine = typename decltype(tag)::type;
      return launch(attendFar<Engine, Pass>, dim3(tileSlots(querySet(), tileRows_), heads), Engine::kThreads,
                    sizeof(FarShared<Engine>), stream, g_, retrieve_, queryOrder_, in, maps, masses, pools(), chosen_, out);
    };
    if constexpr (!kSingle<T>)
      if (farOnHopper())
        return tileRows_ == 128 ? with(Tag<WarpgroupEngine<T, 2>>{}) : with(Tag<WarpgroupEngine<T, 1>>{});
    return withHeadSize(g_.headDim > g_.valueDim ? g_.headDim : g_.valueDim, [&](auto dim) {
      if (tileRows_ == NearEngine<dim.value>::kRows) return with(Tag<NearEngine<dim.value>>{});
      return with(Tag<MmaEngine<T, dim.value, 1>>{});
    });
  }

  cudaError_t attendNearFast(const Tensors<T>& tensors, const T* queries, const AttentionOutputs<T>& out, cudaStream_t stream) {
    // Masses are normalized for past rows too, which pools may hold.
    const int firstRow = retrieves_ ? 0 : g_.past;
    ColumnMaps maps{};
    auto with = [&](auto tag) {
      using Engine = typename decltype(tag)::type;
      const int tiles = ceilDiv(g_.rows - nearTilesBegin(g_, firstRow, Engine::kRows), Engine::kRows);
      return launch(attendNear<Engine>, dim3(tiles, queryHeads()), Engine::kThreads, sizeof(NearShared<Engine>), stream,
                    g_, retrieve_, firstRow, pools(), rowInputs(tensors, queries, summaries_), maps, chosen_, out);
    };
    if constexpr (!kSingle<T>)
      if (onHopper()) {
        CUDA_TRY(encodeMaps(maps, 0, tensors.key, tensors.value, g_.keys, shape_.batch * shape_.kvHeads));
        return with(Tag<WarpgroupEngine<T, 2>>{});
      }
    return withHeadSize(g_.headDim > g_.valueDim ? g_.headDim : g_.valueDim, [&](auto dim) {
      return with(Tag<NearEngine<dim.value>>{});
    });
  }

  cudaError_t summarizeSlow(const Tensors<T>& tensors, cudaStream_t stream) {
    if (g_.blocks == 0) return cudaSuccess;
    return launch(summarizePlain<T>, dim3(ceilDiv(g_.clusters(), 4), g_.queryClusters, queryHeads() * g_.blocks), 128, 0, stream,
                  g_, keyClusters(), tensors.key, tensors.value, queryCentroids_.mean, queryShares_, plainSummaries_);
  }

  cudaError_t attendSlow(const Tensors<T>& tensors, const T* queries, cudaStream_t stream) {
    const RowInputs<T, float> in = rowInputs(tensors, queries, plainSummaries_);
    const AttentionOutputs<T> out{tensors.output, tensors.lse, partLse_};
    if (retrieves_ && g_.blocks > 0) {
      CUDA_TRY(launch(normalizePlain<T>, dim3(ceilDiv(g_.rows, 4), queryHeads()), 128, 0, stream, g_, retrieve_, in,
                      partLse_));
      CUDA_TRY(launch(choosePlain<T>, dim3(kChooseBlocks), 128, 0, stream, g_, retrieve_, parameters_.retrieveMass,
                      byError_ ? parameters_.retrieveError : 0.f, pools(), in, partLse_, chosen_, masses_));
    }
    return launch(attendPlain<T>, dim3(ceilDiv(shape_.queries, 4), queryHeads()), 128, 0, stream, g_, retrieve_,
                  pools(), in, chosen_, places_, out);
  }

  static constexpr int kChooseBlocks = 264;
  /** Scratch memory for masses: heads are taken in turns when all of them need more. */
  static constexpr size_t kMassBytes = size_t{256} << 20;
  /** Clusters per head up to which the sets of 64 rows fit in shared memory. */
  static constexpr int kMostFastClusters = 8192;
  /** Sizes beyond any sequence are cut to this, so that sums of two fit an int. */
  static constexpr int kMostPosition = 1 << 29;

  Sizes shape_;
  Parameters parameters_;
  RetrieveCounts retrieve_{};
  bool masked_, hopper_;
  size_t sharedLimit_;
  Geometry g_{};
  /** Whether any head is not exact, whether any retrieves, and whether tensor cores do it all. */
  bool approximate_ = false, retrieves_ = false, fast_ = false;
  /** Whether clusters are chosen by expected error. */
  bool byError_ = false;
  int tileRows_ = 0;
  size_t bytes_ = 0;

  T* joinedQueries_ = nullptr;
  float* partLse_ = nullptr;
  uint16_t *keyLabels_ = nullptr, *queryLabels_ = nullptr, *sourceLabels_ = nullptr;
  Sorted keyOrder_{}, queryOrder_{};
  Centroids<T> keyCentroids_{}, queryCentroids_{};
  float* sums_ = nullptr;
  int* counts_ = nullptr;
  Summaries<T> summaries_{};
  Summaries<float> plainSummaries_{};
  /** Sums of squares of queries by chunk, and the shares of dimensions in them. */
  float *squares_ = nullptr, *queryShares_ = nullptr;
  ChosenClusters chosen_{};
  CrowdedPools crowded_{};
  Masses massMemory_{};
  int massTiles_ = 0, massHeads_ = 1;
  float* masses_ = nullptr;
  int* places_ = nullptr;
};

}  // namespace onnxrewrite::multipole::cuda
