import type { Tensor } from '../operator.js';
import { Geometry, range, type Shape, type Unit } from './geometry.js';
import type { MultipoleParameters } from './parameters.js';

/**
 * MultipoleAttention by its definition (README, "Semantics"): plain loops in float64, float32 in and out.
 * The oracle for the function body and for every kernel.
 */

export interface MultipoleInputs {
  /** [B,H,N,D] */
  readonly query: Tensor;
  /** [B,G,S,D], G divides H. */
  readonly key: Tensor;
  /** [B,G,S,E] */
  readonly value: Tensor;
  /** [B,S], nonzero = visible. */
  readonly keyMask?: Uint8Array;
  /** [B,H,P,D]: the queries just before `query`. */
  readonly pastQuery?: Tensor;
}

/**
 * The discontinuous steps: what a kernel chose, so that the rest can be compared under equal choices. A
 * cluster is named `unit * keyClusters + cluster`; the units of a flat hierarchy are the segments, those of a
 * dyadic one are numbered level by level.
 */
export interface MultipoleChoices {
  /** [units' levels][B,G,S]: cluster of each key inside its unit, -1 for a masked key. */
  readonly keyClusters: readonly Int32Array[];
  /** [blocks][B,H,queryClusters,D]; one block when acausal, block e of the doubling prefix when causal. */
  readonly queryCentroids: readonly Float32Array[];
  /** [B,H,P+N]: query cluster of each row, in the block of the row; -1 for rows that have none. */
  readonly queryClusters: Int32Array;
  /** [B,H,N,width]: clusters that each row's pool retrieves, best first, then -1. */
  readonly retrieved: Int32Array;
}

export interface MultipoleResult {
  /** [B,H,N,E] */
  readonly output: Tensor;
  /** [B,H,N] */
  readonly lse: Tensor;
  readonly choices: MultipoleChoices;
}

/** Query cluster i against one unit: what stage 1 leaves for stage 2, by cluster j of the unit. */
interface Summary {
  readonly centroid: Float64Array;
  /** w_ij, -Infinity for an empty cluster. */
  readonly logWeight: Float64Array;
  /** k_ij, [C,D] */
  readonly key: Float64Array;
  /** v_ij, [C,E] */
  readonly value: Float64Array;
  /** u_ij, zeros unless clusters are chosen by expected error. */
  readonly spread: Float64Array;
  /** Tilted probability of each key of the unit inside its own cluster. */
  readonly tilt: Float64Array;
}

/** Output and log-sum-exp of one row. */
interface RowResult {
  readonly mean: Float64Array;
  readonly logSumExp: number;
}

/** Softmax-weighted sum of vectors, rescaled whenever a larger logit arrives. */
class SoftmaxSum implements RowResult {
  #max = Number.NEGATIVE_INFINITY;
  #total = 0;
  readonly #sum: Float64Array;

  constructor(readonly size: number) {
    this.#sum = new Float64Array(size);
  }

  add(logit: number, vector: Float64Array, offset: number): void {
    if (logit === Number.NEGATIVE_INFINITY) return;
    if (logit > this.#max) {
      const shrink = Math.exp(this.#max - logit);
      this.#total *= shrink;
      for (let e = 0; e < this.size; e++) this.#sum[e]! *= shrink;
      this.#max = logit;
    }
    const weight = Math.exp(logit - this.#max);
    this.#total += weight;
    for (let e = 0; e < this.size; e++) this.#sum[e]! += weight * vector[offset + e]!;
  }

  get logSumExp(): number {
    return this.#total === 0 ? Number.NEGATIVE_INFINITY : this.#max + Math.log(this.#total);
  }

  /** The weighted mean; zeros when nothing was added. */
  get mean(): Float64Array {
    return this.#sum.map(sum => (this.#total === 0 ? 0 : sum / this.#total));
  }
}

function dot(a: Float64Array, aOffset: number, b: Float64Array, bOffset: number, size: number): number {
  let sum = 0;
  for (let d = 0; d < size; d++) sum += a[aOffset + d]! * b[bOffset + d]!;
  return sum;
}

/** Index of the centroid nearest to points[row], the lowest one among equals. */
function nearest(
  points: Float64Array,
  row: number,
  centroids: Float64Array,
  count: number,
  size: number,
): number {
  let best = 0;
  let least = Number.POSITIVE_INFINITY;
  for (let c = 0; c < count; c++) {
    let distance = 0;
    for (let d = 0; d < size; d++) {
      const delta = points[row * size + d]! - centroids[c * size + d]!;
      distance += delta * delta;
    }
    if (distance < least) {
      least = distance;
      best = c;
    }
  }
  return best;
}

/** Means of the members of each cluster; a cluster without members keeps the centroid it had. */
function clusterMeans(
  points: Float64Array,
  rows: readonly number[],
  assignment: ArrayLike<number>,
  previous: Float64Array,
  count: number,
  size: number,
): Float64Array {
  const sums = new Float64Array(count * size);
  const members = new Int32Array(count);
  rows.forEach((row, n) => {
    const c = assignment[n]!;
    members[c]!++;
    for (let d = 0; d < size; d++) sums[c * size + d]! += points[row * size + d]!;
  });
  return sums.map((sum, at) => {
    const n = members[Math.floor(at / size)]!;
    return n > 0 ? sum / n : previous[at]!;
  });
}

/** Lloyd's iterations from evenly spaced seeds over `rows` of `points`: README, step 3. */
function kMeans(
  points: Float64Array,
  rows: readonly number[],
  count: number,
  iterations: number,
  size: number,
): { assignment: Int32Array; centroids: Float64Array } {
  const assignment = new Int32Array(rows.length);
  let centroids: Float64Array = new Float64Array(count * size);
  if (rows.length === 0) return { assignment, centroids };
  for (let m = 0; m < count; m++) {
    const row = rows[Math.floor((m * rows.length) / count)]!;
    centroids.set(points.subarray(row * size, (row + 1) * size), m * size);
  }
  for (let iteration = 0; iteration < iterations; iteration++) {
    for (let n = 0; n < rows.length; n++) assignment[n] = nearest(points, rows[n]!, centroids, count, size);
    centroids = clusterMeans(points, rows, assignment, centroids, count, size);
  }
  return { assignment, centroids };
}

/** Share of each dimension in the squared queries of `rows`, equal shares without any: g of README, step 5. */
function dimensionShares(query: Float64Array, rows: readonly number[], size: number): Float64Array {
  const squares = new Float64Array(size);
  for (const row of rows) {
    for (let d = 0; d < size; d++) squares[d]! += query[row * size + d]! ** 2;
  }
  const total = squares.reduce((sum, square) => sum + square, 0);
  return squares.map(square => (total > 0 ? square / total : 1 / size));
}

/** Everything of one batch row and query head. */
class Head {
  readonly #query: Float64Array;
  /** Shares of dimensions by block. */
  readonly #shares: readonly Float64Array[];
  readonly #summaries = new Map<string, Summary>();

  constructor(
    readonly geometry: Geometry,
    query: Float64Array,
    readonly key: Float64Array,
    readonly value: Float64Array,
    /** Cluster of each key inside its unit, by level. */
    readonly keyClusters: readonly Int32Array[],
    readonly visible: (key: number) => boolean,
    /** Centroids of each block of rows. */
    readonly centroids: readonly Float64Array[],
    readonly rowClusters: Int32Array,
  ) {
    this.#query = query;
    this.#shares = centroids.map((_, block) =>
      dimensionShares(query, geometry.centroidRows(block), geometry.headDim),
    );
  }

  #logit(row: number, key: number): number {
    const { headDim, scale } = this.geometry;
    return scale * dot(this.#query, row * headDim, this.key, key * headDim, headDim);
  }

  /** Stage 1, README step 5. */
  #summary(block: number, cluster: number, unit: Unit): Summary {
    const name = `${block} ${cluster} ${unit.index}`;
    const known = this.#summaries.get(name);
    if (known) return known;
    const { headDim, valueDim, scale, parameters } = this.geometry;
    const count = parameters.keyClusters;
    const clusters = this.keyClusters[unit.level]!;
    const centroid = this.centroids[block]!.subarray(cluster * headDim, (cluster + 1) * headDim);
    const logits = new Float64Array(unit.end - unit.start);
    const max = new Float64Array(count).fill(Number.NEGATIVE_INFINITY);
    const total = new Float64Array(count);
    for (let n = unit.start; n < unit.end; n++) {
      const j = clusters[n]!;
      if (j < 0) continue;
      const logit = scale * dot(centroid, 0, this.key, n * headDim, headDim);
      logits[n - unit.start] = logit;
      if (logit > max[j]!) max[j] = logit;
    }
    const tilt = new Float64Array(logits.length);
    for (let n = unit.start; n < unit.end; n++) {
      const j = clusters[n]!;
      if (j < 0) continue;
      tilt[n - unit.start] = Math.exp(logits[n - unit.start]! - max[j]!);
      total[j]! += tilt[n - unit.start]!;
    }
    const key = new Float64Array(count * headDim);
    const value = new Float64Array(count * valueDim);
    for (let n = unit.start; n < unit.end; n++) {
      const j = clusters[n]!;
      if (j < 0) continue;
      const p = tilt[n - unit.start]! / total[j]!;
      tilt[n - unit.start] = p;
      for (let d = 0; d < headDim; d++) key[j * headDim + d]! += p * this.key[n * headDim + d]!;
      for (let e = 0; e < valueDim; e++) value[j * valueDim + e]! += p * this.value[n * valueDim + e]!;
    }
    const logWeight = max.map((m, j) =>
      total[j] === 0 ? Number.NEGATIVE_INFINITY : m + Math.log(total[j]!),
    );
    const spread = new Float64Array(count);
    if (parameters.retrieveError > 0) {
      const shares = this.#shares[block]!;
      for (let n = unit.start; n < unit.end; n++) {
        const j = clusters[n]!;
        if (j < 0) continue;
        for (let d = 0; d < headDim; d++) {
          const delta = this.key[n * headDim + d]! - key[j * headDim + d]!;
          spread[j]! += tilt[n - unit.start]! * shares[d]! * delta * delta;
        }
      }
    }
    const summary = { centroid, logWeight, key, value, spread, tilt };
    this.#summaries.set(name, summary);
    return summary;
  }

  /** scale * (q - c_i) of a row. */
  #residual(row: number, centroid: Float64Array): Float64Array {
    const { headDim, scale } = this.geometry;
    return centroid.map((c, d) => scale * (this.#query[row * headDim + d]! - c));
  }

  /**
   * Calls `visit` with every cluster of the row's far field and the estimate of its logit (README, step 6);
   * order 2 adds half the variance of residual . k under the tilted distribution.
   */
  #estimates(
    row: number,
    visit: (cluster: number, logit: number, summary: Summary, unit: Unit, residual: Float64Array) => void,
  ): void {
    const { headDim, parameters } = this.geometry;
    const cluster = this.rowClusters[row]!;
    if (cluster < 0) return;
    for (const unit of this.geometry.farUnits(row)) {
      const summary = this.#summary(this.geometry.blockOf(row), cluster, unit);
      const residual = this.#residual(row, summary.centroid);
      for (let j = 0; j < parameters.keyClusters; j++) {
        if (summary.logWeight[j] === Number.NEGATIVE_INFINITY) continue;
        let logit = summary.logWeight[j]! + dot(residual, 0, summary.key, j * headDim, headDim);
        if (parameters.order === 2) {
          let variance = 0;
          this.#members(unit, j, n => {
            variance += summary.tilt[n - unit.start]! * this.#spread(n, summary, j, residual) ** 2;
          });
          logit += variance / 2;
        }
        visit(unit.index * parameters.keyClusters + j, logit, summary, unit, residual);
      }
    }
  }

  #members(unit: Unit, cluster: number, visit: (key: number) => void): void {
    const clusters = this.keyClusters[unit.level]!;
    for (let n = unit.start; n < unit.end; n++) if (clusters[n] === cluster) visit(n);
  }

  /** residual . (k_n - k_ij) */
  #spread(key: number, summary: Summary, cluster: number, residual: Float64Array): number {
    const { headDim } = this.geometry;
    return (
      dot(residual, 0, this.key, key * headDim, headDim) -
      dot(residual, 0, summary.key, cluster * headDim, headDim)
    );
  }

  /** Cov_ij(v,k) residual, README step 9. */
  #dipole(unit: Unit, cluster: number, summary: Summary, residual: Float64Array): Float64Array {
    const { valueDim } = this.geometry;
    const result = new Float64Array(valueDim);
    this.#members(unit, cluster, n => {
      const weight = summary.tilt[n - unit.start]! * this.#spread(n, summary, cluster, residual);
      for (let e = 0; e < valueDim; e++) {
        result[e]! += weight * (this.value[n * valueDim + e]! - summary.value[cluster * valueDim + e]!);
      }
    });
    return result;
  }

  #addNear(row: number, sum: SoftmaxSum): void {
    const { start, end } = this.geometry.nearKeys(row);
    this.#addKeys(row, range(start, end), sum);
  }

  #addKeys(row: number, keys: Iterable<number>, sum: SoftmaxSum): void {
    for (const n of keys) {
      if (this.visible(n)) sum.add(this.#logit(row, n), this.value, n * this.geometry.valueDim);
    }
  }

  /** Exact attention of one row. */
  exact(row: number): RowResult {
    const { causal } = this.geometry.parameters;
    const end = causal ? Math.min(this.geometry.keys, this.geometry.position(row) + 1) : this.geometry.keys;
    const sum = new SoftmaxSum(this.geometry.valueDim);
    this.#addKeys(row, range(0, end), sum);
    return sum;
  }

  /** a_j(q) of README step 8, or e_j(q) with retrieve_error, written to scores[0 .. clusters). */
  scores(row: number, scores: Float64Array): void {
    const { headDim, parameters } = this.geometry;
    const all = new SoftmaxSum(0);
    const far: { cluster: number; logit: number; factor: number }[] = [];
    this.#addNear(row, all);
    this.#estimates(row, (cluster, logit, summary, _, residual) => {
      const spread = summary.spread[cluster % parameters.keyClusters]!;
      const error = (dot(residual, 0, residual, 0, headDim) / 2) * spread;
      far.push({ cluster, logit, factor: parameters.retrieveError > 0 ? error : 1 });
      all.add(logit, this.value, 0);
    });
    for (const { cluster, logit, factor } of far) scores[cluster] = factor * Math.exp(logit - all.logSumExp);
  }

  /** README step 9: near keys, members of retrieved clusters, and estimates, in one softmax. */
  output(row: number, retrieved: ReadonlySet<number>): RowResult {
    const { valueDim, parameters } = this.geometry;
    const sum = new SoftmaxSum(valueDim);
    this.#addNear(row, sum);
    this.#estimates(row, (cluster, logit, summary, unit, residual) => {
      const j = cluster % parameters.keyClusters;
      if (retrieved.has(cluster)) {
        const members: number[] = [];
        this.#members(unit, j, n => members.push(n));
        this.#addKeys(row, members, sum);
      } else if (parameters.order > 0 && !parameters.contracted) {
        const dipole = this.#dipole(unit, j, summary, residual);
        for (let e = 0; e < valueDim; e++) dipole[e]! += summary.value[j * valueDim + e]!;
        sum.add(logit, dipole, 0);
      } else {
        sum.add(logit, summary.value, j * valueDim);
      }
    });
    const { mean, logSumExp } = sum;
    if (parameters.contracted) {
      const dipole = this.#contractedDipole(row);
      for (let e = 0; e < valueDim; e++) mean[e]! += dipole[e]!;
    }
    return { mean, logSumExp };
  }

  /** sum_j a_j(c_i) Cov_ij(v,k) residual: the dipole with the weights taken at the query centroid. */
  #contractedDipole(row: number): Float64Array {
    const { valueDim } = this.geometry;
    const total = new SoftmaxSum(valueDim);
    this.#estimates(row, (cluster, _, summary, unit, residual) => {
      const j = cluster % this.geometry.parameters.keyClusters;
      total.add(summary.logWeight[j]!, this.#dipole(unit, j, summary, residual), 0);
    });
    return total.mean;
  }
}

/** Clusters that a pool takes exactly (README, steps 8 and 10), given the mean of their scores. */
function chooseClusters(mean: Float64Array, retrieve: number, geometry: Geometry): number[] {
  const { keyClusters, retrieveMass, retrieveError } = geometry.parameters;
  const inOrder = (value: (cluster: number) => number) =>
    Array.from(mean.keys())
      .filter(j => value(j) > 0 && value(j) >= retrieveError)
      .sort((a, b) => value(b) - value(a) || a - b);
  if (retrieveMass <= 0) {
    const segments = (j: number) => 2 ** geometry.units[Math.floor(j / keyClusters)]!.level;
    const order = inOrder(j => (segments(j) > retrieve ? 0 : mean[j]! / segments(j)));
    let left = retrieve;
    const beyond = order.findIndex(j => {
      left -= segments(j);
      return left < 0;
    });
    return beyond < 0 ? order : order.slice(0, beyond);
  }
  const order = inOrder(j => mean[j]!);
  let left = mean.reduce((sum, m) => sum + m, 0);
  const chosen: number[] = [];
  for (const j of order) {
    if (left < retrieveMass) break;
    chosen.push(j);
    left -= mean[j]!;
  }
  return chosen;
}

/** Which rows share a choice: the mean is taken over `members`, the choice used by `users`. */
interface Pool {
  readonly members: readonly number[];
  readonly users: readonly number[];
}

function pools(geometry: Geometry, rowClusters: Int32Array): Pool[] {
  const { selection, group, causal, segment } = geometry.parameters;
  const first = geometry.firstRow;
  if (selection === 'sliding') {
    return range(first, geometry.rows).map(row => ({
      members: range(Math.max(first, row - group + 1), row + 1),
      users: [row],
    }));
  }
  const pooled = new Map<string, number[]>();
  const ranks = new Map<string, number>();
  for (let row = first; row < geometry.rows; row++) {
    let name: string;
    if (selection === 'tile') {
      const own = geometry.local ? geometry.segmentOf(row) : 0;
      name = `${own} ${Math.floor((geometry.position(row) - own * segment) / group)}`;
    } else {
      const cluster = causal ? `${geometry.segmentOf(row)} ${rowClusters[row]}` : `${rowClusters[row]}`;
      const rank = ranks.get(cluster) ?? 0;
      ranks.set(cluster, rank + 1);
      name = `${cluster} ${Math.floor(rank / group)}`;
    }
    const pool = pooled.get(name);
    if (pool) pool.push(row);
    else pooled.set(name, [row]);
  }
  return Array.from(pooled.values(), rows => ({ members: rows, users: rows }));
}

/** Retrieved clusters of every row of one head. */
function retrieve(head: Head, geometry: Geometry, count: number): number[][] {
  const { retrieveMass } = geometry.parameters;
  const chosen: number[][] = Array.from({ length: geometry.rows }, () => []);
  if (count === 0 && retrieveMass <= 0) return chosen;
  const { clusters } = geometry;
  const scores = new Float64Array(geometry.rows * clusters);
  for (let row = geometry.firstRow; row < geometry.rows; row++) {
    head.scores(row, scores.subarray(row * clusters, (row + 1) * clusters));
  }
  for (const pool of pools(geometry, head.rowClusters)) {
    const mean = new Float64Array(clusters);
    for (const row of pool.members) {
      for (let j = 0; j < clusters; j++) mean[j]! += scores[row * clusters + j]! / pool.members.length;
    }
    const choice = chooseClusters(mean, count, geometry);
    for (const row of pool.users) chosen[row] = choice;
  }
  return chosen;
}

/** Cluster of each key inside its unit, for every level of the hierarchy: README, step 3. */
function clusterKeys(key: Float64Array, geometry: Geometry, visible: (key: number) => boolean): Int32Array[] {
  const { keyClusters, keyGrouping, iterations, segment } = geometry.parameters;
  const levels: Int32Array[] = [];
  for (const unit of geometry.units) {
    levels[unit.level] ??= new Int32Array(geometry.keys).fill(-1);
    const level = levels[unit.level]!;
    const members = range(unit.start, unit.end).filter(visible);
    if (keyGrouping === 'contiguous') {
      const run = Math.ceil(((segment === 0 ? geometry.keys : segment) * 2 ** unit.level) / keyClusters);
      for (const n of members) level[n] = Math.floor((n - unit.start) / run);
    } else {
      const { assignment } = kMeans(key, members, keyClusters, iterations, geometry.headDim);
      members.forEach((n, at) => {
        level[n] = assignment[at]!;
      });
    }
  }
  return levels;
}

/** Centroids by block and the cluster of each row: README, step 4. */
function clusterQueries(
  query: Float64Array,
  geometry: Geometry,
  given: { readonly centroids?: readonly Float64Array[]; readonly rowClusters?: Int32Array },
): { centroids: Float64Array[]; rowClusters: Int32Array } {
  const { causal, queryClusters, iterations } = geometry.parameters;
  const size = geometry.headDim;
  const rowClusters = new Int32Array(geometry.rows).fill(-1);
  const centroids: Float64Array[] = [];
  const last = geometry.rows > geometry.firstRow ? geometry.blockOf(geometry.rows - 1) : -1;
  for (let block = 0; block <= last; block++) {
    const rows = geometry.centroidRows(block);
    const found = given.centroids?.[block] ? null : kMeans(query, rows, queryClusters, iterations, size);
    centroids[block] = found?.centroids ?? given.centroids![block]!;
    if (!causal && found)
      rows.forEach((row, n) => {
        rowClusters[row] = found.assignment[n]!;
      });
  }
  for (let row = geometry.firstRow; row < geometry.rows; row++) {
    const block = geometry.blockOf(row);
    if (block < 0) continue;
    if (given.rowClusters) rowClusters[row] = given.rowClusters[row]!;
    else if (causal || rowClusters[row]! < 0) {
      rowClusters[row] = nearest(query, row, centroids[block]!, queryClusters, size);
    }
  }
  return { centroids, rowClusters };
}

/**
 * Computes the operator. `given` replaces the discrete choices it holds (centroids count as one of them),
 * for comparison with a kernel under equal choices.
 */
export function multipoleAttention(
  inputs: MultipoleInputs,
  parameters: MultipoleParameters,
  given: Partial<MultipoleChoices> = {},
): MultipoleResult {
  const geometry = new Geometry(shapeOf(inputs), parameters);
  const { batch, heads, kvHeads, queries, past, rows, keys, headDim, valueDim } = geometry;
  const { queryClusters } = parameters;
  const output = new Float32Array(batch * heads * queries * valueDim);
  const lse = new Float32Array(batch * heads * queries);
  const levels = geometry.units.length === 0 ? 0 : geometry.units[geometry.units.length - 1]!.level + 1;
  const keyClusters = Array.from({ length: levels }, () => new Int32Array(batch * kvHeads * keys).fill(-1));
  const queryCentroids: Float32Array[] = [];
  const rowClusters = new Int32Array(batch * heads * rows).fill(-1);
  const retrieved: number[][] = [];

  for (let b = 0; b < batch; b++) {
    const visible = (n: number) => inputs.keyMask?.[b * keys + n] !== 0;
    for (let g = 0; g < kvHeads; g++) {
      const kvAt = b * kvHeads + g;
      const key = slice64(inputs.key, kvAt, keys * headDim);
      const value = slice64(inputs.value, kvAt, keys * valueDim);
      const approximate = keys >= parameters.exactBelow && queries >= parameters.exactBelowRows;
      const clusters = !approximate
        ? []
        : (given.keyClusters?.map(level => level.subarray(kvAt * keys, (kvAt + 1) * keys)) ??
          clusterKeys(key, geometry, visible));
      clusters.forEach((level, l) => {
        keyClusters[l]!.set(level, kvAt * keys);
      });

      for (let h = (g * heads) / kvHeads; h < ((g + 1) * heads) / kvHeads; h++) {
        const at = b * heads + h;
        const count = parameters.retrieve[parameters.retrieve.length === 1 ? 0 : h]!;
        const exact = !approximate || count < 0;
        const query = new Float64Array(rows * headDim);
        if (inputs.pastQuery) query.set(slice64(inputs.pastQuery, at, past * headDim));
        query.set(slice64(inputs.query, at, queries * headDim), past * headDim);
        const found = exact
          ? { centroids: [], rowClusters: new Int32Array(rows).fill(-1) }
          : clusterQueries(query, geometry, {
              ...(given.queryCentroids && {
                centroids: given.queryCentroids.map(block =>
                  Float64Array.from(
                    block.subarray(at * queryClusters * headDim, (at + 1) * queryClusters * headDim),
                  ),
                ),
              }),
              ...(given.queryClusters && {
                rowClusters: given.queryClusters.subarray(at * rows, (at + 1) * rows),
              }),
            });
        found.centroids.forEach((block, e) => {
          queryCentroids[e] ??= new Float32Array(batch * heads * queryClusters * headDim);
          queryCentroids[e].set(block, at * queryClusters * headDim);
        });
        rowClusters.set(found.rowClusters, at * rows);
        const head = new Head(
          geometry,
          query,
          key,
          value,
          clusters,
          visible,
          found.centroids,
          found.rowClusters,
        );
        const chosen = exact
          ? []
          : given.retrieved
            ? givenRetrieved(given.retrieved, at, geometry)
            : retrieve(head, geometry, count);
        for (let i = 0; i < queries; i++) {
          const row = past + i;
          retrieved[at * queries + i] = chosen[row] ?? [];
          const result = exact ? head.exact(row) : head.output(row, new Set(chosen[row]));
          output.set(result.mean, (at * queries + i) * valueDim);
          lse[at * queries + i] = result.logSumExp;
        }
      }
    }
  }
  return {
    output: { dims: [batch, heads, queries, valueDim], data: output },
    lse: { dims: [batch, heads, queries], data: lse },
    choices: { keyClusters, queryCentroids, queryClusters: rowClusters, retrieved: padded(retrieved) },
  };
}

function shapeOf({ query, key, value, pastQuery }: MultipoleInputs): Shape {
  const [batch = 0, heads = 0, queries = 0, headDim = 0] = query.dims;
  const [, kvHeads = 0, keys = 0] = key.dims;
  const valueDim = value.dims[3] ?? 0;
  return { batch, heads, kvHeads, queries, past: pastQuery?.dims[2] ?? 0, keys, headDim, valueDim };
}

/** Part `index` of a tensor cut into parts of `size` elements, in float64. */
function slice64(tensor: Tensor, index: number, size: number): Float64Array {
  return Float64Array.from(tensor.data.subarray(index * size, (index + 1) * size));
}

/** Rows of `retrieved` of one head, past rows included (which retrieve nothing). */
function givenRetrieved(retrieved: Int32Array, head: number, geometry: Geometry): number[][] {
  const width = retrieved.length / (geometry.batch * geometry.heads * geometry.queries);
  return range(-geometry.past, geometry.queries).map(i => {
    const start = (head * geometry.queries + i) * width;
    return i < 0 ? [] : Array.from(retrieved.subarray(start, start + width)).filter(j => j >= 0);
  });
}

function padded(lists: readonly (readonly number[])[]): Int32Array {
  const width = Math.max(0, ...lists.map(list => list.length));
  const flat = new Int32Array(lists.length * width).fill(-1);
  lists.forEach((list, n) => {
    flat.set(list, n * width);
  });
  return flat;
}
