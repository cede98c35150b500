// Stage 2 (operator README, steps 6 to 9) for one query head and one block of query centroids: estimates,
// choice of clusters, exact attention to their members, one softmax with what the rows saw near by.
//
// Rows come in batches. A batch computes the estimates of all its rows for the panels of clusters that any of
// them uses ("columns"), so memory is rows of a batch times columns, never rows times clusters.
#pragma once

#include "cpu_moments.h"
#include "cpu_problem.h"

namespace onnxrewrite::multipole {

// Softmax sums over the near keys, by row: totals and unnormalized value sums relative to `max`.
struct NearSums {
  NearSums(Allocator& allocator, size_t rows, size_t size)
      : max(allocator, rows), sum(allocator, rows), values(allocator, rows * size) {}

  // Nothing seen, by rows [begin, end).
  void clear(size_t begin, size_t end, size_t size) {
    std::fill(max.data() + begin, max.data() + end, kMinusInfinity);
    std::fill(sum.data() + begin, sum.data() + end, 0.f);
    std::fill(values.data() + begin * size, values.data() + end * size, 0.f);
  }

  Buffer<float> max, sum, values;
};

// What `sliding` pools that reach back into earlier blocks take the mean of, for the last rows of those.
struct CarriedScores {
  int64_t firstRow = 0;
  std::vector<std::vector<float>> rows;  // rows firstRow, firstRow + 1, ...: score by cluster, empty for none

  // Empty for a row that has none.
  const std::vector<float>& of(int64_t row) const {
    static const std::vector<float> none;
    const int64_t at = row - firstRow;
    return at >= 0 && at < static_cast<int64_t>(rows.size()) ? rows[static_cast<size_t>(at)] : none;
  }
};

// Rows of a head in the order of their pools.
struct RowOrder {
  std::vector<int32_t> rows;
  std::vector<size_t> pools;  // where each pool starts, and the end
};

class FarField {
 public:
  FarField(const Problem& problem, size_t head, const Summaries& summaries, const KeyMembers& members,
           const int32_t* rowClusters, const NearSums& near)
      : problem_(problem),
        geometry_(problem.geometry),
        simd_(problem.environment.simd),
        head_(head),
        summaries_(summaries),
        members_(members),
        rowClusters_(rowClusters),
        near_(near),
        kv_(problem.keyValueOf(problem.kvHeadOf(head))) {}

  class Workspace {
   public:
    explicit Workspace(const Problem& problem)
        : tile(problem.environment, problem.depth, problem.size),
          moments(problem.environment, problem.depth, problem.size) {}

   private:
    friend class FarField;
    // estimates: order 2 only; errors: those of `scores`, where they are what clusters are chosen by.
    Buffer<float> scores, estimates, errors, queries, sums, mean, panelKeys;
    TileSoftmax tile;
    Moments moments;
    std::vector<int32_t> rows, slotOf, columnOfPanel, panels, shown, slots, keys, takers;
    std::vector<size_t> groups, takersFrom;
    std::vector<float> max, sum, nearScale, halfSquare, weights;
    // Dyadic: length of each column's unit in segments, by column and of a pool's candidates; its reciprocal, 0
    // where that alone is more than a pool may choose.
    std::vector<int32_t> length, candidateBits, candidateLength;
    std::vector<float> perLength;
    std::vector<std::vector<Span>> hidden;  // hidden columns by own segment, from firstSegment on
    std::vector<std::vector<int32_t>> chosen;
    int64_t firstSegment = 0;
    size_t columns = 0;
  };

  // Rows that pools slide over before a batch: their scores count, their results do not.
  int64_t halo() const {
    const Parameters& parameters = problem_.parameters;
    return problem_.selects(head_) && parameters.selection == Selection::sliding ? parameters.group - 1 : 0;
  }

  // Computes the rows of pools [firstPool, lastPool) of `order`. `blockRows` are all rows of the block,
  // `carried` scores of rows before it; `kept`, if given, receives those of the last rows of the block.
  // `given` and `retrieved` exchange the chosen clusters of present rows, [queries][clusters].
  void run(const RowOrder& order, size_t firstPool, size_t lastPool, Span blockRows,
           const CarriedScores& carried, CarriedScores* kept, const int32_t* given, int32_t* retrieved,
           Workspace& work) const {
    const size_t begin = order.pools[firstPool], end = order.pools[lastPool];
    // `sliding` orders rows by position, so what precedes a batch in its block precedes it in the order.
    const size_t before = std::min(begin, static_cast<size_t>(halo()));
    work.rows.assign(order.rows.begin() + static_cast<ptrdiff_t>(begin - before),
                     order.rows.begin() + static_cast<ptrdiff_t>(end));
    layOutColumns(work);
    groupRows(work);
    estimate(work);
    if (problem_.selects(head_) && work.columns > 0) {
      if (problem_.choosesByError(head_)) expectErrors(work);
      if (kept) keep(blockRows, before, *kept, work);
      choose(order, firstPool, lastPool, before, carried, given, work);
      drop(order, firstPool, lastPool, before, retrieved, work);
    }
    sumValues(work);
    if (problem_.selects(head_) && work.columns > 0) attendChosen(order, firstPool, lastPool, before, work);
    for (size_t n = before; n < work.rows.size(); n++) {
      const auto slot = static_cast<size_t>(work.slotOf[n]);
      problem_.write(head_, work.rows[n], work.sums.data() + slot * problem_.size, work.max[slot],
                     work.sum[slot]);
    }
  }

 private:
  int64_t segmentOfSlot(const Workspace& work, size_t slot) const {
    return geometry_.segmentOf(work.slots[slot]) - work.firstSegment;
  }
  int64_t clusterAt(const Workspace& work, size_t column) const {
    return work.panels[column / kLanes] * static_cast<int64_t>(kLanes) + static_cast<int64_t>(column % kLanes);
  }

  // The panels that any row of the batch uses, and for each own segment the columns that its rows do not.
  void layOutColumns(Workspace& work) const {
    int64_t first = std::numeric_limits<int64_t>::max(), last = 0;
    for (const int32_t row : work.rows) {
      first = std::min(first, geometry_.segmentOf(row));
      last = std::max(last, geometry_.segmentOf(row));
    }
    work.firstSegment = first;
    work.hidden.assign(static_cast<size_t>(last - first + 1), {});
    std::vector<std::vector<Span>> shown(work.hidden.size());
    work.columnOfPanel.assign(summaries_.panels, -1);
    const int64_t clusters = geometry_.keyClusters, lanes = static_cast<int64_t>(kLanes);
    std::vector<bool> present(work.hidden.size());
    for (const int32_t row : work.rows) present[static_cast<size_t>(geometry_.segmentOf(row) - first)] = true;
    for (size_t s = 0; s < shown.size(); s++) {
      if (!present[s]) continue;
      geometry_.farUnits(first + static_cast<int64_t>(s), shown[s]);
      for (const Span& units : shown[s]) {
        for (int64_t p = units.begin * clusters / lanes; p * lanes < units.end * clusters; p++) {
          work.columnOfPanel[static_cast<size_t>(p)] = 0;
        }
      }
    }
    work.panels.clear();
    for (size_t p = 0; p < work.columnOfPanel.size(); p++) {
      if (work.columnOfPanel[p] < 0) continue;
      work.columnOfPanel[p] = static_cast<int32_t>(work.panels.size() * kLanes);
      work.panels.push_back(static_cast<int32_t>(p));
    }
    work.columns = work.panels.size() * kLanes;
    if (geometry_.dyadic) {
      work.length.resize(work.columns);
      work.perLength.resize(work.columns);
      for (size_t c = 0; c < work.columns; c++) {
        const int64_t unit = std::min(clusterAt(work, c) / clusters, geometry_.units() - 1);
        work.length[c] = int32_t{1} << geometry_.levelOf(unit);
        work.perLength[c] =
            work.length[c] > problem_.retrieveOf(head_) ? 0.f : 1.f / static_cast<float>(work.length[c]);
      }
    }
    for (size_t s = 0; s < shown.size(); s++) {
      if (!present[s]) continue;
      int64_t at = 0;
      for (const Span& units : shown[s]) {
        const int64_t a = units.begin * clusters, b = units.end * clusters;
        const int64_t column = work.columnOfPanel[static_cast<size_t>(a / lanes)] + a % lanes;
        if (column > at) work.hidden[s].push_back({at, column});
        at = column + (b - a);
      }
      if (at < static_cast<int64_t>(work.columns)) {
        work.hidden[s].push_back({at, static_cast<int64_t>(work.columns)});
      }
    }
  }

  // Gives rows of one query cluster neighboring slots: slots[slot] is the row, slotOf[n] the slot of rows[n].
  void groupRows(Workspace& work) const {
    const size_t count = work.rows.size();
    work.groups.assign(static_cast<size_t>(problem_.parameters.queryClusters) + 1, 0);
    work.slots.resize(count);
    work.slotOf.resize(count);
    for (const int32_t row : work.rows) work.groups[static_cast<size_t>(rowClusters_[row]) + 1]++;
    for (size_t i = 1; i < work.groups.size(); i++) work.groups[i] += work.groups[i - 1];
    std::vector<size_t> next = work.groups;
    for (size_t n = 0; n < count; n++) {
      const size_t slot = next[static_cast<size_t>(rowClusters_[work.rows[n]])]++;
      work.slots[slot] = work.rows[n];
      work.slotOf[n] = static_cast<int32_t>(slot);
    }
  }

  // Calls step(column, panel, panels) for every run of neighboring panels.
  template <class Step>
  static void forPanelRuns(const Workspace& work, const Step& step) {
    for (size_t p = 0; p < work.panels.size();) {
      size_t end = p + 1;
      while (end < work.panels.size() && work.panels[end] == work.panels[end - 1] + 1) end++;
      step(p * kLanes, static_cast<size_t>(work.panels[p]), end - p);
      p = end;
    }
  }

  // Leaves exp2(estimate - max) in scores, by slot, and the totals over near keys and estimates.
  void estimate(Workspace& work) const {
    const size_t count = work.slots.size(), columns = work.columns, depth = problem_.depth;
    Allocator& allocator = problem_.environment.allocator;
    float* scores = work.scores.reset(allocator, count * columns);
    float* queries = work.queries.reset(allocator, count * depth);
    const Rows source = problem_.queriesOf(head_);
    for (size_t slot = 0; slot < count; slot++) {
      const float* query = source[static_cast<size_t>(work.slots[slot])];
      for (size_t d = 0; d < depth; d++) queries[slot * depth + d] = query[d] * problem_.multiplier;
    }
    work.max.resize(count);
    work.sum.resize(count);
    work.nearScale.resize(count);
    const bool later = problem_.parameters.order == 2;
    for (size_t i = 0; i + 1 < work.groups.size(); i++) {
      const size_t first = work.groups[i], rows = work.groups[i + 1] - first;
      if (rows == 0) continue;
      forPanelRuns(work, [&](size_t column, size_t panel, size_t panels) {
        simd_.scoreRows(scores + first * columns + column, columns, queries + first * depth, depth, rows,
                        summaries_.keys(i, panel), panels, depth, summaries_.bias(i, panel));
      });
      if (!later) exponentiate(first, rows, work);
    }
    if (!later) return;
    addVariances(work);
    if (problem_.selects(head_)) std::copy_n(scores, count * columns, work.estimates.reset(allocator, count * columns));
    exponentiate(0, count, work);
  }

  // Turns the estimates of some slots into exp2(estimate - max), 0 where a row does not use the cluster.
  void exponentiate(size_t first, size_t rows, Workspace& work) const {
    for (size_t slot = first; slot < first + rows; slot++) {
      float* row = work.scores.data() + slot * work.columns;
      for (const Span& span : work.hidden[static_cast<size_t>(segmentOfSlot(work, slot))]) {
        std::fill(row + span.begin, row + span.end, kMinusInfinity);
      }
      const auto at = static_cast<size_t>(work.slots[slot]);
      const float max = simd_.maxRow(row, work.columns, near_.max[at]);
      const float total = simd_.exp2Row(row, work.columns, max == kMinusInfinity ? 0.f : max);
      work.max[slot] = max;
      work.nearScale[slot] = rescale(near_.max[at], max);
      work.sum[slot] = near_.sum[at] * work.nearScale[slot] + total;
    }
  }

  // Leaves the scores times u_ij in errors, and s^2 |q - c_i|^2 / 2 of each slot in halfSquare.
  void expectErrors(Workspace& work) const {
    const size_t columns = work.columns, depth = problem_.depth;
    float* errors = work.errors.reset(problem_.environment.allocator, work.slots.size() * columns);
    work.halfSquare.resize(work.slots.size());
    for (size_t i = 0; i + 1 < work.groups.size(); i++) {
      const float* negated = summaries_.negatedCentroid(i);
      for (size_t slot = work.groups[i]; slot < work.groups[i + 1]; slot++) {
        const float* query = work.queries.data() + slot * depth;
        float square = 0;
        for (size_t d = 0; d < depth; d++) square += (query[d] + negated[d]) * (query[d] + negated[d]);
        work.halfSquare[slot] = square / 2 * kLn2 * kLn2;
      }
      forPanelRuns(work, [&](size_t column, size_t panel, size_t panels) {
        const float* spread = summaries_.spread(i, panel);
        for (size_t slot = work.groups[i]; slot < work.groups[i + 1]; slot++) {
          const float* from = work.scores.data() + slot * columns + column;
          float* to = errors + slot * columns + column;
          for (size_t c = 0; c < panels * kLanes; c++) to[c] = from[c] * spread[c];
        }
      });
    }
  }

  // What pools take the mean of, masses or expected errors: numbers by slot, and the factor that each slot's lack.
  const float* pooledScores(const Workspace& work) const {
    return problem_.choosesByError(head_) ? work.errors.data() : work.scores.data();
  }
  float pooledFactor(const Workspace& work, size_t slot) const {
    const float factor = work.sum[slot] == 0 ? 0.f : 1.f / work.sum[slot];
    return problem_.choosesByError(head_) ? factor * work.halfSquare[slot] : factor;
  }

  // Stores the scores of the last rows of the block.
  void keep(Span blockRows, size_t before, CarriedScores& kept, const Workspace& work) const {
    for (size_t n = before; n < work.rows.size(); n++) {
      const int64_t row = work.rows[n];
      if (row < blockRows.end - halo()) continue;
      const auto slot = static_cast<size_t>(work.slotOf[n]);
      std::vector<float>& byCluster = kept.rows[static_cast<size_t>(row - kept.firstRow)];
      byCluster.assign(summaries_.panels * kLanes, 0.f);
      const float* scores = pooledScores(work) + slot * work.columns;
      const float factor = pooledFactor(work, slot);
      for (size_t c = 0; c < work.columns; c++) {
        byCluster[static_cast<size_t>(clusterAt(work, c))] = scores[c] * factor;
      }
    }
  }

  // For every pool of the batch, the columns with the largest mean score.
  void choose(const RowOrder& order, size_t firstPool, size_t lastPool, size_t before,
              const CarriedScores& carried, const int32_t* given, Workspace& work) const {
    const size_t columns = work.columns;
    const int64_t group = problem_.parameters.group;
    const bool sliding = problem_.parameters.selection == Selection::sliding;
    float* mean = work.mean.reset(problem_.environment.allocator, columns);
    work.chosen.resize(std::max(work.chosen.size(), lastPool - firstPool));
    const size_t origin = order.pools[firstPool] - before;
    for (size_t pool = firstPool; pool < lastPool; pool++) {
      std::vector<int32_t>& chosen = work.chosen[pool - firstPool];
      // Members as positions in work.rows.
      const size_t end = order.pools[pool + 1] - origin;
      size_t begin = order.pools[pool] - origin;
      if (given) {
        readChosen(given, work.rows[end - 1], work, chosen);
        continue;
      }
      size_t members = end - begin;
      std::fill_n(mean, columns, 0.f);
      if (sliding) {
        const int64_t row = work.rows[begin];
        const int64_t earliest = std::max(geometry_.firstRow(), row - group + 1);
        members = static_cast<size_t>(row - earliest + 1);
        begin -= std::min(begin, members - 1);
        const int64_t firstHere = work.rows[begin];
        for (int64_t r = earliest; r < firstHere; r++) addCarried(carried, r, mean, work);
      }
      work.weights.resize(end - begin);
      for (size_t n = begin; n < end; n++) {
        work.weights[n - begin] = pooledFactor(work, static_cast<size_t>(work.slotOf[n]));
      }
      simd_.accumulateRows(mean, 0, 1, columns, work.weights.data(), 0, 1,
                           Rows{pooledScores(work), columns, work.slotOf.data() + begin}, end - begin);
      chooseLargest(mean, members, work, chosen);
    }
  }

  void addCarried(const CarriedScores& carried, int64_t row, float* mean, const Workspace& work) const {
    const std::vector<float>& scores = carried.of(row);
    if (scores.empty()) return;
    for (size_t p = 0; p < work.panels.size(); p++) {
      const size_t cluster = static_cast<size_t>(work.panels[p]) * kLanes;
      simd_.addScaled(mean + p * kLanes, scores.data() + cluster, kLanes, 1.f);
    }
  }

  // `mean` holds sums of scores over `members` rows.
  void chooseLargest(float* mean, size_t members, Workspace& work, std::vector<int32_t>& chosen) const {
    const float limit = problem_.parameters.retrieveMass;
    if (limit <= 0) {
      const int64_t wanted = problem_.retrieveOf(head_);
      if (geometry_.dyadic) {
        for (size_t c = 0; c < work.columns; c++) mean[c] *= work.perLength[c];
      }
      if (problem_.choosesByError(head_)) {
        const float least = problem_.parameters.retrieveError * static_cast<float>(members);
        for (size_t c = 0; c < work.columns; c++) mean[c] = mean[c] >= least ? mean[c] : 0.f;
      }
      chosen.resize(work.columns);
      chosen.resize(simd_.selectLargest(chosen.data(), mean, work.columns, static_cast<size_t>(wanted)));
      if (geometry_.dyadic) keepUpTo(wanted, mean, work, chosen);
      return;
    }
    chosen.clear();
    float left = 0;
    for (size_t c = 0; c < work.columns; c++) {
      mean[c] /= static_cast<float>(members);
      left += mean[c];
      if (mean[c] > 0) chosen.push_back(static_cast<int32_t>(c));
    }
    std::sort(chosen.begin(), chosen.end(),
              [&](int32_t a, int32_t b) { return mean[a] > mean[b] || (mean[a] == mean[b] && a < b); });
    size_t taken = 0;
    while (taken < chosen.size() && !(left < limit)) left -= mean[chosen[taken++]];
    chosen.resize(taken);
    std::sort(chosen.begin(), chosen.end());
  }

  // Keeps the first of the chosen clusters, by descending mean, that together are at most `wanted` segments long.
  static void keepUpTo(int64_t wanted, const float* mean, Workspace& work, std::vector<int32_t>& chosen) {
    const size_t count = chosen.size();
    // Nonnegative floats order like their bit patterns.
    work.candidateBits.resize(count);
    work.candidateLength.resize(count);
    for (size_t n = 0; n < count; n++) {
      const auto column = static_cast<size_t>(chosen[n]);
      std::memcpy(&work.candidateBits[n], mean + column, sizeof(float));
      work.candidateLength[n] = work.length[column];
    }
    const int32_t *bits = work.candidateBits.data(), *length = work.candidateLength.data();
    const auto lengthFrom = [&](int32_t bound) {
      int32_t total = 0;
      for (size_t n = 0; n < count; n++) total += length[n] & -static_cast<int32_t>(bits[n] >= bound);
      return total;
    };
    if (lengthFrom(0) <= wanted) return;
    // lengthFrom(low) > wanted >= lengthFrom(high)
    int32_t low = 0, high = std::numeric_limits<int32_t>::max();
    while (high - low > 1) {
      const int32_t middle = low + (high - low) / 2;
      (lengthFrom(middle) > wanted ? low : high) = middle;
    }
    // Of those that equal `low`, the first ones as long as they fit.
    int64_t left = wanted - lengthFrom(high);
    size_t kept = 0;
    for (size_t n = 0; n < count; n++) {
      if (bits[n] == low) left -= length[n];
      if (bits[n] > low || (bits[n] == low && left >= 0)) chosen[kept++] = chosen[n];
    }
    chosen.resize(kept);
  }

  // Chosen clusters of a row as columns, none for past rows; clusters that the batch does not use cannot matter.
  void readChosen(const int32_t* given, int64_t row, const Workspace& work, std::vector<int32_t>& chosen) const {
    chosen.clear();
    if (row < geometry_.past) return;
    const auto clusters = static_cast<size_t>(geometry_.clusters());
    const int32_t* list = given + static_cast<size_t>(row - geometry_.past) * clusters;
    for (size_t n = 0; n < clusters && list[n] >= 0; n++) {
      const int32_t column = work.columnOfPanel[static_cast<size_t>(list[n]) / kLanes];
      if (column >= 0) chosen.push_back(column + list[n] % static_cast<int32_t>(kLanes));
    }
    std::sort(chosen.begin(), chosen.end());
  }

  // Takes the estimates of chosen clusters out of the rows of their pools.
  void drop(const RowOrder& order, size_t firstPool, size_t lastPool, size_t before, int32_t* retrieved,
            Workspace& work) const {
    const size_t origin = order.pools[firstPool] - before;
    for (size_t pool = firstPool; pool < lastPool; pool++) {
      const std::vector<int32_t>& chosen = work.chosen[pool - firstPool];
      for (size_t n = order.pools[pool] - origin; n < order.pools[pool + 1] - origin; n++) {
        const auto slot = static_cast<size_t>(work.slotOf[n]);
        float* row = work.scores.data() + slot * work.columns;
        if (problem_.parameters.order == 2) {
          // An estimate may be far above what its members weigh: what is left may need a maximum of its own.
          std::copy_n(work.estimates.data() + slot * work.columns, work.columns, row);
          for (const int32_t column : chosen) row[column] = kMinusInfinity;
          exponentiate(slot, 1, work);
        } else {
          for (const int32_t column : chosen) row[column] = 0;
          const float near = near_.sum[static_cast<size_t>(work.rows[n])] * work.nearScale[slot];
          work.sum[slot] = near + simd_.sumRow(row, work.columns);
        }
        if (retrieved && work.rows[n] >= geometry_.past) {
          int32_t* list = retrieved + static_cast<size_t>((work.rows[n] - geometry_.past) * geometry_.clusters());
          for (const int32_t column : chosen) {
            *list++ = static_cast<int32_t>(clusterAt(work, static_cast<size_t>(column)));
          }
        }
      }
    }
  }

  // Unnormalized sums of values by slot: near keys and the estimates that are left.
  void sumValues(Workspace& work) const {
    const size_t count = work.slots.size(), columns = work.columns, size = problem_.size;
    float* sums = work.sums.reset(problem_.environment.allocator, count * size);
    for (size_t slot = 0; slot < count; slot++) {
      const float* near = near_.values.data() + static_cast<size_t>(work.slots[slot]) * size;
      std::copy_n(near, size, sums + slot * size);
    }
    simd_.scaleRows(sums, size, count, size, work.nearScale.data());
    const auto add = kv_.guarded ? simd_.accumulateRowsGuarded : simd_.accumulateRows;
    for (size_t i = 0; i + 1 < work.groups.size(); i++) {
      const size_t first = work.groups[i], rows = work.groups[i + 1] - first;
      if (rows == 0) continue;
      forPanelRuns(work, [&](size_t column, size_t panel, size_t panels) {
        add(sums + first * size, size, rows, size, work.scores.data() + first * columns + column, columns, 1,
            Rows{summaries_.values(i, panel), size}, panels * kLanes);
      });
    }
    if (problem_.parameters.order > 0) addDipoles(work);
  }

  // Calls start(first slot, rows, i) for every tile of slots of one query cluster i, visit(column) with the
  // moments of each of its key clusters loaded, and end().
  template <class Start, class Visit, class End>
  void forMoments(Workspace& work, const Start& start, const Visit& visit, const End& end) const {
    for (size_t i = 0; i + 1 < work.groups.size(); i++) {
      for (size_t first = work.groups[i]; first < work.groups[i + 1]; first += kTile) {
        const size_t rows = std::min(kTile, work.groups[i + 1] - first);
        work.moments.start(work.queries.data() + first * problem_.depth, rows, summaries_.negatedCentroid(i));
        start(first, rows, i);
        for (size_t column = 0; column < work.columns; column++) {
          const float logWeight = summaries_.logWeight(i, work.panels[column / kLanes])[column % kLanes];
          if (logWeight == kMinusInfinity) continue;
          const int64_t cluster = clusterAt(work, column);
          work.moments.load(kv_, members_.membersOf(cluster), members_.sizeOf(cluster), logWeight);
          visit(column, logWeight);
        }
        end();
      }
    }
  }

  // Order 2: half the variance over each cluster is added to its estimates.
  void addVariances(Workspace& work) const {
    size_t first = 0, rows = 0;
    forMoments(
        work,
        [&](size_t slot, size_t count, size_t) {
          first = slot;
          rows = count;
        },
        [&](size_t column, float) {
          for (size_t lane = 0; lane < rows; lane++) {
            work.scores[(first + lane) * work.columns + column] += work.moments.halfVariance(lane);
          }
        },
        [] {});
  }

  // From order 1 on: the dipole of every cluster that is left, with the weight of its estimate; contracted:
  // with the weight that it has at the query centroid.
  void addDipoles(Workspace& work) const {
    const bool contracted = problem_.parameters.contracted;
    size_t first = 0;
    float max = 0, total = 0;
    forMoments(
        work,
        [&](size_t slot, size_t, size_t i) {
          first = slot;
          work.weights.clear();
          forPanelRuns(work, [&](size_t, size_t panel, size_t panels) {
            const float* weights = summaries_.logWeight(i, panel);
            work.weights.insert(work.weights.end(), weights, weights + panels * kLanes);
          });
          max = simd_.maxRow(work.weights.data(), work.columns, kMinusInfinity);
          total = max == kMinusInfinity ? 0 : simd_.exp2Row(work.weights.data(), work.columns, max);
        },
        [&](size_t column, float logWeight) {
          const float atCentroid = std::exp2(logWeight - max) / total;
          work.moments.addDipoles(kv_, [&](size_t lane) {
            return contracted ? atCentroid * work.sum[first + lane]
                              : work.scores[(first + lane) * work.columns + column];
          });
        },
        [&] { work.moments.mergeInto(work.sums.data() + first * problem_.size); });
  }

  bool isHidden(const Workspace& work, int64_t segment, int32_t column) const {
    for (const Span& span : work.hidden[static_cast<size_t>(segment - work.firstSegment)]) {
      if (column < span.end) return column >= span.begin;
    }
    return false;
  }

  // Whether the rows [begin, end) of the batch, which share a pool, use all of its clusters alike and are enough
  // to take them together.
  bool sharesAll(size_t begin, size_t end, const Workspace& work) const {
    if (end - begin < kLanes || work.rows[begin] < geometry_.past) return false;
    const int64_t segment = geometry_.segmentOf(work.rows[begin]);
    const int32_t* rows = work.rows.data();
    return std::all_of(rows + begin, rows + end,
                       [&](int32_t row) { return geometry_.segmentOf(row) == segment; });
  }

  // Exact attention of rows to the members of their clusters: large pools a tile at a time, all other rows
  // cluster by cluster, in order, where no row meets a key that it does not use.
  void attendChosen(const RowOrder& order, size_t firstPool, size_t lastPool, size_t before,
                    Workspace& work) const {
    const size_t origin = order.pools[firstPool] - before;
    const auto forPools = [&](bool shared, const auto& visit) {
      for (size_t pool = firstPool; pool < lastPool; pool++) {
        const size_t begin = order.pools[pool] - origin, end = order.pools[pool + 1] - origin;
        if (sharesAll(begin, end, work) == shared) visit(begin, end, work.chosen[pool - firstPool]);
      }
    };
    forPools(true, [&](size_t begin, size_t end, const std::vector<int32_t>& chosen) {
      for (size_t n = begin; n < end; n += kTile) attendPool(n, std::min(kTile, end - n), chosen, work);
    });

    // The slots that use column c are takers[takersFrom[c] .. takersFrom[c + 1]).
    const auto forUses = [&](const auto& visit) {
      forPools(false, [&](size_t begin, size_t end, const std::vector<int32_t>& chosen) {
        for (size_t n = begin; n < end; n++) {
          if (work.rows[n] < geometry_.past) continue;
          const int64_t segment = geometry_.segmentOf(work.rows[n]);
          for (const int32_t column : chosen) {
            if (!isHidden(work, segment, column)) visit(static_cast<size_t>(column), work.slotOf[n]);
          }
        }
      });
    };
    work.takersFrom.assign(work.columns + 2, 0);
    forUses([&](size_t column, int32_t) { work.takersFrom[column + 2]++; });
    for (size_t c = 2; c < work.takersFrom.size(); c++) work.takersFrom[c] += work.takersFrom[c - 1];
    work.takers.resize(work.takersFrom.back());
    forUses([&](size_t column, int32_t slot) { work.takers[work.takersFrom[column + 1]++] = slot; });
    for (size_t column = 0; column < work.columns; column++) {
      const size_t from = work.takersFrom[column], count = work.takersFrom[column + 1] - from;
      if (count > 0) attendCluster(work.takers.data() + from, count, clusterAt(work, column), work);
    }
  }

  // Rows [first, first + rows) of the batch, which use the same clusters.
  void attendPool(size_t first, size_t rows, const std::vector<int32_t>& chosen, Workspace& work) const {
    work.keys.clear();
    const int64_t segment = geometry_.segmentOf(work.rows[first]);
    for (const int32_t column : chosen) {
      if (isHidden(work, segment, column)) continue;
      const int64_t cluster = clusterAt(work, static_cast<size_t>(column));
      const int32_t* members = members_.membersOf(cluster);
      work.keys.insert(work.keys.end(), members, members + members_.sizeOf(cluster));
    }
    TileSoftmax& tile = work.tile;
    const int32_t* slots = work.slotOf.data() + first;
    tile.start({work.queries.data(), problem_.depth, slots}, rows, 1.f);
    for (size_t lane = 0; lane < rows; lane++) {
      tile.max[lane] = work.max[static_cast<size_t>(slots[lane])];
      tile.sum[lane] = work.sum[static_cast<size_t>(slots[lane])];
    }
    tile.attend(kv_, work.keys.data(), 0, work.keys.size());
    float keep[kTile], gain[kTile];
    std::fill_n(gain, kTile, 1.f);
    for (size_t lane = 0; lane < rows; lane++) {
      const auto slot = static_cast<size_t>(slots[lane]);
      keep[lane] = rescale(work.max[slot], tile.max[lane]);
      work.max[slot] = tile.max[lane];
      work.sum[slot] = tile.sum[lane];
    }
    tile.merge(work.sums.data(), slots, keep, gain);
  }

  // Slots that use the same cluster.
  void attendCluster(const int32_t* slots, size_t slotCount, int64_t cluster, Workspace& work) const {
    const size_t depth = problem_.depth;
    const int32_t* members = members_.membersOf(cluster);
    const size_t size = members_.sizeOf(cluster);
    float* panels = work.panelKeys.reset(problem_.environment.allocator, kPackedKeys * depth);
    for (size_t first = 0; first < size; first += kPackedKeys) {
      const size_t count = std::min(kPackedKeys, size - first);
      for (size_t n = 0; n < count; n += kLanes) {
        simd_.loadTile(panels + n * depth, kLanes, kv_.keys(members + first + n), std::min(kLanes, count - n), depth,
                       1.f);
      }
      simd_.attendRows(work.max.data(), work.sum.data(), work.sums.data(), problem_.size,
                       {work.queries.data(), depth, slots}, slotCount, depth, panels, kv_.values(members + first),
                       count);
    }
  }

  const Problem& problem_;
  const Geometry& geometry_;
  const Simd& simd_;
  const size_t head_;
  const Summaries& summaries_;
  const KeyMembers& members_;
  const int32_t* rowClusters_;
  const NearSums& near_;
  const KeyValue kv_;
};

}  // namespace onnxrewrite::multipole
