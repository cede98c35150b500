// MultipoleAttention on the CPU, independent of the host. Steps refer to the operator README.
//
// Work is cut by position and cluster, never by thread, and every row is summed in an order that depends on
// its own keys alone: results are the same for any number of threads, and a causal row is bit for bit the
// same whatever follows it.
#pragma once

#include <memory>
#include <thread>

#include "cpu_far_field.h"

namespace onnxrewrite::multipole {

class Attention {
 public:
  // Choices are read from `given` and written to `made` where those are not null.
  Attention(const Problem& problem, const Choices* given, const Choices* made)
      : problem_(problem), geometry_(problem.geometry), given_(given), made_(made) {}

  void run() {
    std::vector<size_t> exact, approximate;
    const Parameters& p = problem_.parameters;
    const bool isShort = geometry_.keys == 0 || geometry_.keys < p.exactBelow ||
                         static_cast<int64_t>(problem_.shape.queries) < p.exactBelowRows;
    for (size_t head = 0; head < problem_.shape.batch * problem_.shape.heads; head++) {
      (isShort || problem_.retrieveOf(head) < 0 ? exact : approximate).push_back(head);
    }
    attendExactly(exact);
    if (approximate.empty() || problem_.shape.queries == 0) return;
    clusterKeys();
    clusterQueries(approximate);
    const size_t wave = headsAtOnce(approximate.size());
    for (size_t first = 0; first < approximate.size(); first += wave) {
      const size_t end = std::min(first + wave, approximate.size());
      attendApproximately({approximate.begin() + static_cast<ptrdiff_t>(first),
                           approximate.begin() + static_cast<ptrdiff_t>(end)});
    }
  }

 private:
  // Rows of a batch of the far field, where their number is free; its scores stay below kBatchScores.
  static constexpr size_t kBatchRows = 512;
  static constexpr size_t kBatchScores = 1024 * 1024;
  // Summaries of the heads in work together stay below this, unless one head alone needs more.
  static constexpr size_t kSummaryFloats = 2 * 1024 * 1024;

  struct Head {
    size_t number;
    NearSums near;
    Summaries summaries;
    CarriedScores carried;
  };

  const Environment& environment() const { return problem_.environment; }
  Parallel& parallel() const { return problem_.environment.parallel; }

  void attendExactly(const std::vector<size_t>& heads) const {
    const size_t tiles = (problem_.shape.queries + kTile - 1) / kTile;
    PerRunner<TileSoftmax> workspaces(heads.size() * tiles);
    parallel().forEach(heads.size() * tiles, [&](size_t item, size_t runner) {
      const size_t head = heads[item / tiles];
      const int64_t begin = geometry_.past + static_cast<int64_t>(item % tiles * kTile);
      const Span rows{begin, std::min(begin + static_cast<int64_t>(kTile), geometry_.rows)};
      TileSoftmax& tile = workspaces.get(runner, environment(), problem_.depth, problem_.size);
      problem_.attendRange(tile, head, rows, {0, geometry_.keys});
      problem_.writeTile(head, rows, tile);
    });
  }

  // ---- clustering ----

  // Rows that results depend on: past ones only as far as pools reach.
  int64_t firstUsedRow() const {
    const Parameters& parameters = problem_.parameters;
    const int64_t first = geometry_.firstRow(), past = std::max(first, geometry_.past);
    bool selects = parameters.retrieveMass > 0;
    for (const int64_t count : parameters.retrieve) selects |= count > 0;
    if (!selects) return past;
    switch (parameters.selection) {
      case Selection::sliding:
        return std::max(first, past - parameters.group + 1);
      case Selection::tile: {
        const int64_t start = geometry_.local ? geometry_.segmentOf(past) * geometry_.segment : 0;
        const int64_t inside = (geometry_.position(past) - start) % parameters.group;
        return std::max(first, past - inside);
      }
      case Selection::cluster:
        break;
    }
    return geometry_.causal ? geometry_.firstRowOf(geometry_.segmentOf(past)) : first;
  }

  Span segmentsOf(Span rows) const {
    if (rows.empty()) return {0, 0};
    return {geometry_.segmentOf(rows.begin), geometry_.segmentOf(rows.end - 1) + 1};
  }

  // Units in the far field of any of these segments.
  std::vector<bool> usedUnits(Span segments) const {
    std::vector<bool> used(static_cast<size_t>(geometry_.units()));
    std::vector<Span> spans;
    for (int64_t segment = segments.begin; segment < segments.end; segment++) {
      spans.clear();
      geometry_.farUnits(segment, spans);
      for (const Span& span : spans) {
        std::fill(used.begin() + span.begin, used.begin() + span.end, true);
      }
    }
    return used;
  }

  // Step 3.
  void clusterKeys() {
    const Shape& shape = problem_.shape;
    const size_t heads = shape.batch * shape.kvHeads, levels = geometry_.levels().size();
    const auto clusters = static_cast<size_t>(geometry_.keyClusters);
    const std::vector<bool> used = usedUnits(segmentsOf({firstUsedRow(), geometry_.rows}));
    std::vector<int64_t> units;
    for (int64_t unit = 0; unit < geometry_.units(); unit++) {
      if (used[static_cast<size_t>(unit)]) units.push_back(unit);
    }
    // By level, head and unit; the visible keys of a unit stand at its front.
    Buffer<int32_t> assignment(environment().allocator, levels * heads * shape.keys);
    const auto assignmentOf = [&](size_t head, int64_t unit) {
      const size_t row = geometry_.levelOf(unit) * heads + head;
      return assignment.data() + row * shape.keys + geometry_.keysOf(unit).begin;
    };
    const auto visibleOf = [&](size_t head, int64_t unit) {
      return problem_.visibleKeys(head / shape.kvHeads, geometry_.keysOf(unit));
    };
    if (given_) {
      forUnits(heads, units, [&](size_t head, int64_t unit) {
        const int32_t* source = given_->keyClusters + (geometry_.levelOf(unit) * heads + head) * shape.keys;
        const VisibleKeys::Part keys = visibleOf(head, unit);
        int32_t* target = assignmentOf(head, unit);
        for (size_t n = 0; n < keys.count; n++) target[n] = source[keyNumber(keys, n)];
      });
    } else if (problem_.parameters.keyGrouping == KeyGrouping::contiguous) {
      forUnits(heads, units, [&](size_t head, int64_t unit) {
        const int64_t length = geometry_.levels()[geometry_.levelOf(unit)].length;
        const int64_t run = (length + geometry_.keyClusters - 1) / geometry_.keyClusters;
        const VisibleKeys::Part keys = visibleOf(head, unit);
        int32_t* target = assignmentOf(head, unit);
        for (size_t n = 0; n < keys.count; n++) {
          target[n] = static_cast<int32_t>((keyNumber(keys, n) - geometry_.keysOf(unit).begin) / run);
        }
      });
    } else {
      Buffer<float> centroids(environment().allocator, heads * units.size() * clusters * problem_.depth);
      KMeans kMeans(environment(), problem_.depth, clusters, problem_.parameters.iterations);
      for (size_t head = 0; head < heads; head++) {
        const KeyValue kv = problem_.keyValueOf(head);
        for (size_t u = 0; u < units.size(); u++) {
          const VisibleKeys::Part keys = visibleOf(head, units[u]);
          const Rows points = keys.index ? kv.keys(keys.index) : kv.keys(nullptr).from(static_cast<size_t>(keys.first));
          kMeans.add({points, keys.count, centroids.data() + (head * units.size() + u) * clusters * problem_.depth,
                      assignmentOf(head, units[u])});
        }
      }
      kMeans.run();
    }
    members_.reserve(heads);
    for (size_t head = 0; head < heads; head++) members_.emplace_back(environment().allocator, geometry_);
    forUnits(heads, units, [&](size_t head, int64_t unit) {
      const VisibleKeys::Part keys = visibleOf(head, unit);
      members_[head].sort(geometry_, unit, keys.index, keys.count, assignmentOf(head, unit));
    });
    if (!made_) return;
    std::fill_n(made_->keyClusters, levels * heads * shape.keys, -1);
    forUnits(heads, units, [&](size_t head, int64_t unit) {
      int32_t* target = made_->keyClusters + (geometry_.levelOf(unit) * heads + head) * shape.keys;
      const VisibleKeys::Part keys = visibleOf(head, unit);
      const int32_t* source = assignmentOf(head, unit);
      for (size_t n = 0; n < keys.count; n++) target[keyNumber(keys, n)] = source[n];
    });
  }

  static int64_t keyNumber(const VisibleKeys::Part& keys, size_t n) {
    return keys.index ? keys.index[n] : keys.first + static_cast<int64_t>(n);
  }

  template <class Body>
  void forUnits(size_t heads, const std::vector<int64_t>& units, const Body& body) const {
    parallel().forEach(heads * units.size(),
                       [&](size_t item, size_t) { body(item / units.size(), units[item % units.size()]); });
  }

  size_t queryClusterCount() const { return static_cast<size_t>(problem_.parameters.queryClusters); }
  size_t rowCount() const { return static_cast<size_t>(geometry_.rows); }

  // Centroids of a block and head, [queryClusters][depth].
  float* centroidsOf(size_t block, size_t head) {
    const size_t heads = problem_.shape.batch * problem_.shape.heads;
    return centroids_.data() + (block * heads + head) * queryClusterCount() * problem_.depth;
  }

  // Step 4.
  void clusterQueries(const std::vector<size_t>& heads) {
    const size_t all = problem_.shape.batch * problem_.shape.heads, depth = problem_.depth;
    blocks_ = geometry_.blocks();
    const auto blocks = static_cast<size_t>(blocks_);
    centroids_.reset(environment().allocator, blocks * all * queryClusterCount() * depth);
    rowClusters_.assign(all * rowCount(), -1);
    if (given_) {
      readCentroids();
      std::copy_n(given_->queryClusters, rowClusters_.size(), rowClusters_.begin());
    } else {
      KMeans kMeans(environment(), depth, queryClusterCount(), problem_.parameters.iterations);
      // Causal: what k-means assigns to prefixes is not used.
      Buffer<int32_t> unused;
      size_t prefixRows = 0;
      for (int block = 0; geometry_.causal && block < blocks_; block++) {
        const Span prefix = geometry_.centroidRows(block);
        prefixRows += static_cast<size_t>(prefix.end - prefix.begin);
      }
      int32_t* assignment = unused.reset(environment().allocator, heads.size() * prefixRows);
      for (const size_t head : heads) {
        for (int block = 0; block < blocks_; block++) {
          const Span prefix = geometry_.centroidRows(block);
          const auto count = static_cast<size_t>(prefix.end - prefix.begin);
          const Rows points = problem_.queriesOf(head).from(static_cast<size_t>(prefix.begin));
          float* centroids = centroidsOf(static_cast<size_t>(block), head);
          kMeans.add({points, count, centroids, geometry_.causal ? assignment : &rowClusters_[head * rowCount()]});
          if (geometry_.causal) assignment += count;
        }
      }
      kMeans.run();
      if (geometry_.causal) assignRows(heads);
    }
    if (made_) writeQueryChoices(heads);
  }

  // Assigns causal rows to the nearest centroids of their blocks.
  void assignRows(const std::vector<size_t>& heads) {
    struct Item {
      size_t head, block;
      int64_t begin, end;
    };
    std::vector<Item> items;
    for (const size_t head : heads) {
      for (int block = 0; block < blocks_; block++) {
        const Span rows = geometry_.rowsOf(block);
        for (int64_t row = std::max(rows.begin, firstUsedRow()); row < rows.end; row += kTile) {
          items.push_back({head, static_cast<size_t>(block), row, std::min<int64_t>(row + kTile, rows.end)});
        }
      }
    }
    const size_t depth = problem_.depth, clusters = queryClusterCount();
    struct Workspace {
      Workspace(const Environment& environment, size_t depth, size_t clusters)
          : tile(environment.allocator, depth * kTile),
            bias(environment.allocator, clusters),
            assigner(environment, depth, clusters) {}
      Buffer<float> tile, bias;
      Assigner assigner;
    };
    PerRunner<Workspace> workspaces(items.size());
    parallel().forEach(items.size(), [&](size_t at, size_t runner) {
      const Item& item = items[at];
      Workspace& work = workspaces.get(runner, environment(), depth, clusters);
      const float* centroids = centroidsOf(item.block, item.head);
      const auto count = static_cast<size_t>(item.end - item.begin);
      const Rows points = problem_.queriesOf(item.head).from(static_cast<size_t>(item.begin));
      environment().simd.loadTile(work.tile.data(), kTile, points, count, depth, 1.f);
      KMeans::biases(environment().simd, centroids, clusters, depth, work.bias.data());
      work.assigner.assign(work.tile.data(), count, centroids, work.bias.data(),
                           &rowClusters_[item.head * rowCount() + static_cast<size_t>(item.begin)]);
    });
  }

  void readCentroids() {
    const size_t headDim = problem_.shape.headDim, depth = problem_.depth;
    const size_t count = centroids_.size() / depth;
    std::fill_n(centroids_.data(), centroids_.size(), 0.f);
    for (size_t n = 0; n < count; n++) {
      std::copy_n(given_->queryCentroids + n * headDim, headDim, centroids_.data() + n * depth);
    }
  }

  void writeQueryChoices(const std::vector<size_t>& heads) {
    const size_t headDim = problem_.shape.headDim, clusters = queryClusterCount();
    const size_t all = problem_.shape.batch * problem_.shape.heads;
    std::copy(rowClusters_.begin(), rowClusters_.end(), made_->queryClusters);
    std::fill_n(made_->queryCentroids, static_cast<size_t>(blocks_) * all * clusters * headDim, 0.f);
    for (const size_t head : heads) {
      for (size_t block = 0; block < static_cast<size_t>(blocks_); block++) {
        for (size_t i = 0; i < clusters; i++) {
          std::copy_n(centroidsOf(block, head) + i * problem_.depth, headDim,
                      made_->queryCentroids + ((block * all + head) * clusters + i) * headDim);
        }
      }
    }
  }

  // ---- near and far field ----

  // Items of work that keep all processors busy to the end.
  static size_t wantedItems() { return 2 * std::max(1u, std::thread::hardware_concurrency()); }

  // Heads whose summaries are alive together: enough for all processors, few enough for the caches.
  size_t headsAtOnce(size_t heads) const {
    const size_t perHead = queryClusterCount() * static_cast<size_t>(std::max<int64_t>(geometry_.clusters(), 1)) *
                           (problem_.depth + problem_.size);
    const size_t batches = rowCount() / kBatchRows + 1;
    const size_t wanted = std::max(kSummaryFloats / perHead, wantedItems() / batches);
    return std::clamp<size_t>(wanted, 1, heads);
  }

  void attendApproximately(const std::vector<size_t>& numbers) {
    std::vector<std::unique_ptr<Head>> heads;
    for (const size_t number : numbers) {
      Allocator& allocator = environment().allocator;
      heads.push_back(std::unique_ptr<Head>(new Head{
          number,
          NearSums(allocator, rowCount(), problem_.size),
          Summaries(allocator, queryClusterCount(), static_cast<size_t>(geometry_.clusters()), problem_.depth,
                    problem_.size, problem_.choosesByError(number)),
          {}}));
    }
    for (const std::unique_ptr<Head>& head : heads) {
      // Rows with a segment of their own and a use get theirs from attendNear().
      const int64_t end = geometry_.local ? firstUsedRow() : geometry_.rows;
      head->near.clear(0, static_cast<size_t>(end), problem_.size);
    }
    attendNear(heads);
    const Span used{firstUsedRow(), geometry_.rows};
    for (int block = -1; block < blocks_; block++) {
      Span rows = block < 0 ? Span{0, geometry_.causal ? geometry_.firstRowOf(1) : 0} : geometry_.rowsOf(block);
      if (block < 0) {
        writeNear(heads, rows);
        continue;
      }
      rows.begin = std::max(rows.begin, used.begin);
      if (rows.empty()) continue;
      summarize(heads, static_cast<size_t>(block), rows);
      attendFar(heads, rows);
    }
  }

  // Exact attention of every row to its near keys.
  void attendNear(const std::vector<std::unique_ptr<Head>>& heads) const {
    if (!geometry_.local) return;
    struct Tile {
      int64_t segment;
      Span rows;
    };
    std::vector<Tile> tiles;
    const Span segments = segmentsOf({firstUsedRow(), geometry_.rows});
    for (int64_t segment = segments.begin; segment < segments.end; segment++) {
      const Span rows{std::max(firstUsedRow(), geometry_.firstRowOf(segment)), geometry_.firstRowOf(segment + 1)};
      for (int64_t row = rows.begin; row < rows.end; row += kTile) {
        tiles.push_back({segment, {row, std::min<int64_t>(row + kTile, rows.end)}});
      }
    }
    PerRunner<TileSoftmax> workspaces(heads.size() * tiles.size());
    parallel().forEach(heads.size() * tiles.size(), [&](size_t item, size_t runner) {
      Head& head = *heads[item / tiles.size()];
      const Tile& part = tiles[item % tiles.size()];
      TileSoftmax& tile = workspaces.get(runner, environment(), problem_.depth, problem_.size);
      problem_.attendRange(tile, head.number, part.rows, geometry_.nearKeys(part.segment));
      const auto first = static_cast<size_t>(part.rows.begin), count = static_cast<size_t>(part.rows.end) - first;
      std::copy_n(tile.max, count, head.near.max.data() + first);
      std::copy_n(tile.sum, count, head.near.sum.data() + first);
      float gain[kTile];
      std::fill_n(gain, kTile, 1.f);
      tile.merge(head.near.values.data() + first * problem_.size, nullptr, nullptr, gain);
    });
  }

  // Results of rows that see near keys only, or none.
  void writeNear(const std::vector<std::unique_ptr<Head>>& heads, Span rows) const {
    for (const std::unique_ptr<Head>& head : heads) {
      for (int64_t row = rows.begin; row < rows.end; row++) {
        const auto at = static_cast<size_t>(row);
        problem_.write(head->number, row, head->near.values.data() + at * problem_.size, head->near.max[at],
                       head->near.sum[at]);
      }
    }
  }

  // Step 5, for the rows of one block.
  void summarize(const std::vector<std::unique_ptr<Head>>& heads, size_t block, Span rows) {
    const std::vector<bool> units = usedUnits(segmentsOf(rows));
    const auto clusters = static_cast<size_t>(geometry_.keyClusters);
    std::vector<bool> used(units.size() * clusters);
    for (size_t c = 0; c < used.size(); c++) used[c] = units[c / clusters];
    std::vector<size_t> panels;
    for (size_t c = 0; c < used.size(); c++) {
      if (used[c] && (panels.empty() || panels.back() != c / kLanes)) panels.push_back(c / kLanes);
    }
    usedPanels_ = panels.size();
    const Span made = geometry_.centroidRows(static_cast<int>(block));
    for (const std::unique_ptr<Head>& head : heads) {
      if (problem_.choosesByError(head->number)) {
        const Rows queries = problem_.queriesOf(head->number).from(static_cast<size_t>(made.begin));
        head->summaries.setMetric(queries, static_cast<size_t>(made.end - made.begin), problem_.shape.headDim);
      }
      head->summaries.setCentroids(environment().simd, centroidsOf(block, head->number), problem_.multiplier);
    }
    PerRunner<Summaries::Workspace> workspaces(heads.size() * panels.size());
    parallel().forEach(heads.size() * panels.size(), [&](size_t item, size_t runner) {
      Head& head = *heads[item / panels.size()];
      const size_t kvHead = problem_.kvHeadOf(head.number);
      Summaries::Workspace& work = workspaces.get(runner, environment(), head.summaries);
      head.summaries.compute(environment().simd, panels[item % panels.size()], members_[kvHead],
                             problem_.keyValueOf(kvHead), used, work);
    });
  }

  // How the rows of a block are ordered and pooled.
  RowOrder orderRows(const Head& head, Span rows) const {
    const Parameters& parameters = problem_.parameters;
    const int32_t* clusters = &rowClusters_[head.number * rowCount()];
    RowOrder order;
    for (int64_t row = rows.begin; row < rows.end; row++) order.rows.push_back(static_cast<int32_t>(row));
    const bool selects = problem_.selects(head.number);
    const auto segmentOf = [&](int32_t row) { return geometry_.causal ? geometry_.segmentOf(row) : 0; };
    // Without pools, rows of one query cluster go together where all rows use the same clusters of keys, more
    // or less.
    if (selects ? parameters.selection == Selection::cluster : !geometry_.causal && !geometry_.dyadic) {
      std::stable_sort(order.rows.begin(), order.rows.end(), [&](int32_t a, int32_t b) {
        return std::pair(segmentOf(a), clusters[a]) < std::pair(segmentOf(b), clusters[b]);
      });
    }
    int64_t size = 0;
    for (size_t n = 0; n < order.rows.size(); n++) {
      bool starts = n == 0;
      if (!starts && selects) {
        const int32_t row = order.rows[n], previous = order.rows[n - 1];
        switch (parameters.selection) {
          case Selection::sliding:
            starts = true;
            break;
          case Selection::cluster:
            starts = size == parameters.group || clusters[row] != clusters[previous] ||
                     segmentOf(row) != segmentOf(previous);
            break;
          case Selection::tile: {
            const int64_t own = geometry_.segmentOf(row);
            const int64_t inside = geometry_.position(row) - (geometry_.local ? own * geometry_.segment : 0);
            starts = inside % parameters.group == 0;
            break;
          }
        }
        // A segment starts a tile of its own.
        if (parameters.selection == Selection::tile && geometry_.segmentOf(row) != geometry_.segmentOf(previous)) {
          starts = true;
        }
      } else if (!starts) {
        starts = true;
      }
      if (starts) {
        order.pools.push_back(n);
        size = 0;
      }
      size++;
    }
    order.pools.push_back(order.rows.size());
    return order;
  }

  // Steps 6 to 9.
  void attendFar(const std::vector<std::unique_ptr<Head>>& heads, Span rows) {
    struct Batch {
      size_t head, firstPool, lastPool;
    };
    std::vector<RowOrder> orders;
    std::vector<FarField> fields;
    std::vector<CarriedScores> kept(heads.size());
    std::vector<Batch> batches;
    const size_t columns = std::max<size_t>(1, usedPanels_ * kLanes);
    const size_t share = (static_cast<size_t>(rows.end - rows.begin) * heads.size() + wantedItems() - 1) / wantedItems();
    const size_t batchRows = std::clamp<size_t>(std::min(kBatchScores / columns, share), kTile, kBatchRows);
    fields.reserve(heads.size());
    for (size_t h = 0; h < heads.size(); h++) {
      const Head& head = *heads[h];
      orders.push_back(orderRows(head, rows));
      fields.emplace_back(problem_, head.number, head.summaries, members_[problem_.kvHeadOf(head.number)],
                          &rowClusters_[head.number * rowCount()], head.near);
      const RowOrder& order = orders.back();
      for (size_t pool = 0; pool + 1 < order.pools.size();) {
        size_t end = pool + 1;
        while (end + 1 < order.pools.size() && order.pools[end + 1] - order.pools[pool] <= batchRows) end++;
        batches.push_back({h, pool, end});
        pool = end;
      }
      if (const int64_t halo = fields[h].halo(); halo > 0 && rows.end < geometry_.rows) {
        prepareCarry(kept[h], head.carried, rows, halo);
      }
    }
    PerRunner<FarField::Workspace> workspaces(batches.size());
    parallel().forEach(batches.size(), [&](size_t item, size_t runner) {
      const Batch& batch = batches[item];
      const Head& head = *heads[batch.head];
      const size_t choices = head.number * problem_.shape.queries * static_cast<size_t>(geometry_.clusters());
      fields[batch.head].run(orders[batch.head], batch.firstPool, batch.lastPool, rows, head.carried,
                             kept[batch.head].rows.empty() ? nullptr : &kept[batch.head],
                             given_ ? given_->retrieved + choices : nullptr,
                             made_ ? made_->retrieved + choices : nullptr,
                             workspaces.get(runner, problem_));
    });
    for (size_t h = 0; h < heads.size(); h++) heads[h]->carried = std::move(kept[h]);
  }

  // Room for the scores of the last rows before rows.end, filled as far as they belong to earlier blocks.
  static void prepareCarry(CarriedScores& kept, const CarriedScores& earlier, Span rows, int64_t halo) {
    kept.firstRow = std::max<int64_t>(0, rows.end - halo);
    kept.rows.resize(static_cast<size_t>(rows.end - kept.firstRow));
    for (int64_t row = kept.firstRow; row < rows.begin; row++) {
      kept.rows[static_cast<size_t>(row - kept.firstRow)] = earlier.of(row);
    }
  }

  const Problem& problem_;
  const Geometry& geometry_;
  const Choices* const given_;
  const Choices* const made_;
  std::vector<KeyMembers> members_;   // by batch row and key head
  Buffer<float> centroids_;           // [blocks][batch][heads][queryClusters][depth]
  std::vector<int32_t> rowClusters_;  // [batch][heads][rows]
  int blocks_ = 0;
  size_t usedPanels_ = 0;
};

}  // namespace onnxrewrite::multipole
