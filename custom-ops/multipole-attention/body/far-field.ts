import { DataType } from '../../../rewriter/onnx/spec.js';
import type { Dim, GraphBuilder, Value } from '../../graph-builder.js';
import type { MultipoleParameters } from '../parameters.js';
import { membership } from './k-means.js';
import type { KeyCells } from './key-cells.js';
import { logSumExp, type SoftmaxPart, scaledQueries } from './near-field.js';
import { type ClusterLists, retrievedField, unionLists } from './retrieval.js';
import { HIDDEN, type Sizes, tileRows, times, VISIBLE_ABOVE } from './sizes.js';
import type { Summaries } from './summaries.js';

/** Rows of one query cluster that share one product with its summaries. */
const BLOCK_ROWS = 32;

/** A run of row segments whose far field is computed at once. */
export interface Chunk {
  /** Row segments of the chunk, and how many of them hold rows; rows = segments * rowSegment. */
  readonly segments: Value;
  readonly present: Value;
  /** Segments of the keys that rows of the chunk may see by summary; the summaries have `stride` of them. */
  readonly visible: Value;
  readonly stride: Value;
  /** [B*H,rows,D] */
  readonly query: Value;
  /** Query cluster of each row, [B*H,rows]; `queryClusters` for a place of the grid without a row. */
  readonly rowCluster: Value;
  readonly mask: FarMask | null;
  /** Exact part of each row, [B*H,rows,...]; null where no row has one. */
  readonly near: SoftmaxPart | null;
}

/** Which clusters are outside F(q): rows of one class (of one segment) share a row of the table. */
export interface FarMask {
  /** [classes,J]: 0 or HIDDEN. */
  readonly table: Value;
  /** [B*H or 1,rows] */
  readonly rowClass: Value;
}

export interface ChunkResult extends SoftmaxPart {
  /** What the next chunk needs for sliding pools: see `slidingSums`. */
  readonly tail: Value | null;
  /** [B*H,rows,J]: 1 where the row's pool retrieves the cluster; null without retrieval. */
  readonly selected: Value | null;
}

export function retrieves({ retrieve, retrieveMass }: MultipoleParameters): boolean {
  return retrieveMass > 0 || retrieve.some(count => count > 0);
}

/** Rows sorted by query cluster, each cluster filled up to whole blocks. */
export interface RowBlocks {
  /** Blocks of each part, the same number for all. */
  readonly count: Value;
  /** [B*H,blocks]: query cluster. */
  readonly cluster: Value;
  /** [B*H,blocks*blockRows]: row in each slot, -1 where there is none. */
  readonly content: Value;
  /** [B*H,rows]: slot of each row; any for a place without a row. */
  readonly slotOfRow: Value;
}

/** @param rowCluster [B*H,rows]; `queryClusters` for a place without a row */
export function rowBlocks(
  b: GraphBuilder,
  rowCluster: Value,
  blockRows: number,
  sizes: Sizes,
  queryClusters: number,
): RowBlocks {
  const rows = b.dim(rowCluster, 1);
  const members = membership(b, b.unsqueeze(rowCluster, 2), queryClusters);
  const ranks = b.cumSum(members, 1);
  const blocksOfCluster = b.ceilDiv(b.cast(b.reduceSum(members, 1), DataType.INT64), blockRows);
  const end = b.cumSum(blocksOfCluster, 2);
  const count = b.max(b.maxOfAll(end), 1);
  const firstSlot = b.mul(b.cast(b.sub(end, blocksOfCluster), DataType.FLOAT), blockRows);
  const slotOfMember = b.mul(members, b.sub(b.add(ranks, firstSlot), 1));
  const slots = b.mul(count, blockRows);
  const slot = b.cast(b.reshape(b.reduceSum(slotOfMember, -1), [sizes.parts, rows]), DataType.INT64);
  // Places without a row go to one slot more, which is then cut off.
  const placed = b.where(b.less(rowCluster, queryClusters), slot, slots);
  const filled = b.scatterElements(
    b.full([sizes.parts, b.add(slots, 1)], -1, DataType.INT64),
    placed,
    b.expand(b.range(rows), [sizes.parts, rows]),
  );
  const finished = b.lessOrEqual(end, b.reshape(b.range(count), [-1, 1]));
  const cluster = b.reshape(b.reduceSum(b.cast(finished, DataType.INT64), -1), [sizes.parts, count]);
  return {
    count,
    cluster: b.min(cluster, queryClusters - 1),
    content: b.slice(filled, 1, 0, slots),
    slotOfRow: b.min(placed, b.sub(slots, 1)),
  };
}

/** Rows `index` [B*H,n] of x [B*H,rows,width], part by part: [B*H,n,width]. */
export function rowsOfParts(b: GraphBuilder, x: Value, index: Value, sizes: Sizes): Value {
  const start = b.mul(b.reshape(b.range(sizes.parts), [-1, 1]), b.dim(x, 1));
  return b.gather(b.reshape(x, [-1, b.dim(x, 2)]), b.add(index, start));
}

/** Estimates of all far clusters for the rows of a chunk, in slots: probabilities under their own softmax. */
interface Estimates {
  readonly blocks: RowBlocks;
  /** [B*H,slots]: row in each slot, any where there is none. */
  readonly rowOfSlot: Value;
  /** [B*H,slots,J] */
  readonly probabilities: Value;
  /** [B*H,rows,1] */
  readonly lse: Value;
  /** Index into the summaries of each block's segments. */
  readonly summaryRows: Value;
}

function estimates(
  b: GraphBuilder,
  chunk: Chunk,
  summaries: Summaries,
  sizes: Sizes,
  { keyClusters, queryClusters }: MultipoleParameters,
): Estimates {
  const { parts, headDim } = sizes;
  const rows = b.dim(chunk.query, 1);
  const blocks = rowBlocks(b, chunk.rowCluster, BLOCK_ROWS, sizes, queryClusters);
  const rowOfSlot = b.max(blocks.content, 0);
  const query = rowsOfParts(b, scaledQueries(b, chunk.query, sizes.scale, [parts, rows]), rowOfSlot, sizes);
  const width = b.add(headDim, 1);

  const part = b.mul(b.reshape(b.range(parts), [-1, 1]), queryClusters);
  const firstRow = b.mul(b.unsqueeze(b.add(blocks.cluster, part), 2), chunk.stride);
  const summaryRows = b.add(firstRow, b.range(chunk.visible));
  const clusters = b.mul(chunk.visible, keyClusters);
  const keys = b.reshape(b.gather(summaries.keys, summaryRows), [parts, blocks.count, clusters, width]);
  const products = b.matMul(
    b.reshape(query, [parts, blocks.count, BLOCK_ROWS, width]),
    b.transpose(keys, [0, 1, 3, 2]),
  );
  const slots = b.mul(blocks.count, BLOCK_ROWS);
  const flat = b.reshape(products, [parts, slots, clusters]);
  const logits = chunk.mask ? b.add(flat, slotMask(b, chunk.mask, rowOfSlot)) : flat;
  const probabilities = b.softmax(logits);
  return {
    blocks,
    rowOfSlot,
    probabilities,
    lse: rowsOfParts(b, logSumExp(b, logits, probabilities), blocks.slotOfRow, sizes),
    summaryRows,
  };
}

function slotMask(b: GraphBuilder, { table, rowClass }: FarMask, rowOfSlot: Value): Value {
  const classes = b.expand(rowClass, [b.dim(rowOfSlot, 0), b.dim(rowClass, 1)]);
  return b.gather(table, b.gatherElements(classes, rowOfSlot));
}

/**
 * Steps 6 to 9 of the README for one chunk: output [B*H,rows,E] and lse [B*H,rows,1], zeros and HIDDEN for
 * rows that see nothing.
 */
export function farField(
  b: GraphBuilder,
  chunk: Chunk,
  tail: Value | null,
  summaries: Summaries,
  cells: KeyCells,
  sizes: Sizes,
  parameters: MultipoleParameters,
): ChunkResult {
  const { parts, valueDim } = sizes;
  const far = estimates(b, chunk, summaries, sizes, parameters);
  const { blocks } = far;
  const rowsOf = (x: Value) => rowsOfParts(b, x, blocks.slotOfRow, sizes);
  const exact = chunk.near ? [chunk.near] : [];
  let kept = far.probabilities;
  let choice: Choice | null = null;
  if (retrieves(parameters)) {
    choice = choose(b, chunk, rowsOf(far.probabilities), far.lse, tail, sizes, parameters);
    exact.push(retrieved(b, chunk, choice, cells, sizes, parameters));
    const pool = choice.poolOfRow ? b.gather(choice.poolOfRow, far.rowOfSlot) : far.rowOfSlot;
    kept = b.mul(kept, rowsOfParts(b, b.sub(1, choice.selected), pool, sizes));
  }
  const clusters = b.dim(kept, 2);
  const perBlock = (x: Value, rows: Dim, width: Value) => b.reshape(x, [parts, blocks.count, rows, width]);
  const values = perBlock(b.gather(summaries.values, far.summaryRows), clusters, valueDim);
  const sums = b.reshape(b.matMul(perBlock(kept, BLOCK_ROWS, clusters), values), [
    parts,
    b.mul(blocks.count, BLOCK_ROWS),
    valueDim,
  ]);
  const merged = merge(b, exact, { output: rowsOf(sums), lse: far.lse }, rowsOf(b.reduceSum(kept, -1)));
  return {
    ...merged,
    tail: choice?.tail ?? null,
    selected: choice && (choice.poolOfRow ? b.gather(choice.selected, choice.poolOfRow, 1) : choice.selected),
  };
}

/**
 * One softmax over parts that have their own. The estimates are what retrieval left of theirs: `output` is a
 * sum of weighted values, `mass` the sum of the weights.
 */
function merge(
  b: GraphBuilder,
  exact: readonly SoftmaxPart[],
  estimates: SoftmaxPart,
  mass: Value,
): SoftmaxPart {
  const top = exact.reduce((max, { lse }) => b.max(max, lse), estimates.lse);
  const relative = (part: SoftmaxPart) => b.exp(b.sub(part.lse, top));
  let output = b.mul(relative(estimates), estimates.output);
  let total = b.mul(relative(estimates), mass);
  for (const part of exact) {
    output = b.add(output, b.mul(relative(part), part.output));
    total = b.add(total, relative(part));
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
  readonly tail: Value | null;
}

/** Step 8. `probabilities` [B*H,rows,J] are the estimates under their own softmax, with its `lse`. */
function choose(
  b: GraphBuilder,
  chunk: Chunk,
  probabilities: Value,
  lse: Value,
  tail: Value | null,
  sizes: Sizes,
  parameters: MultipoleParameters,
): Choice {
  const present = b.less(b.unsqueeze(chunk.rowCluster, 2), parameters.queryClusters);
  const farShare = chunk.near ? logistic(b, b.sub(lse, chunk.near.lse)) : b.constant(1, DataType.FLOAT);
  const share = b.where(b.and(b.greater(lse, VISIBLE_ABOVE), present), farShare, 0);
  const weights = b.mul(probabilities, share);
  const pools = pooledWeights(b, chunk, weights, b.indicator(present), tail, sizes, parameters);
  const { clusters, valid } = pick(b, pools.means, sizes, parameters);
  const selected = b.scatterElements(b.mul(pools.means, 0), clusters, b.indicator(valid));
  const { poolOfRow } = pools;
  const lists = poolOfRow === null ? null : { clusters, valid };
  // Acausal pools other than tiles have rows of several segments, and may choose what some of them see exactly.
  if (!parameters.causal && parameters.selection !== 'tile' && chunk.mask) {
    const ofRows = poolOfRow === null ? selected : b.gather(selected, poolOfRow, 1);
    return { selected: b.mul(ofRows, farRows(b, chunk.mask)), poolOfRow: null, lists, tail: pools.tail };
  }
  return { selected, poolOfRow, lists, tail: pools.tail };
}

/** exp(x) / (exp(x) + 1) */
function logistic(b: GraphBuilder, x: Value): Value {
  return b.sigmoid(x);
}

/** 1 where the cluster is in the row's F(q): [B*H or 1,rows,J]. */
function farRows(b: GraphBuilder, { table, rowClass }: FarMask): Value {
  return b.indicator(b.greater(b.gather(table, rowClass), VISIBLE_ABOVE));
}

interface Pools {
  /** [B*H,pools,J]; for a choice by count their sums do as well. */
  readonly means: Value;
  readonly poolOfRow: Value | null;
  readonly tail: Value | null;
}

/** @param present [B*H,rows,1]: 1 where the grid holds a row */
function pooledWeights(
  b: GraphBuilder,
  chunk: Chunk,
  weights: Value,
  present: Value,
  tail: Value | null,
  sizes: Sizes,
  parameters: MultipoleParameters,
): Pools {
  const { selection, causal, group, retrieveMass } = parameters;
  // Sums order clusters as means do; only a bound on mass needs the number of rows.
  const mean = (sums: Value, rows: Value) => (retrieveMass > 0 ? b.div(sums, b.max(rows, 1)) : sums);
  if (selection === 'sliding') {
    const rows = b.dim(weights, 1);
    // Rows that were there have weights that sum to their mass; their number needs a column of its own.
    const counted = retrieveMass > 0 ? b.concat([present, weights], 2) : weights;
    const { sums, tail: next } = slidingSums(b, counted, tail, rows, group);
    if (retrieveMass === 0) return { means: sums, poolOfRow: null, tail: next };
    const end = b.add(b.dim(weights, 2), 1);
    return { means: mean(b.slice(sums, 2, 1, end), b.slice(sums, 2, 0, 1)), poolOfRow: null, tail: next };
  }
  if (selection === 'cluster' && causal) {
    const same = samePool(b, chunk, sizes, parameters);
    const bySegment = (x: Value) => b.reshape(x, [-1, sizes.rowSegment, b.dim(x, 2)]);
    const means = mean(b.matMul(same, bySegment(weights)), b.matMul(same, bySegment(present)));
    return { means: b.reshape(means, [sizes.parts, -1, b.dim(weights, 2)]), poolOfRow: null, tail: null };
  }
  const sums = (x: Value) => {
    const summed = b.reduceSum(tiles(b, x, chunk.segments, group, sizes), 2);
    return b.reshape(summed, [sizes.parts, -1, b.dim(x, 2)]);
  };
  const row = b.range(b.dim(weights, 1));
  const segment = b.div(row, sizes.rowSegment);
  const tile = b.div(b.sub(row, b.mul(segment, sizes.rowSegment)), group);
  return {
    means: mean(sums(weights), sums(present)),
    poolOfRow: b.add(b.mul(segment, tilesPerSegment(b, sizes, group)), tile),
    tail: null,
  };
}

/**
 * Sums over the `group` rows that end with each row. `tail` holds the group - 1 rows before the chunk, with no
 * more clusters than the chunk has; the next chunk's is returned.
 */
function slidingSums(
  b: GraphBuilder,
  weights: Value,
  tail: Value | null,
  rows: Value,
  group: number,
): { sums: Value; tail: Value | null } {
  if (tail === null) return { sums: weights, tail: null };
  const before = b.pad(tail, 3, 2, 0, b.sub(b.dim(weights, 2), b.dim(tail, 2)));
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
  return { sums: sums!, tail: b.slice(all, 1, rows, b.add(rows, group - 1)) };
}

/** 1 where two rows of a segment are in one run of `group` rows of one query cluster: [B*H*segments,rows,rows]. */
function samePool(
  b: GraphBuilder,
  chunk: Chunk,
  sizes: Sizes,
  { queryClusters, group }: MultipoleParameters,
): Value {
  const cluster = b.reshape(chunk.rowCluster, [-1, sizes.rowSegment, 1]);
  const members = membership(b, cluster, queryClusters);
  const rank = b.cast(b.reduceSum(b.mul(members, b.cumSum(members, 1)), -1), DataType.INT64);
  const run = b.div(b.max(b.sub(rank, 1), 0), group);
  const pool = b.add(b.mul(run, queryClusters + 1), cluster);
  return b.indicator(b.equal(pool, b.transpose(pool, [0, 2, 1])));
}

/** The clusters that each pool retrieves, best first. */
function pick(
  b: GraphBuilder,
  means: Value,
  sizes: Sizes,
  { retrieve, retrieveMass }: MultipoleParameters,
): ClusterLists {
  const total = b.dim(means, 2);
  if (retrieveMass > 0) {
    const { values, indices } = b.topK(means, total);
    const left = b.sub(b.reduceSum(values, -1), b.sub(b.cumSum(values, 2), values));
    const enough = b.less(left, retrieveMass);
    return { clusters: indices, valid: b.and(b.greater(values, 0), b.not(enough)) };
  }
  const { values, indices } = b.topK(means, b.min(total, Math.max(...retrieve)));
  const some = b.greater(values, 0);
  if (retrieve.length === 1) return { clusters: indices, valid: some };
  const head = b.mod(b.range(sizes.parts), retrieve.length);
  const count = b.reshape(b.gather(b.ints(retrieve), head), [-1, 1, 1]);
  return { clusters: indices, valid: b.and(some, b.less(b.range(b.dim(values, 2)), count)) };
}

function tilesPerSegment(b: GraphBuilder, { rowSegment }: Sizes, tile: number): Dim {
  return typeof rowSegment === 'number' ? Math.ceil(rowSegment / tile) : b.ceilDiv(rowSegment, tile);
}

/** Rows of row segments, each filled up to whole tiles: [B*H, segments * tiles, tile, width]. */
function tiles(b: GraphBuilder, x: Value, segments: Dim, tile: number, sizes: Sizes): Value {
  const { parts, rowSegment } = sizes;
  const width = b.dim(x, 2);
  if (typeof rowSegment === 'number' && rowSegment % tile === 0)
    return b.reshape(x, [parts, -1, tile, width]);
  const filled = times(b, tilesPerSegment(b, sizes, tile), tile);
  const missing =
    typeof filled === 'number' && typeof rowSegment === 'number'
      ? filled - rowSegment
      : b.sub(filled, rowSegment);
  const padded = b.pad(b.reshape(x, [parts, segments, rowSegment, width]), 4, 2, 0, missing);
  return b.reshape(padded, [parts, -1, tile, width]);
}

/** Exact attention to what was chosen, one row segment at a time: [B*H,rows,E] and [B*H,rows,1]. */
function retrieved(
  b: GraphBuilder,
  chunk: Chunk,
  choice: Choice,
  cells: KeyCells,
  sizes: Sizes,
  parameters: MultipoleParameters,
): SoftmaxPart {
  const { parts, share, rowSegment, valueDim } = sizes;
  const tile = tileRows(parameters);
  const perHead = b.mul(sizes.keySegments, parameters.keyClusters);
  const kvCluster = b.reshape(b.mul(b.div(b.range(parts), share), perHead), [-1, 1, 1]);
  const { stacked } = b.loop(chunk.present, [], (inner, segment) => {
    const from = inner.mul(segment, rowSegment);
    const to = inner.add(from, rowSegment);
    const rows = (x: Value) => tiles(inner, inner.slice(x, 1, from, to), 1, tile, sizes);
    const rowMask = choice.poolOfRow === null ? rows(choice.selected) : null;
    const perSegment = tilesPerSegment(inner, sizes, tile);
    const firstTile = inner.mul(segment, perSegment);
    const ofSegment = (x: Value) => inner.slice(x, 1, firstTile, inner.add(firstTile, perSegment));
    const lists = choice.lists
      ? { clusters: ofSegment(choice.lists.clusters), valid: ofSegment(choice.lists.valid) }
      : unionLists(inner, rowMask!, tile);
    const tiled = rows(chunk.query);
    const shape = [parts, inner.dim(tiled, 1), inner.ints([tile])];
    const queries = scaledQueries(inner, tiled, sizes.scale, shape);
    const part = retrievedField(inner, queries, lists, kvCluster, rowMask, tile, cells, sizes);
    const back = (x: Value, width: Value) =>
      inner.slice(inner.reshape(x, [parts, -1, width]), 1, 0, inner.dims([rowSegment]));
    return { state: [], stacked: [back(part.output, valueDim), back(part.lse, inner.ints([1]))] };
  });
  const absent = b.sub(chunk.segments, chunk.present);
  const whole = (x: Value, width: Value, value: number) => {
    const segments = b.transpose(b.pad(x, 4, 0, 0, absent, value), [1, 0, 2, 3]);
    return b.reshape(segments, [parts, -1, width]);
  };
  return { output: whole(stacked[0]!, valueDim, 0), lse: whole(stacked[1]!, b.ints([1]), HIDDEN) };
}
