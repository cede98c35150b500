import { DataType } from '../../../rewriter/onnx/spec.js';
import type { Dim, GraphBuilder, Value } from '../../graph-builder.js';
import { HIDDEN, logSumExp, type SoftmaxPart, VISIBLE_ABOVE } from '../../softmax-part.js';
import type { MultipoleParameters } from '../parameters.js';
import type { KeyCells } from './key-cells.js';
import { withOnes } from './near-field.js';
import { type ClusterLists, clusterAttention, unionLists } from './retrieval.js';
import { gatherRows, rowBlocks } from './row-blocks.js';
import { type Sizes, tileRows, times } from './sizes.js';
import type { Summaries } from './summaries.js';
import { segmentsOf, unitCount } from './units.js';

/** Rows of one query cluster that share one product with its summaries, and blocks of one batched product. */
const BLOCK_ROWS = 32;
const BATCH_BLOCKS = 32;

/** A run of row segments whose far field is computed at once. */
export interface Chunk {
  /** Row segments of the chunk, and how many of them hold rows; rows = segments * rowSegment. */
  readonly segments: Value;
  readonly present: Value;
  /**
   * Units of the keys that rows of the chunk may see by summary, in the order of their columns: the clusters of
   * a unit are `keyClusters` columns, all together J. `summarized`: their places in the tables of summaries.
   */
  readonly columns: Value;
  readonly summarized: Value;
  /** [B*H,rows,D] */
  readonly query: Value;
  /** Query cluster of each row, [B*H,rows]; `queryClusters` for a place of the grid without a row. */
  readonly rowCluster: Value;
  readonly mask: FarMask | null;
  /** [B*H,rows,1]: s^2 |q - c_i|^2 / 2; null where clusters are not chosen by expected error. */
  readonly halfSquare: Value | null;
  /** Exact part of each row, [B*H,rows,...]; null where no row has one. */
  readonly near: SoftmaxPart | null;
}

/** Which clusters are outside F(q): rows of one class (of one segment) share a row of the table. */
export interface FarMask {
  /** [classes,J]: 0 or HIDDEN. */
  readonly table: Value;
  /** [B*H,rows] */
  readonly rowClass: Value;
}

/** What sliding pools of a chunk know of the rows before it. */
export interface Tail {
  /** [B*H,group-1,J'] with a last column more where means are bounded: see `pooledWeights`. */
  readonly weights: Value;
  /** Units of the J' columns. */
  readonly columns: Value;
}

export interface ChunkResult extends SoftmaxPart {
  readonly tail: Tail | null;
  /** [B*H,rows,J]: 1 where the row's pool retrieves the cluster; null without retrieval. */
  readonly selected: Value | null;
}

export function retrieves({ retrieve, retrieveMass }: MultipoleParameters): boolean {
  return retrieveMass > 0 || retrieve.some(count => count > 0);
}

/** Whether the mean of a pool is compared with a number, so that its sum does not do. */
export function boundsMeans({ retrieveMass, retrieveError }: MultipoleParameters): boolean {
  return retrieveMass > 0 || retrieveError > 0;
}

/** Whether clusters are chosen by expected error. */
export function choosesByError(parameters: MultipoleParameters): boolean {
  return parameters.retrieveError > 0 && retrieves(parameters);
}

/**
 * Steps 6 to 9 of the README for one chunk: output [B*H,rows,E] and lse [B*H,rows,1], zeros and HIDDEN for
 * rows that see nothing.
 */
export function farField(
  b: GraphBuilder,
  chunk: Chunk,
  tail: Tail | null,
  summaries: Summaries,
  cells: KeyCells,
  sizes: Sizes,
  parameters: MultipoleParameters,
): ChunkResult {
  const queries = withOnes(b, b.mul(chunk.query, sizes.scale), [sizes.parts, b.dim(chunk.query, 1)]);
  const far = estimates(b, chunk, queries, summaries, sizes, parameters);
  const exact = chunk.near ? [chunk.near] : [];
  if (!retrieves(parameters)) {
    return { ...merge(b, exact, keptEstimates(b, far, null, summaries, sizes)), tail: null, selected: null };
  }
  const choice = choose(b, chunk, far, tail, sizes, parameters);
  exact.push(retrieved(b, chunk, queries, choice, cells, sizes, parameters));
  return {
    ...merge(b, exact, keptEstimates(b, far, choice, summaries, sizes)),
    tail: choice.tail,
    selected: choice.poolOfRow ? b.gather(choice.selected, choice.poolOfRow, 1) : choice.selected,
  };
}

/** Estimates of all far clusters for the rows of a chunk, in batches of blocks of rows of one query cluster. */
interface Estimates {
  readonly batches: Value;
  /** [batches,BATCH_BLOCKS,BLOCK_ROWS]: row in each slot, counted over all parts; any where there is none. */
  readonly rowOfSlot: Value;
  /** [B*H,rows]: slot of each row. */
  readonly slotOfRow: Value;
  /** [batches,BATCH_BLOCKS,segments]: rows of the summaries that each block uses. */
  readonly summaryRows: Value;
  /** [batches,BATCH_BLOCKS,BLOCK_ROWS,J]: probabilities under a softmax of the estimates alone. */
  readonly probabilities: Value;
  /** [batches,BATCH_BLOCKS,BLOCK_ROWS,J]: these times u_ij; null where clusters are chosen by mass. */
  readonly errors: Value | null;
  /** [B*H,rows,1]: log of its denominator. */
  readonly lse: Value;
}

function estimates(
  b: GraphBuilder,
  chunk: Chunk,
  queries: Value,
  summaries: Summaries,
  sizes: Sizes,
  { keyClusters, queryClusters }: MultipoleParameters,
): Estimates {
  const { parts, headDim } = sizes;
  const rows = b.dim(chunk.query, 1);
  const segments = b.dim(chunk.columns, 0);
  const blocks = rowBlocks(b, chunk.rowCluster, BLOCK_ROWS, BATCH_BLOCKS, false, sizes, queryClusters);
  const batches = b.div(blocks.count, BATCH_BLOCKS);
  const rowOfSlot = b.reshape(b.max(blocks.content, 0), [batches, BATCH_BLOCKS, BLOCK_ROWS]);
  // The first slot of a block is never empty, unless the block is.
  const leader = b.slice(rowOfSlot, 2, 0, 1);
  const cluster = b.min(b.gather(b.reshape(chunk.rowCluster, [-1]), leader), queryClusters - 1);
  const ofBlock = b.add(b.mul(b.div(leader, rows), queryClusters), cluster);
  const summaryRows = b.add(ofBlock, b.mul(chunk.summarized, b.mul(parts, queryClusters)));

  const width = b.add(headDim, 1);
  const flatQueries = b.reshape(queries, [-1, width]);
  const clusters = b.mul(segments, keyClusters);
  const keyShape = b.dims([BATCH_BLOCKS, clusters, width]);
  const classOfSlot = chunk.mask && b.gather(b.reshape(chunk.mask.rowClass, [-1]), rowOfSlot);
  const { stacked } = b.loop(batches, [], (inner, _, __, batch) => {
    const query = inner.gather(flatQueries, inner.gather(rowOfSlot, batch));
    const ofBatch = inner.gather(summaryRows, batch);
    const keys = inner.reshape(inner.gather(summaries.keys, ofBatch), keyShape);
    const products = inner.matMul(query, inner.transpose(keys, [0, 2, 1]));
    const logits = classOfSlot
      ? inner.add(products, inner.gather(chunk.mask!.table, inner.gather(classOfSlot, batch)))
      : products;
    const probabilities = inner.softmax(logits);
    const errors =
      summaries.spreads &&
      inner.mul(
        probabilities,
        inner.reshape(inner.gather(summaries.spreads, ofBatch), [BATCH_BLOCKS, 1, clusters]),
      );
    const stacked = [probabilities, logSumExp(inner, logits, probabilities), ...(errors ? [errors] : [])];
    return { state: [], stacked };
  });
  const { slotOfRow } = blocks;
  const [probabilities, lseOfSlot, errors = null] = stacked as [Value, Value, Value?];
  const lse = gatherRows(b, lseOfSlot, slotOfRow);
  return { batches, rowOfSlot, slotOfRow, summaryRows, probabilities, errors, lse };
}

/** Place among `units` of the unit that each column belongs to: [J]. */
function columnUnits(b: GraphBuilder, units: Value, keyClusters: number): Value {
  return b.div(b.range(b.mul(b.dim(units, 0), keyClusters)), keyClusters);
}

/** Number of the cluster (over all units of a part) in each column: [J]. */
export function columnClusters(b: GraphBuilder, columns: Value, { keyClusters }: MultipoleParameters): Value {
  const first = b.unsqueeze(b.mul(columns, keyClusters), 1);
  return b.reshape(b.add(first, b.range(keyClusters)), [-1]);
}

/** What retrieval leaves of the estimates. */
interface KeptEstimates {
  /** Sums of weighted values, [B*H,rows,E], and of weights, [B*H,rows,1]. */
  readonly output: Value;
  readonly mass: Value;
  readonly lse: Value;
}

function keptEstimates(
  b: GraphBuilder,
  far: Estimates,
  choice: Choice | null,
  summaries: Summaries,
  { valueDim }: Sizes,
): KeptEstimates {
  const clusters = b.dim(far.probabilities, 3);
  const keep = choice && b.reshape(b.sub(1, choice.selected), [-1, clusters]);
  const poolOfSlot = choice?.poolOfRow
    ? b.gather(poolOfAllRows(b, choice.selected, choice.poolOfRow), far.rowOfSlot)
    : far.rowOfSlot;
  const valueShape = b.dims([BATCH_BLOCKS, clusters, valueDim]);
  const { stacked } = b.loop(far.batches, [], (inner, _, __, batch) => {
    const all = inner.gather(far.probabilities, batch);
    const kept = keep ? inner.mul(all, inner.gather(keep, inner.gather(poolOfSlot, batch))) : all;
    const values = inner.gather(summaries.values, inner.gather(far.summaryRows, batch));
    const sums = inner.matMul(kept, inner.reshape(values, valueShape));
    return { state: [], stacked: [sums, inner.reduceSum(kept, -1)] };
  });
  const ofRows = (x: Value) => gatherRows(b, x, far.slotOfRow);
  return { output: ofRows(stacked[0]!), mass: ofRows(stacked[1]!), lse: far.lse };
}

/** Pools counted over all parts, for the rows of all parts: [B*H*rows]. */
function poolOfAllRows(b: GraphBuilder, selected: Value, poolOfRow: Value): Value {
  const part = b.reshape(b.range(b.dim(selected, 0)), [-1, 1]);
  return b.reshape(b.add(b.mul(part, b.dim(selected, 1)), poolOfRow), [-1]);
}

/** One softmax over exact parts that each have their own, and over the estimates that retrieval left. */
function merge(b: GraphBuilder, exact: readonly SoftmaxPart[], estimates: KeptEstimates): SoftmaxPart {
  const top = exact.reduce((max, { lse }) => b.max(max, lse), estimates.lse);
  const relative = (lse: Value) => b.exp(b.sub(lse, top));
  const weight = relative(estimates.lse);
  let output = b.mul(weight, estimates.output);
  let total = b.mul(weight, estimates.mass);
  for (const part of exact) {
    const share = relative(part.lse);
    output = b.add(output, b.mul(share, part.output));
    total = b.add(total, share);
  }
  const seen = b.greater(top, VISIBLE_ABOVE);
  return {
    output: b.mul(output, b.where(seen, b.div(1, total), 0)),
    lse: b.where(seen, b.add(top, b.log(total)), HIDDEN),
  };
}

/** What pools retrieve. */
interface Choice {
  /** [B*H,pools,J]: 1 where the pool retrieves the cluster. */
  readonly selected: Value;
  /** [rows]: pool of each row; null where each row has its own. */
  readonly poolOfRow: Value | null;
  /** The same as lists, where pools are the tiles that are gathered for. */
  readonly lists: ClusterLists | null;
  readonly tail: Tail | null;
}

/** Step 8. */
function choose(
  b: GraphBuilder,
  chunk: Chunk,
  far: Estimates,
  tail: Tail | null,
  sizes: Sizes,
  parameters: MultipoleParameters,
): Choice {
  const present = b.less(b.unsqueeze(chunk.rowCluster, 2), parameters.queryClusters);
  // Share of the far field in one softmax with the near field.
  const farShare = chunk.near ? b.sigmoid(b.sub(far.lse, chunk.near.lse)) : b.constant(1, DataType.FLOAT);
  const share = b.where(b.and(b.greater(far.lse, VISIBLE_ABOVE), present), farShare, 0);
  const factor = chunk.halfSquare ? b.mul(share, chunk.halfSquare) : share;
  const weights = b.mul(gatherRows(b, far.errors ?? far.probabilities, far.slotOfRow), factor);
  const pools = pooledWeights(b, chunk, weights, b.indicator(present), tail, sizes, parameters);
  const picked = pick(b, pools.means, chunk.columns, sizes, parameters);
  const selected = b.scatterElements(b.mul(pools.means, 0), picked.columns, b.indicator(picked.valid));
  const { poolOfRow } = pools;
  const lists = poolOfRow === null ? null : picked;
  if (choosesBeyondRows(sizes, parameters) && chunk.mask) {
    const ofRows = poolOfRow === null ? selected : b.gather(selected, poolOfRow, 1);
    return { selected: b.mul(ofRows, farRows(b, chunk.mask)), poolOfRow: null, lists, tail: pools.tail };
  }
  return { selected, poolOfRow, lists, tail: pools.tail };
}

/**
 * Whether pools have rows of several segments and may choose what is not in the far field of some of them. What
 * is far for a causal row of a flat hierarchy stays so for later ones.
 */
function choosesBeyondRows(sizes: Sizes, { causal, selection }: MultipoleParameters): boolean {
  if (selection === 'tile') return false;
  return !causal || (selection === 'sliding' && sizes.units !== null);
}

/** 1 where the cluster is in the row's F(q): [B*H,rows,J]. */
function farRows(b: GraphBuilder, { table, rowClass }: FarMask): Value {
  return b.indicator(b.greater(b.gather(table, rowClass), VISIBLE_ABOVE));
}

interface Pools {
  /** [B*H,pools,J]; for a choice by count their sums do as well. */
  readonly means: Value;
  readonly poolOfRow: Value | null;
  readonly tail: Tail | null;
}

/** @param present [B*H,rows,1]: 1 where the grid holds a row */
function pooledWeights(
  b: GraphBuilder,
  chunk: Chunk,
  weights: Value,
  present: Value,
  tail: Tail | null,
  sizes: Sizes,
  parameters: MultipoleParameters,
): Pools {
  const { selection, causal, group, keyClusters } = parameters;
  const bounded = boundsMeans(parameters);
  // Sums order clusters as means do; only a bound needs the number of rows.
  const mean = (sums: Value, rows: () => Value) => (bounded ? b.div(sums, b.max(rows(), 1)) : sums);
  if (selection === 'sliding') {
    const rows = b.dim(weights, 1);
    // The rows of a pool are counted in one more column.
    const counted = bounded ? b.concat([weights, present], 2) : weights;
    const before = tail && carried(b, tail, chunk.columns, bounded, keyClusters);
    const { sums, last } = slidingSums(b, counted, before, rows, group);
    const next = last && { weights: last, columns: chunk.columns };
    if (!bounded) return { means: sums, poolOfRow: null, tail: next };
    const clusters = b.dim(weights, 2);
    const means = mean(b.slice(sums, 2, 0, clusters), () => b.slice(sums, 2, clusters, b.add(clusters, 1)));
    return { means, poolOfRow: null, tail: next };
  }
  if (selection === 'cluster' && causal) {
    const same = samePool(b, chunk, sizes, parameters);
    const bySegment = (x: Value) => b.reshape(x, [-1, sizes.rowSegment, b.dim(x, 2)]);
    const means = mean(b.matMul(same, bySegment(weights)), () => b.matMul(same, bySegment(present)));
    const flat = b.reshape(means, [sizes.parts, -1, b.dim(weights, 2)]);
    return { means: flat, poolOfRow: null, tail: null };
  }
  const sums = (x: Value) => {
    return b.reshape(b.reduceSum(tiles(b, x, group, sizes), 2), [sizes.parts, -1, b.dim(x, 2)]);
  };
  const row = b.range(b.dim(weights, 1));
  const segment = b.div(row, sizes.rowSegment);
  const tile = b.div(b.sub(row, b.mul(segment, sizes.rowSegment)), group);
  return {
    means: mean(sums(weights), () => sums(present)),
    poolOfRow: b.add(b.mul(segment, tilesPerSegment(b, sizes, group)), tile),
    tail: null,
  };
}

/** Weights of a tail by the columns of the chunk that it comes before; units that the chunk lacks fall away. */
function carried(b: GraphBuilder, tail: Tail, columns: Value, counted: boolean, keyClusters: number): Value {
  const [parts, rows] = [b.dim(tail.weights, 0), b.dim(tail.weights, 1)];
  const [from, to] = [b.dim(tail.columns, 0), b.dim(columns, 0)];
  const clusters = b.mul(from, keyClusters);
  const byUnit = b.reshape(b.slice(tail.weights, 2, 0, clusters), [b.mul(parts, rows), from, keyClusters]);
  const same = b.indicator(b.equal(b.unsqueeze(columns, 1), tail.columns));
  const moved = b.reshape(b.matMul(same, byUnit), [parts, rows, b.mul(to, keyClusters)]);
  return counted ? b.concat([moved, b.slice(tail.weights, 2, clusters, b.add(clusters, 1))], 2) : moved;
}

/** Sums over the `group` rows that end with each row, `before` being the group - 1 rows before the first one. */
function slidingSums(
  b: GraphBuilder,
  weights: Value,
  before: Value | null,
  rows: Value,
  group: number,
): { sums: Value; last: Value | null } {
  if (before === null) return { sums: weights, last: null };
  const all = b.concat([before, weights], 1);
  let sums: Value | null = null;
  let doubled = all;
  let done = 0;
  for (let width = 1; width <= group; width *= 2) {
    // Here doubled[i] is the sum of all[i .. i+width).
    if (group & width) {
      const part = b.slice(doubled, 1, done, b.add(rows, done));
      sums = sums === null ? part : b.add(sums, part);
      done += width;
    }
    if (2 * width <= group) {
      const length = b.dim(doubled, 1);
      doubled = b.add(b.slice(doubled, 1, 0, b.sub(length, width)), b.slice(doubled, 1, width, length));
    }
  }
  return { sums: sums!, last: b.slice(all, 1, rows, b.add(rows, group - 1)) };
}

/** 1 where two rows of a segment are in one run of `group` rows of one query cluster: [B*H*segments,rows,rows]. */
function samePool(
  b: GraphBuilder,
  chunk: Chunk,
  sizes: Sizes,
  { queryClusters, group }: MultipoleParameters,
): Value {
  const cluster = b.reshape(chunk.rowCluster, [-1, sizes.rowSegment, 1]);
  const members = b.indicator(b.equal(cluster, b.range(queryClusters)));
  const rank = b.cast(b.reduceSum(b.mul(members, b.cumSum(members, 1)), -1), DataType.INT64);
  const run = b.div(b.max(b.sub(rank, 1), 0), group);
  const pool = b.add(b.mul(run, queryClusters + 1), cluster);
  return b.indicator(b.equal(pool, b.transpose(pool, [0, 2, 1])));
}

/** The clusters that each pool retrieves. */
function pick(
  b: GraphBuilder,
  means: Value,
  columns: Value,
  sizes: Sizes,
  { retrieve, retrieveMass, retrieveError, keyClusters }: MultipoleParameters,
): ClusterLists {
  const total = b.dim(means, 2);
  if (retrieveMass > 0) {
    const { values, indices } = b.topK(means, total);
    const left = b.sub(b.reduceSum(values, -1), b.sub(b.cumSum(values, 2), values));
    const reached = b.less(left, retrieveMass);
    return { columns: indices, valid: b.and(b.greater(values, 0), b.not(reached)) };
  }
  const most = b.min(total, Math.max(...retrieve));
  const enough = (values: Value) =>
    retrieveError > 0 ? b.not(b.less(values, retrieveError)) : b.greater(values, 0);
  if (retrieve.length === 1 && !sizes.units) {
    const { values, indices } = b.topK(means, most, { sorted: false });
    return { columns: indices, valid: enough(values) };
  }
  const head = b.mod(b.range(sizes.parts), retrieve.length);
  const count = b.reshape(b.gather(b.ints(retrieve), head), [-1, 1, 1]);
  if (sizes.units) {
    const segments = b.gather(segmentsOf(b, columns, sizes.units), columnUnits(b, columns, keyClusters));
    const density = b.where(b.greater(segments, count), 0, b.div(means, b.cast(segments, DataType.FLOAT)));
    const { values, indices } = b.topK(density, most);
    const taken = b.cumSum(b.gather(segments, indices), 2);
    return { columns: indices, valid: b.and(enough(values), b.not(b.greater(taken, count))) };
  }
  const { values, indices } = b.topK(means, most);
  const allowed = b.less(b.range(b.dim(values, 2)), count);
  return { columns: indices, valid: b.and(enough(values), allowed) };
}

function tilesPerSegment(b: GraphBuilder, { rowSegment }: Sizes, tile: number): Dim {
  return typeof rowSegment === 'number' ? Math.ceil(rowSegment / tile) : b.ceilDiv(rowSegment, tile);
}

/** Rows of row segments, each filled up to whole tiles: [B*H*segments, tiles, tile, width]. */
function tiles(b: GraphBuilder, x: Value, tile: number, sizes: Sizes): Value {
  const { rowSegment } = sizes;
  const width = b.dim(x, 2);
  const perSegment = tilesPerSegment(b, sizes, tile);
  if (typeof rowSegment === 'number' && rowSegment % tile === 0) {
    return b.reshape(x, [-1, perSegment, tile, width]);
  }
  const missing = b.sub(b.dims([times(b, perSegment, tile)]), rowSegment);
  const padded = b.pad(b.reshape(x, [-1, rowSegment, width]), 3, 1, 0, missing);
  return b.reshape(padded, [-1, perSegment, tile, width]);
}

/**
 * Exact attention to what was chosen: [B*H,rows,E] and [B*H,rows,1]. Gathered lists are filled up to the longest
 * of those gathered at once. Unions of rows' choices differ much between heads, so that these go one part and row
 * segment at a time. Lists of pools go several at a time: causal ones by row segment, as what comes later must not
 * matter, others by length.
 */
function retrieved(
  b: GraphBuilder,
  chunk: Chunk,
  queries: Value,
  choice: Choice,
  cells: KeyCells,
  sizes: Sizes,
  parameters: MultipoleParameters,
): SoftmaxPart {
  const { parts, share, rowSegment, valueDim } = sizes;
  const tile = tileRows(parameters);
  const perSegment = tilesPerSegment(b, sizes, tile);
  const segmentQueries = tiles(b, queries, tile, sizes);
  const selected = choice.poolOfRow === null ? tiles(b, choice.selected, tile, sizes) : null;
  const clusterOfColumn = columnClusters(b, chunk.columns, parameters);
  const firstCluster = b.mul(b.div(b.range(parts), share), b.mul(unitCount(sizes), parameters.keyClusters));
  const attend = clusterAttention(b, cells);

  const { lists } = choice;
  const absent = b.sub(chunk.segments, chunk.present);
  let byPart: (x: Value, width: Dim, value: number) => Value;
  let stacked: readonly Value[];
  if (lists) {
    const [width, perPart] = [b.dim(lists.columns, 2), times(b, chunk.segments, perSegment)];
    const list = (x: Value) => b.reshape(x, [-1, width]);
    const [columns, valid] = [list(lists.columns), list(lists.valid)];
    const flat = (x: Value) => b.reshape(x, [-1, tile, b.dim(x, 3)]);
    const [rows, rowMask] = [flat(segmentQueries), selected && flat(selected)];
    const all = b.dim(rows, 0);
    const order = parameters.causal
      ? b.transpose(b.reshape(b.range(all), [parts, chunk.segments, perSegment]), [1, 0, 2])
      : b.topK(b.countTrue(valid), all).indices;
    const batches = b.reshape(order, [chunk.segments, times(b, parts, perSegment)]);
    ({ stacked } = b.loop(chunk.present, [], (inner, _, __, batch) => {
      const at = inner.reshape(inner.gather(batches, batch), [-1]);
      const own = { columns: inner.gather(columns, at), valid: inner.gather(valid, at) };
      const first = inner.unsqueeze(inner.gather(firstCluster, inner.div(at, perPart)), 1);
      const cluster = inner.add(inner.gather(clusterOfColumn, own.columns), first);
      const part = attend(inner, inner.gather(rows, at), cluster, own, rowMask && inner.gather(rowMask, at));
      return { state: [], stacked: [part.output, part.lse] };
    }));
    const place = b.scatterElements(b.range(all), b.reshape(order, [-1]), b.range(all));
    byPart = (x, size, value) => {
      // Of absent segments, or lists without a cluster: either way without a key.
      const inOrder = b.pad(b.reshape(x, [-1, tile, size]), 3, 0, 0, b.mul(absent, b.dim(batches, 1)), value);
      const bySegment = b.reshape(b.gather(inOrder, place), [parts, chunk.segments, -1, size]);
      return b.reshape(b.slice(bySegment, 2, 0, rowSegment), [parts, -1, size]);
    };
  } else {
    const union = unionLists(b, b.dim(selected!, 3), tile);
    ({ stacked } = b.loop(b.mul(chunk.present, parts), [], (inner, iteration) => {
      const part = inner.div(iteration, chunk.present);
      const segment = inner.sub(iteration, inner.mul(part, chunk.present));
      const at = inner.squeeze(inner.add(inner.mul(part, chunk.segments), segment), 0);
      const rowMask = inner.gather(selected!, at);
      const own = union(inner, rowMask);
      const first = inner.gather(firstCluster, part);
      const cluster = inner.add(inner.gather(clusterOfColumn, own.columns), first);
      const result = attend(inner, inner.gather(segmentQueries, at), cluster, own, rowMask);
      return { state: [], stacked: [result.output, result.lse] };
    }));
    byPart = (x, size, value) => {
      const bySegment = b.reshape(x, [parts, chunk.present, -1, size]);
      const rows = b.reshape(b.slice(bySegment, 2, 0, rowSegment), [parts, -1, size]);
      return b.pad(rows, 3, 1, 0, b.mul(absent, rowSegment), value);
    };
  }
  return { output: byPart(stacked[0]!, valueDim, 0), lse: byPart(stacked[1]!, 1, HIDDEN) };
}
