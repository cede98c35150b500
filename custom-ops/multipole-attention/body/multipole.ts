import { DataType } from '../../../rewriter/onnx/spec.js';
import type { Dim, GraphBuilder, Value } from '../../graph-builder.js';
import { HIDDEN, type SoftmaxPart, VISIBLE_ABOVE } from '../../softmax-part.js';
import type { MultipoleParameters } from '../parameters.js';
import { contractedDipole } from './contracted-dipole.js';
import { dimensionShares } from './dimension-shares.js';
import {
  boundsMeans,
  type Chunk,
  choosesByError,
  columnClusters,
  type FarMask,
  farField,
  retrieves,
  type Tail,
} from './far-field.js';
import { evenSeeds, kMeans, nearestCentroid } from './k-means.js';
import { type KeyCells, keyCells } from './key-cells.js';
import { nearField } from './near-field.js';
import { exponentFrom } from './powers-of-two.js';
import { gatherRows, rowBlocks } from './row-blocks.js';
import type { BodyInputs, Sizes } from './sizes.js';

import { summaries } from './summaries.js';
import { farTable, farUnits, placesIn, referenceUnits, unitCount } from './units.js';

/** What a test build returns besides output and lse, to compare with the reference under equal choices. */
export interface Trace {
  /** [levels,B*G,S]; `keyClusters` for a hidden key. */
  readonly keyClusters: Value;
  /** [blocks,B*H,queryClusters,D] */
  readonly queryCentroids: Value;
  /** [B*H,grid rows from `base` on]; `queryClusters` where there is no row. */
  readonly rowClusters: Value;
  /** [B*H,grid rows from `base` on,clusters] */
  readonly selected: Value;
}

/** Output [B*H,rows,E] and lse [B*H,rows,1], HIDDEN for rows that see nothing. */
export interface FieldResult extends SoftmaxPart {
  /** The rows of the operator's output are [first, last) of these. */
  readonly first: Value;
  readonly last: Value;
  readonly trace: Trace | null;
}

/** Steps 2 to 9 of the README. Rows at negative positions are left out: they would come first. */
export function multipoleField(
  b: GraphBuilder,
  inputs: BodyInputs,
  past: Value,
  sizes: Sizes,
  parameters: MultipoleParameters,
  traced: boolean,
): FieldResult {
  const cells = keyCells(b, inputs, sizes, parameters);
  const pass = { inputs, cells, sizes, parameters, traced };
  const start = b.add(sizes.offset, past);
  const rows = parameters.causal ? causalRows(b, pass, start) : acausalRows(b, pass);
  const first = b.sub(b.max(start, 0), rows.base);
  return {
    output: rows.output,
    lse: rows.lse,
    first,
    last: b.max(b.sub(sizes.end, rows.base), first),
    trace: rows.trace && { ...rows.trace, keyClusters: cells.assignment },
  };
}

interface Pass {
  readonly inputs: BodyInputs;
  readonly cells: KeyCells;
  readonly sizes: Sizes;
  readonly parameters: MultipoleParameters;
  readonly traced: boolean;
}

interface GridRows extends SoftmaxPart {
  /** Grid position of the first row. */
  readonly base: Value;
  readonly trace: Omit<Trace, 'keyClusters'> | null;
}

/** Rows in the order in which chunks take them, for chunks of whole row segments. */
interface RowSource {
  /** [B*H,rows,D] */
  readonly query: Value;
  readonly near: SoftmaxPart | null;
  /** Of the rows [from, to), whose queries are given: [B*H,to-from]. */
  rowCluster(b: GraphBuilder, query: Value, from: Value, to: Value): Value;
  /** Units that rows of the row segments [start, end) may see by summary. */
  columns(b: GraphBuilder, start: Value, end: Value): Value;
  /** For the rows [from, to) and the clusters of the units `columns`. */
  mask(b: GraphBuilder, from: Value, to: Value, columns: Value): FarMask | null;
}

interface ChunkPlan {
  readonly count: Value;
  /** First row segment, and row segments per chunk. */
  readonly first: Value;
  readonly segments: Value;
  /** Row segments that hold rows, counted from 0. */
  readonly present: Value;
  readonly centroids: Value;
  /** [B*H,1,D]: what dimensions weigh in expected errors; null where clusters are not chosen by them. */
  readonly shares: Value | null;
  /** Units of the keys that have summaries. */
  readonly summarized: Value;
}

/** All chunks of a plan: output [B*H,rows,E], lse [B*H,rows,1], and by request rowCluster and selected. */
function chunkRows(
  b: GraphBuilder,
  { cells, sizes, parameters, traced }: Pass,
  plan: ChunkPlan,
  source: RowSource,
  tail: Tail | null,
): { readonly tensors: readonly Value[]; readonly tail: Tail | null } {
  const { parts, rowSegment } = sizes;
  const table = summaries(b, cells, plan.centroids, plan.shares, plan.summarized, sizes, parameters);
  const { state, stacked } = b.loop(plan.count, stateOf(tail), (inner, iteration, before) => {
    const start = inner.add(inner.mul(iteration, plan.segments), plan.first);
    const end = inner.add(start, plan.segments);
    const [from, to] = [inner.mul(start, rowSegment), inner.mul(end, rowSegment)];
    const rows = (x: Value) => inner.slice(x, 1, from, to);
    const query = rows(source.query);
    const columns = source.columns(inner, start, end);
    const rowCluster = source.rowCluster(inner, query, from, to);
    const chunk: Chunk = {
      segments: plan.segments,
      present: inner.max(inner.min(plan.segments, inner.sub(plan.present, start)), 0),
      columns,
      summarized: sizes.units ? placesIn(inner, columns, plan.summarized) : columns,
      query,
      rowCluster,
      mask: source.mask(inner, from, to, columns),
      halfSquare: plan.shares && halfSquare(inner, query, rowCluster, plan.centroids, sizes, parameters),
      near: source.near && { output: rows(source.near.output), lse: rows(source.near.lse) },
    };
    const result = farField(
      inner,
      chunk,
      before.length > 0 ? tailOf(before) : null,
      table,
      cells,
      sizes,
      parameters,
    );
    const trace = () => [
      inner.unsqueeze(chunk.rowCluster, 2),
      selectedClusters(inner, result.selected, chunk, sizes, parameters),
    ];
    return {
      state: stateOf(result.tail),
      stacked: [result.output, result.lse, ...(traced ? trace() : [])],
    };
  });
  const flat = (x: Value) => b.reshape(b.transpose(x, [1, 0, 2, 3]), [parts, -1, b.dim(x, 3)]);
  return { tensors: stacked.map(flat), tail: state.length > 0 ? tailOf(state) : null };
}

/** s^2 |q - c_i|^2 / 2 of rows [B*H,rows,D]; any number where there is no row. */
function halfSquare(
  b: GraphBuilder,
  query: Value,
  rowCluster: Value,
  centroids: Value,
  { parts, scale }: Sizes,
  { queryClusters }: MultipoleParameters,
): Value {
  const part = b.mul(b.reshape(b.range(parts), [-1, 1]), queryClusters);
  const own = gatherRows(b, centroids, b.add(b.min(rowCluster, queryClusters - 1), part));
  const residual = b.mul(b.sub(query, own), scale);
  return b.div(b.reduceSum(b.mul(residual, residual), -1), 2);
}

/** A tail as the state of a loop. */
const stateOf = (tail: Tail | null): Value[] => (tail ? [tail.weights, tail.columns] : []);
const tailOf = ([weights, columns]: readonly Value[]): Tail => ({ weights: weights!, columns: columns! });

/** [B*H,rows,clusters]: `selected` with the clusters in the order of the reference. */
function selectedClusters(
  b: GraphBuilder,
  selected: Value | null,
  chunk: Chunk,
  sizes: Sizes,
  parameters: MultipoleParameters,
): Value {
  const { parts } = sizes;
  const { keyClusters } = parameters;
  const rows = b.dim(chunk.query, 1);
  const { number, total } = referenceUnits(b, chunk.columns, sizes);
  // Units beyond the keys go to one unit more, which is then cut off.
  const all = b.mul(total, keyClusters);
  const none = b.full([parts, rows, b.add(all, keyClusters)], 0, DataType.FLOAT);
  if (!selected) return b.slice(none, 2, 0, all);
  const column = b.expand(columnClusters(b, number, parameters), [parts, rows, b.dim(selected, 2)]);
  return b.slice(b.scatterElements(none, column, selected), 2, 0, all);
}

/** Rows before the first chunk weigh nothing, by whatever columns. */
function emptyTail(b: GraphBuilder, sizes: Sizes, parameters: MultipoleParameters): Tail | null {
  const { selection, group, keyClusters } = parameters;
  if (selection !== 'sliding' || group === 1 || !retrieves(parameters)) return null;
  const width = keyClusters + Number(boundsMeans(parameters));
  return { weights: b.full([sizes.parts, group - 1, width], 0, DataType.FLOAT), columns: b.ints([0]) };
}

/** Queries on the grid: [B*H, segments * rowSegment, D]. */
function queryGrid(b: GraphBuilder, query: Value, sizes: Sizes, segments: Value): Value {
  const rows = b.dim(query, 1);
  const cropped = b.slice(query, 1, firstGridRow(b, query, sizes), rows);
  const after = b.sub(b.sub(b.mul(segments, sizes.rowSegment), sizes.first), b.dim(cropped, 1));
  return b.pad(cropped, 3, 1, sizes.first, after);
}

/** The first row that is on the grid (some row, if none is). */
function firstGridRow(b: GraphBuilder, query: Value, { offset }: Sizes): Value {
  return b.min(b.max(b.sub(0, offset), 0), b.sub(b.dim(query, 1), 1));
}

/** Columns for the row segments [start, end), and for the rows before them that share a pool with theirs. */
function gridColumns(
  b: GraphBuilder,
  start: Value,
  end: Value,
  sizes: Sizes,
  parameters: MultipoleParameters,
): Value {
  const { selection, group, segment } = parameters;
  const shared = selection === 'sliding' && segment > 0 ? Math.ceil((group - 1) / segment) : 0;
  return farUnits(b, b.max(b.sub(start, shared), 0), end, sizes, parameters);
}

/** Rows [from, to) on a grid of row segments. */
function gridMask(
  b: GraphBuilder,
  from: Value,
  to: Value,
  columns: Value,
  sizes: Sizes,
  parameters: MultipoleParameters,
): FarMask | null {
  if (sizes.local === false) return null;
  const first = b.div(from, sizes.rowSegment);
  const own = b.add(b.range(b.sub(b.div(to, sizes.rowSegment), first)), first);
  return {
    table: farTable(b, b.reshape(own, [-1, 1]), columns, sizes, parameters),
    rowClass: b.expand(b.div(b.range(b.sub(to, from)), sizes.rowSegment), [sizes.parts, b.sub(to, from)]),
  };
}

function acausalRows(b: GraphBuilder, pass: Pass): GridRows {
  const { inputs, sizes, parameters } = pass;
  const { queryClusters, iterations } = parameters;
  const { gridSegments, chunkSegments, parts } = sizes;
  const rows = b.dim(inputs.query, 1);
  const seeds = evenSeeds(b, inputs.query, rows, queryClusters);
  const { assignment, centroids } = kMeans(b, inputs.query, null, seeds, queryClusters, iterations);
  const rowCluster = b.reshape(assignment, [parts, rows]);
  const grid = queryGrid(b, inputs.query, sizes, gridSegments);
  const near = acausalNear(b, pass, grid);
  const plan = {
    first: b.ints([0]),
    centroids,
    shares: choosesByError(parameters) ? dimensionShares(b, inputs.query) : null,
    summarized: b.range(unitCount(sizes)),
  };
  const dipole = parameters.contracted
    ? contractedDipole(b, inputs, pass.cells, centroids, rowCluster, sizes, parameters)
    : null;
  const withDipole = (output: Value, lse: Value): Value => {
    if (!dipole) return output;
    const padded = b.pad(dipole, 3, 1, 0, b.sub(b.dim(output, 1), rows));
    return b.where(b.greater(lse, VISIBLE_ABOVE), b.add(output, padded), 0);
  };
  const finish = (tensors: readonly Value[]): GridRows => ({
    output: withDipole(tensors[0]!, tensors[1]!),
    lse: tensors[1]!,
    base: plan.first,
    trace: pass.traced
      ? {
          queryCentroids: b.unsqueeze(centroids, 0),
          rowClusters: b.reshape(tensors[2]!, [parts, -1]),
          selected: tensors[3]!,
        }
      : null,
  });
  if (parameters.selection === 'cluster') {
    return finish(rowsByCluster(b, pass, plan, inputs.query, rowCluster, near));
  }
  const missing = b.sub(b.dim(grid, 1), rows);
  const clusters = b.pad(rowCluster, 2, 1, 0, missing, queryClusters);
  const source: RowSource = {
    query: grid,
    near,
    rowCluster: (inner, _, from, to) => inner.slice(clusters, 1, from, to),
    columns: (inner, from, to) => gridColumns(inner, from, to, sizes, parameters),
    mask: (inner, from, to, columns) => gridMask(inner, from, to, columns, sizes, parameters),
  };
  const chunks = {
    ...plan,
    count: b.div(gridSegments, chunkSegments),
    segments: chunkSegments,
    present: sizes.rowSegments,
  };
  return finish(chunkRows(b, pass, chunks, source, emptyTail(b, sizes, parameters)).tensors);
}

/** Near field of the grid, where rows have an own segment. */
function acausalNear(b: GraphBuilder, { inputs, sizes, parameters }: Pass, grid: Value): SoftmaxPart | null {
  const { local, parts, valueDim } = sizes;
  if (typeof local === 'boolean') return null;
  const [output, lse] = b.ifElse(
    local,
    inner => {
      const near = nearField(inner, inputs, grid, sizes, parameters, inner.ints([0]));
      return [near.output, near.lse];
    },
    inner => [
      inner.full([parts, inner.dim(grid, 1), valueDim], 0, DataType.FLOAT),
      inner.full([parts, inner.dim(grid, 1), 1], HIDDEN, DataType.FLOAT),
    ],
  );
  return { output: output!, lse: lse! };
}

/**
 * Chunks over rows sorted by query cluster, so that the pools of `cluster` selection are tiles; what chunks
 * return goes back to the order of rows.
 */
function rowsByCluster(
  b: GraphBuilder,
  pass: Pass,
  plan: Pick<ChunkPlan, 'first' | 'centroids' | 'shares' | 'summarized'>,
  query: Value,
  rowCluster: Value,
  near: SoftmaxPart | null,
): readonly Value[] {
  const { parameters } = pass;
  const { group, queryClusters, segment } = parameters;
  const rowSegment = Math.ceil(SORTED_SEGMENT / group) * group;
  const perSegment = rowSegment / group;
  const sorted = rowBlocks(b, rowCluster, group, perSegment, true, pass.sizes, queryClusters);
  const rowSegments = b.div(b.div(sorted.count, pass.sizes.parts), perSegment);
  const count = b.ceilDiv(rowSegments, SORTED_CHUNK);
  const chunkSegments = b.ceilDiv(rowSegments, count);
  const gridSegments = b.mul(count, chunkSegments);
  const sizes = { ...pass.sizes, rowSegment, rowSegments, gridSegments };

  const filled = b.reshape(sorted.content, [sizes.parts, -1]);
  const missing = b.sub(b.mul(gridSegments, rowSegment), b.dim(filled, 1));
  const content = b.pad(filled, 2, 1, 0, missing, -1);
  const row = b.max(content, 0);
  // Row numbers count over all parts; places on the grid of exact parts, over its own rows.
  const rows = b.dim(query, 1);
  const ofPart = b.sub(row, b.mul(b.div(row, rows), rows));
  const inOrder = (x: Value) => {
    const start = b.mul(b.reshape(b.range(sizes.parts), [-1, 1]), b.dim(x, 1));
    return gatherRows(b, x, b.add(ofPart, start));
  };
  const cluster = b.squeeze(inOrder(b.unsqueeze(rowCluster, 2)), 2);
  const clusters = b.where(b.less(content, 0), queryClusters, cluster);
  const segments = b.reshape(b.range(sizes.keySegments), [-1, 1]);
  const table = near && farTable(b, segments, plan.summarized, sizes, parameters);
  const rowClass = near && b.min(b.div(ofPart, segment), b.sub(sizes.keySegments, 1));
  const source: RowSource = {
    query: inOrder(query),
    near: near && { output: inOrder(near.output), lse: inOrder(near.lse) },
    rowCluster: (inner, _, from, to) => inner.slice(clusters, 1, from, to),
    columns: () => plan.summarized,
    mask: (inner, from, to) => table && rowClass && { table, rowClass: inner.slice(rowClass, 1, from, to) },
  };
  const chunks = { ...plan, count, segments: chunkSegments, present: rowSegments };
  const { tensors } = chunkRows(b, { ...pass, sizes }, chunks, source, null);
  // Slots count over all parts without the padding to whole chunks.
  const part = b.reshape(b.range(sizes.parts), [-1, 1]);
  const slotOfRow = b.add(sorted.slotOfRow, b.mul(part, missing));
  return tensors.map(x => gatherRows(b, x, slotOfRow));
}

/** Rows of a row segment, and most row segments in a chunk, where rows are sorted by query cluster. */
const SORTED_SEGMENT = 256;
const SORTED_CHUNK = 8;

/** Row segment 2^(n-1) begins block n of rows with the same centroids; block 0 is segment 0. */
const BLOCK_STARTS = [0, ...Array.from({ length: 39 }, (_, exponent) => 2 ** exponent)];

/** Blocks of rows whose centroids come from the doubling prefix (README, step 4). */
function causalRows(b: GraphBuilder, pass: Pass, start: Value): GridRows {
  const { inputs, sizes, parameters, traced } = pass;
  const { queryClusters, iterations, selection, group, segment } = parameters;
  const { parts, rowSegments, gridSegments, first, end, valueDim } = sizes;
  const grid = queryGrid(b, inputs.query, sizes, gridSegments);
  // Earlier rows count only towards centroids, and towards the first pools.
  const needed = b.max(selection === 'sliding' ? b.sub(start, group - 1) : start, 0);
  const neededSegment = b.min(b.div(needed, segment), b.sub(rowSegments, 1));
  const firstBlock = exponentFrom(b, b.add(neededSegment, 1));
  const blocks = b.sub(b.add(exponentFrom(b, rowSegments), 1), firstBlock);
  const blockPlan = (inner: GraphBuilder, iteration: Dim) => {
    const block = inner.add(firstBlock, iteration);
    const begin = inner.gather(inner.ints(BLOCK_STARTS), block);
    const length = inner.max(begin, 1);
    const segments = inner.min(length, sizes.chunkLimit);
    const skipped = inner.mul(inner.div(inner.max(inner.sub(neededSegment, begin), 0), segments), segments);
    return { begin, length, segments, first: inner.add(begin, skipped) };
  };
  const base = blockPlan(b, 0).first;
  const near = nearField(b, inputs, grid, sizes, parameters, base);
  const place = b.range(b.mul(gridSegments, segment));
  const onGrid = b.and(b.less(place, end), b.less(b.sub(first, 1), place));

  const tail = emptyTail(b, sizes, parameters);
  const none = (width: Value) => b.full([parts, 0, width], 0, DataType.FLOAT);
  const one = b.ints([1]);
  const collected = [
    none(valueDim),
    none(one),
    ...(traced
      ? [
          b.full([parts, 0, 1], 0, DataType.INT64),
          none(b.mul(referenceUnits(b, b.ints([0]), sizes).total, parameters.keyClusters)),
        ]
      : []),
  ];
  const { state, stacked } = b.loop(blocks, [...collected, ...stateOf(tail)], (inner, iteration, before) => {
    const { begin, length, segments, first: firstSegment } = blockPlan(inner, iteration);
    const blockEnd = inner.min(inner.add(begin, length), gridSegments);
    const computed = inner.sub(inner.min(blockEnd, rowSegments), firstSegment);
    const { centroids, shares } = prefixCentroids(inner, pass, inner.mul(begin, segment));
    const plan = {
      count: inner.ceilDiv(computed, segments),
      first: firstSegment,
      segments,
      present: rowSegments,
      centroids,
      shares,
      summarized: sizes.units ? farUnits(inner, begin, blockEnd, sizes, parameters) : inner.range(blockEnd),
    };
    const source: RowSource = {
      query: grid,
      near,
      rowCluster: (b2, query, from, to) => {
        const cluster = b2.reshape(nearestCentroid(b2, query, centroids), [parts, -1]);
        return b2.where(b2.slice(onGrid, 0, from, to), cluster, queryClusters);
      },
      columns: (b2, from, to) => gridColumns(b2, from, to, sizes, parameters),
      mask: (b2, from, to, columns) => gridMask(b2, from, to, columns, sizes, parameters),
    };
    const result = chunkRows(inner, pass, plan, source, tail && tailOf(before.slice(collected.length)));
    return {
      state: [
        ...collected.map((_, n) => inner.concat([before[n]!, result.tensors[n]!], 1)),
        ...stateOf(result.tail),
      ],
      stacked: traced ? [centroids] : [],
    };
  });
  return {
    output: state[0]!,
    lse: state[1]!,
    base: b.mul(base, segment),
    trace: traced
      ? {
          queryCentroids: stacked[0]!,
          rowClusters: b.reshape(state[2]!, [parts, -1]),
          selected: state[3]!,
        }
      : null,
  };

  /** Centroids of the rows on the grid before a position; zero if there are none. */
  function prefixCentroids(
    inner: GraphBuilder,
    { inputs: { query } }: Pass,
    position: Value,
  ): Pick<ChunkPlan, 'centroids' | 'shares'> {
    const from = firstGridRow(inner, query, sizes);
    const known = inner.max(inner.sub(inner.min(position, end), first), 0);
    const count = inner.max(known, 1);
    const rows = inner.slice(query, 1, from, inner.add(from, count));
    const seeds = evenSeeds(inner, rows, count, queryClusters);
    const { centroids } = kMeans(inner, rows, null, seeds, queryClusters, iterations);
    const some = inner.greater(known, 0);
    return {
      centroids: inner.where(some, centroids, 0),
      shares: choosesByError(parameters)
        ? dimensionShares(inner, inner.mul(rows, inner.indicator(some)))
        : null,
    };
  }
}
