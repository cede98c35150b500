import { DataType } from '../../../rewriter/onnx/spec.js';
import type { Dim, GraphBuilder, Value } from '../../graph-builder.js';
import { HIDDEN } from '../../softmax-part.js';
import type { MultipoleParameters } from '../parameters.js';
import { evenVisibleSeeds, kMeans } from './k-means.js';
import { POWERS_OF_TWO } from './powers-of-two.js';
import type { BodyInputs, Sizes } from './sizes.js';
import type { DyadicUnits } from './units.js';

/**
 * Keys sorted by cluster inside their unit, each cluster filled up to whole cells of `size` slots. Cells make
 * ragged clusters into blocks of one shape: for summaries, and for gathering retrieved clusters. The last cell
 * of each unit (the spare) belongs to no cluster, and all its slots are hidden.
 */
export interface KeyCells {
  readonly size: Dim;
  /** [B*G * units * clusters]: first cell (over all parts and units) and number of cells of each cluster. */
  readonly firstCell: Value;
  readonly cellCount: Value;
  /** Number of a spare cell. */
  readonly hiddenCell: Value;
  /** [levels,B*G,S]: cluster of each key inside its unit, `keyClusters` for a hidden one. */
  readonly assignment: Value;
  /** For use inside a loop: cells by number, [n,m], as keys [n,m*size,D+1] and values [n,m*size,E]. */
  gather(b: GraphBuilder, cell: Value): CellContent;
  /** For use inside a loop: all cells of a unit (a vector of one). */
  ofUnit(b: GraphBuilder, unit: Value): UnitCells;
}

interface CellContent {
  /** With a last column that holds 0, or HIDDEN for an empty slot. */
  readonly biasedKeys: Value;
  readonly values: Value;
}

/** [B*G,1,count,size,...]: the axis of size 1 stands for the query heads of a key head. */
export interface UnitCells extends CellContent {
  readonly keys: Value;
  /**
   * [B*G,1,clusters,count]: 1 where the cell belongs to the cluster; null where every cluster is one cell, in
   * order, and the spare follows.
   */
  readonly membership: Value | null;
}

/** Longest contiguous run that is a cell of its own; longer ones are cut into cells. */
const LONGEST_RUN = 64;

export function keyCells(
  b: GraphBuilder,
  inputs: BodyInputs,
  sizes: Sizes,
  parameters: MultipoleParameters,
): KeyCells {
  if (sizes.units) return dyadicCells(b, inputs, sizes, sizes.units, parameters);
  const { keyClusters, keyGrouping } = parameters;
  const run = Math.ceil(parameters.segment / keyClusters);
  if (keyGrouping === 'contiguous' && parameters.segment > 0 && run <= LONGEST_RUN) {
    return runCells(b, inputs, run, sizes, parameters);
  }
  return sortedCells(b, inputs, sizes, parameters);
}

/** Cluster of each key inside its unit: [B*G,units,unit,1], or 1 for an axis along which nothing changes. */
function clustersOf(
  b: GraphBuilder,
  inputs: BodyInputs,
  visible: Value,
  sizes: Sizes,
  parameters: MultipoleParameters,
): Value {
  if (parameters.keyGrouping === 'kmeans') return kMeansClusters(b, inputs, visible, sizes, parameters);
  const length = b.dims([sizes.segment]);
  const run = b.ceilDiv(length, parameters.keyClusters);
  return b.reshape(b.div(b.range(length), run), [1, 1, sizes.segment, 1]);
}

/** [B*G,segments,segment,1]: 1 where there is a visible key. */
function visibleKeys(b: GraphBuilder, inputs: BodyInputs, { kvParts, keySegments, segment }: Sizes): Value {
  const length = b.mul(keySegments, segment);
  const keyCount = b.dim(inputs.key, 1);
  const shape = [kvParts, keySegments, segment, 1];
  if (inputs.keyBias === null) {
    const present = b.indicator(b.less(b.range(length), keyCount));
    return b.expand(b.reshape(present, [1, keySegments, segment, 1]), shape);
  }
  const bias = b.pad(inputs.keyBias, 2, 1, 0, b.sub(length, keyCount), HIDDEN);
  return b.reshape(b.indicator(b.equal(bias, 0)), shape);
}

function kMeansClusters(
  b: GraphBuilder,
  inputs: BodyInputs,
  visible: Value,
  { kvParts, keySegments, segment, headDim }: Sizes,
  { keyClusters, iterations }: MultipoleParameters,
): Value {
  const missing = b.sub(b.mul(keySegments, segment), b.dim(inputs.key, 1));
  const parts = b.mul(kvParts, keySegments);
  const points = b.reshape(b.pad(inputs.key, 3, 1, 0, missing), [parts, segment, headDim]);
  const weights = b.reshape(visible, [parts, segment, 1]);
  const seeds = evenVisibleSeeds(b, points, weights, segment, keyClusters);
  const { assignment } = kMeans(b, points, weights, seeds, keyClusters, iterations);
  return b.reshape(assignment, [kvParts, keySegments, segment, 1]);
}

/**
 * Index of a key among those of all parts, from its position in its part.
 * @param position [segments,n]; positions after the last key become that key
 * @returns [B*G,segments,n]
 */
function keyIndex(b: GraphBuilder, inputs: BodyInputs, position: Value, { kvParts }: Sizes): Value {
  const keyCount = b.dim(inputs.key, 1);
  const start = b.reshape(b.mul(b.range(kvParts), keyCount), [-1, 1, 1]);
  return b.add(b.min(position, b.sub(keyCount, 1)), start);
}

/** Cells of all segments, [B*G,segments,count,size,...]. */
interface DenseCells extends CellContent {
  readonly size: Dim;
  /** Cells of one segment, spare included. */
  readonly count: Dim;
  readonly keys: Value;
}

/** @param source [B*G,segments,slots] index of the key in each slot; `shown`: whether it is one, and visible */
function gatheredCells(
  b: GraphBuilder,
  inputs: BodyInputs,
  source: Value,
  shown: Value,
  count: Dim,
  size: Dim,
  { kvParts, keySegments, headDim, valueDim }: Sizes,
): DenseCells {
  const cells = (x: Value, width: Value) =>
    b.reshape(b.gather(b.reshape(x, [-1, width]), source), [kvParts, keySegments, count, size, width]);
  const keys = cells(inputs.key, headDim);
  const bias = b.reshape(b.where(shown, 0, b.constant(HIDDEN, DataType.FLOAT)), [
    kvParts,
    keySegments,
    count,
    size,
    1,
  ]);
  return { size, count, keys, biasedKeys: b.concat([keys, bias], 4), values: cells(inputs.value, valueDim) };
}

/** Cells for contiguous runs short enough to be one cell each. */
function runCells(
  b: GraphBuilder,
  inputs: BodyInputs,
  run: number,
  sizes: Sizes,
  { keyClusters, segment }: MultipoleParameters,
): KeyCells {
  const { kvParts, keySegments } = sizes;
  const visible = visibleKeys(b, inputs, sizes);
  const count = keyClusters + 1;
  const slot = b.range(count * run);
  const offset = b.min(slot, segment - 1);
  const start = b.mul(b.reshape(b.range(keySegments), [-1, 1]), segment);
  const ofSlots = b.gather(b.squeeze(visible, 3), offset, 2);
  const shown = b.and(b.greater(ofSlots, 0), b.less(slot, segment));
  const cells = gatheredCells(
    b,
    inputs,
    keyIndex(b, inputs, b.add(offset, start), sizes),
    shown,
    count,
    run,
    sizes,
  );

  const clusters = b.mul(b.mul(kvParts, keySegments), keyClusters);
  const cluster = b.range(clusters);
  const bySlot = b.reshape(b.indicator(shown), [kvParts, keySegments, count, run]);
  const occupied = b.slice(b.reduceMax(bySlot, 3), 2, 0, keyClusters);
  const own = b.reshape(b.div(b.range(segment), run), [segment, 1]);
  return {
    firstCell: b.add(cluster, b.div(cluster, keyClusters)),
    cellCount: b.cast(b.reshape(occupied, [clusters]), DataType.INT64),
    assignment: assignmentOf(b, inputs, visible, own, sizes, keyClusters),
    ...access(b, cells, null, sizes),
  };
}

/** How cells that are all there are looked up. */
function access(
  b: GraphBuilder,
  cells: DenseCells,
  /** [B*G,segments,clusters,count] */
  membership: Value | null,
  { headDim, valueDim }: Sizes,
): Pick<KeyCells, 'size' | 'hiddenCell' | 'gather' | 'ofUnit'> {
  const { size, count } = cells;
  const width = b.add(headDim, 1);
  const flat = (tensor: Value, slot: Value) => b.reshape(tensor, [-1, b.mul(slot, size)]);
  const [keyTable, valueTable] = [flat(cells.biasedKeys, width), flat(cells.values, valueDim)];
  return {
    size,
    hiddenCell: b.sub(b.dims([count]), 1),
    gather: (inner, cell) => {
      const rows = inner.dim(cell, 0);
      const slots = inner.mul(inner.dim(cell, 1), size);
      return {
        biasedKeys: inner.reshape(inner.gather(keyTable, cell), [rows, slots, width]),
        values: inner.reshape(inner.gather(valueTable, cell), [rows, slots, valueDim]),
      };
    },
    ofUnit: (inner, unit) => ({
      biasedKeys: inner.gather(cells.biasedKeys, unit, 1),
      keys: inner.gather(cells.keys, unit, 1),
      values: inner.gather(cells.values, unit, 1),
      membership: membership && inner.gather(membership, unit, 1),
    }),
  };
}

/** [1,B*G,S] of clusters [B*G,units,unit,1] of one level. */
function assignmentOf(
  b: GraphBuilder,
  inputs: BodyInputs,
  visible: Value,
  cluster: Value,
  { kvParts }: Sizes,
  keyClusters: number,
): Value {
  const assigned = b.where(b.greater(visible, 0), cluster, keyClusters);
  return b.slice(b.reshape(assigned, [1, kvParts, -1]), 2, 0, b.dim(inputs.key, 1));
}

/** Where keys go in cells: a counting sort by cluster inside each unit. */
interface CellOrder {
  /** Cells of one unit, spare included. */
  readonly count: Value;
  /** [B*G,units,count*size]: index of the key in each slot, counted over all parts; -1 where there is none. */
  readonly content: Value;
  /** [B*G,units,1,clusters]: first cell in the unit, and cells, of each cluster. */
  readonly firstCell: Value;
  readonly cellCount: Value;
  /** [1,B*G,S] */
  readonly assignment: Value;
}

/** @param size slots of a cell */
function cellOrder(
  b: GraphBuilder,
  inputs: BodyInputs,
  size: number,
  sizes: Sizes,
  parameters: MultipoleParameters,
): CellOrder {
  const { kvParts, keySegments, segment } = sizes;
  const { keyClusters } = parameters;
  const visible = visibleKeys(b, inputs, sizes);
  const cluster = clustersOf(b, inputs, visible, sizes, parameters);
  // Whole cells that the keys can fill, whatever the sizes of the clusters, and the spare.
  const count = b.add(b.div(b.add(b.dims([segment]), keyClusters * (size - 1)), size), 1);
  const members = b.mul(b.indicator(b.equal(cluster, b.range(keyClusters))), visible);
  const cellCount = b.ceilDiv(b.cast(b.reduceSum(members, 2), DataType.INT64), size);
  const firstCell = b.sub(b.cumSum(cellCount, 3), cellCount);

  const firstSlot = b.cast(b.mul(firstCell, size), DataType.FLOAT);
  const slotOfMember = b.mul(members, b.sub(b.add(b.cumSum(members, 2), firstSlot), 1));
  const sortedSlot = b.cast(b.reduceSum(slotOfMember, -1), DataType.INT64);
  const slots = b.mul(count, size);
  const spare = b.sub(slots, size);
  const slot = b.squeeze(b.where(b.greater(visible, 0), sortedSlot, spare), 3);
  const position = b.reshape(b.range(b.mul(keySegments, segment)), [keySegments, segment]);
  const filled = b.scatterElements(
    b.full([kvParts, keySegments, slots], -1, DataType.INT64),
    slot,
    keyIndex(b, inputs, position, sizes),
  );
  const content = b.where(b.less(b.range(slots), spare), filled, -1);
  const assignment = assignmentOf(b, inputs, visible, cluster, sizes, keyClusters);
  return { count, content, firstCell, cellCount, assignment };
}

/** Cells of segments for any assignment. */
function sortedCells(
  b: GraphBuilder,
  inputs: BodyInputs,
  sizes: Sizes,
  parameters: MultipoleParameters,
): KeyCells {
  const { kvParts, keySegments } = sizes;
  const { keyClusters } = parameters;
  const size = cellSize(parameters.segment, keyClusters);
  const order = cellOrder(b, inputs, size, sizes, parameters);
  const { count, content } = order;
  const cells = gatheredCells(b, inputs, b.max(content, 0), b.greater(content, -1), count, size, sizes);
  const first = b.transpose(order.firstCell, [0, 1, 3, 2]);
  const last = b.add(first, b.transpose(order.cellCount, [0, 1, 3, 2]));
  const segments = b.mul(kvParts, keySegments);
  const segmentStart = b.reshape(b.mul(b.range(segments), count), [kvParts, keySegments, 1, 1]);
  const clusters = b.mul(segments, keyClusters);
  return {
    firstCell: b.reshape(b.add(order.firstCell, segmentStart), [clusters]),
    cellCount: b.reshape(order.cellCount, [clusters]),
    assignment: order.assignment,
    ...access(b, cells, cellsBetween(b, first, last, count), sizes),
  };
}

/** 1 for each of `count` cells that lies in [first, last): [...,1] to [...,count]. */
function cellsBetween(b: GraphBuilder, first: Value, last: Value, count: Value): Value {
  const cell = b.range(count);
  return b.indicator(b.and(b.lessOrEqual(first, cell), b.less(cell, last)));
}

/**
 * Cells of the units of all levels. They hold indices of keys, which are looked up where they are needed: keys
 * are in one unit of each level, and copies of them all would be what grows fastest with the length.
 */
function dyadicCells(
  b: GraphBuilder,
  inputs: BodyInputs,
  sizes: Sizes,
  units: DyadicUnits,
  parameters: MultipoleParameters,
): KeyCells {
  const { kvParts, headDim } = sizes;
  const { keyClusters } = parameters;
  const size = cellSize(parameters.segment, keyClusters);
  const none = (...dims: readonly Dim[]) => b.full(dims, 0, DataType.INT64);
  const start = [none(kvParts, 0), none(kvParts, 0), none(kvParts, 0), none(0), none(0)];
  const { state, stacked } = b.loop(units.levels, start, (inner, level, before) => {
    const reach = inner.gather(inner.ints(POWERS_OF_TWO), level);
    const keySegments = inner.gather(units.counts, level);
    const ofLevel = { ...sizes, keySegments, segment: inner.mul(reach, sizes.segment) };
    const order = cellOrder(inner, inputs, size, ofLevel, parameters);
    const [content, firstCell, cellCount, unitStart, unitCells] = before as [
      Value,
      Value,
      Value,
      Value,
      Value,
    ];
    const done = inner.div(inner.dim(content, 1), size);
    const starts = inner.add(inner.mul(inner.range(keySegments), order.count), done);
    const append = (to: Value, x: Value) => inner.concat([to, inner.reshape(x, [kvParts, -1])], 1);
    const inPart = inner.add(order.firstCell, inner.reshape(starts, [1, keySegments, 1, 1]));
    return {
      state: [
        append(content, order.content),
        append(firstCell, inPart),
        append(cellCount, order.cellCount),
        inner.concat([unitStart, starts], 0),
        inner.concat([unitCells, inner.expand(order.count, [keySegments])], 0),
      ],
      stacked: [inner.squeeze(order.assignment, 0)],
    };
  });
  const [content, firstCell, cellCount, unitStart, unitCells] = state as [Value, Value, Value, Value, Value];

  // Empty slots look up one key more than there are.
  const keyTotal = b.mul(kvParts, b.dim(inputs.key, 1));
  const bias = inputs.keyBias ?? b.full([kvParts, b.dim(inputs.key, 1)], 0, DataType.FLOAT);
  const biased = b.reshape(b.concat([inputs.key, b.unsqueeze(bias, 2)], 2), [keyTotal, -1]);
  const hidden = b.concat(
    [b.full([1, headDim], 0, DataType.FLOAT), b.full([1, 1], HIDDEN, DataType.FLOAT)],
    1,
  );
  const keyRows = b.concat([biased, hidden], 0);
  const valueRows = b.pad(b.reshape(inputs.value, [keyTotal, -1]), 2, 0, 0, 1);
  const cells = b.reshape(b.where(b.less(content, 0), keyTotal, content), [kvParts, -1, size]);
  const perPart = b.dim(cells, 1);
  const partStart = b.mul(b.reshape(b.range(kvParts), [-1, 1]), perPart);
  const cellTable = b.reshape(cells, [-1, size]);
  return {
    size,
    firstCell: b.reshape(b.add(firstCell, partStart), [-1]),
    cellCount: b.reshape(cellCount, [-1]),
    hiddenCell: b.sub(perPart, 1),
    assignment: stacked[0]!,
    gather: (inner, cell) => {
      const rows = inner.dim(cell, 0);
      const key = inner.reshape(inner.gather(cellTable, cell), [rows, -1]);
      return { biasedKeys: inner.gather(keyRows, key), values: inner.gather(valueRows, key) };
    },
    ofUnit: (inner, unit) => {
      const from = inner.gather(unitStart, unit);
      const count = inner.gather(unitCells, unit);
      const key = inner.unsqueeze(inner.slice(cells, 1, from, inner.add(from, count)), 1);
      const clusters = inner.add(inner.mul(unit, keyClusters), inner.range(keyClusters));
      const first = inner.sub(inner.gather(firstCell, clusters, 1), from);
      const last = inner.add(first, inner.gather(cellCount, clusters, 1));
      const biasedKeys = inner.gather(keyRows, key);
      return {
        biasedKeys,
        keys: inner.slice(biasedKeys, 4, 0, headDim),
        values: inner.gather(valueRows, key),
        membership: inner.unsqueeze(
          cellsBetween(inner, inner.unsqueeze(first, 2), inner.unsqueeze(last, 2), count),
          1,
        ),
      };
    },
  };
}

/** Half a cluster of average size, as a power of two between 4 and 16: small cells waste few slots. */
function cellSize(segment: number, keyClusters: number): number {
  if (segment === 0) return 16;
  return 2 ** Math.min(4, Math.max(2, Math.round(Math.log2(segment / keyClusters)) - 1));
}
