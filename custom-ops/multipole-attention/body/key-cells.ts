import { DataType } from '../../../rewriter/onnx/spec.js';
import type { Dim, GraphBuilder, Value } from '../../graph-builder.js';
import { HIDDEN } from '../../softmax-part.js';
import type { MultipoleParameters } from '../parameters.js';
import { evenVisibleSeeds, kMeans } from './k-means.js';
import type { BodyInputs, Sizes } from './sizes.js';

/**
 * Keys sorted by cluster inside their segment, each cluster filled up to whole cells of `size` slots. Cells
 * make ragged clusters into blocks of one shape: for summaries, and for gathering retrieved clusters. The
 * last cell of each segment (the spare) belongs to no cluster, and all its slots are hidden.
 */
export interface KeyCells {
  readonly size: Dim;
  /** Cells of one segment, spare included. */
  readonly count: Dim;
  /** [B*G,segments,count,size,D] and E, and the keys with a last column that holds 0 or HIDDEN. */
  readonly keys: Value;
  readonly biasedKeys: Value;
  readonly values: Value;
  /**
   * [B*G,segments,clusters,count]: 1 where the cell belongs to the cluster; null where every cluster is one
   * cell, in order.
   */
  readonly membership: Value | null;
  /** [B*G * segments * clusters]: first cell (over all segments) and number of cells of each cluster. */
  readonly firstCell: Value;
  readonly cellCount: Value;
  /** [B*G,segments,segment,1]: cluster of each key, `keyClusters` for a hidden or missing one. */
  readonly assignment: Value;
}

/** Longest contiguous run that is a cell of its own; longer ones are cut into cells. */
const LONGEST_RUN = 64;

export function keyCells(
  b: GraphBuilder,
  inputs: BodyInputs,
  sizes: Sizes,
  parameters: MultipoleParameters,
): KeyCells {
  const { segment } = sizes;
  const { keyClusters, keyGrouping } = parameters;
  const visible = visibleKeys(b, inputs, sizes);
  if (keyGrouping === 'contiguous') {
    const run = Math.ceil(parameters.segment / keyClusters);
    if (parameters.segment > 0 && run <= LONGEST_RUN) {
      return runCells(b, inputs, visible, run, sizes, parameters);
    }
    const length = b.ceilDiv(b.dims([segment]), keyClusters);
    const cluster = b.reshape(b.div(b.range(b.dims([segment])), length), [1, 1, segment, 1]);
    return sortedCells(b, inputs, visible, cluster, sizes, parameters);
  }
  return sortedCells(
    b,
    inputs,
    visible,
    kMeansClusters(b, inputs, visible, sizes, parameters),
    sizes,
    parameters,
  );
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

/** @param source [B*G,segments,slots] index of the key in each slot; `shown`: whether it is one, and visible */
function gatheredCells(
  b: GraphBuilder,
  inputs: BodyInputs,
  source: Value,
  shown: Value,
  count: Dim,
  size: Dim,
  { kvParts, keySegments, headDim, valueDim }: Sizes,
): Pick<KeyCells, 'size' | 'count' | 'keys' | 'biasedKeys' | 'values'> {
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
  visible: Value,
  run: number,
  sizes: Sizes,
  { keyClusters, segment }: MultipoleParameters,
): KeyCells {
  const { kvParts, keySegments } = sizes;
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
    ...cells,
    membership: null,
    firstCell: b.add(cluster, b.div(cluster, keyClusters)),
    cellCount: b.cast(b.reshape(occupied, [clusters]), DataType.INT64),
    assignment: b.where(b.greater(visible, 0), own, keyClusters),
  };
}

/** Cells for any assignment [...,segment,1]: a counting sort inside each segment. */
function sortedCells(
  b: GraphBuilder,
  inputs: BodyInputs,
  visible: Value,
  cluster: Value,
  sizes: Sizes,
  { keyClusters, segment: length }: MultipoleParameters,
): KeyCells {
  const { kvParts, keySegments, segment } = sizes;
  const size = cellSize(length, keyClusters);
  // Whole cells that the keys can fill, whatever the sizes of the clusters, and the spare.
  const count = b.add(b.div(b.add(b.dims([segment]), keyClusters * (size - 1)), size), 1);
  const members = b.mul(b.indicator(b.equal(cluster, b.range(keyClusters))), visible);
  const cellCount = b.ceilDiv(b.cast(b.reduceSum(members, 2), DataType.INT64), size);
  const lastCell = b.cumSum(cellCount, 3);
  const firstCell = b.sub(lastCell, cellCount);

  const firstSlot = b.cast(b.mul(firstCell, size), DataType.FLOAT);
  const slotOfMember = b.mul(members, b.sub(b.add(b.cumSum(members, 2), firstSlot), 1));
  const sortedSlot = b.cast(b.reduceSum(slotOfMember, -1), DataType.INT64);
  const slots = b.mul(count, size);
  const spare = b.sub(slots, size);
  const slot = b.squeeze(b.where(b.greater(visible, 0), sortedSlot, spare), 3);
  const position = b.reshape(b.range(b.mul(keySegments, segment)), [keySegments, segment]);
  const content = b.scatterElements(
    b.full([kvParts, keySegments, slots], -1, DataType.INT64),
    slot,
    keyIndex(b, inputs, position, sizes),
  );
  const shown = b.and(b.greater(content, -1), b.less(b.range(slots), spare));
  const cells = gatheredCells(b, inputs, b.max(content, 0), shown, count, size, sizes);

  const cell = b.range(count);
  const first = b.transpose(firstCell, [0, 1, 3, 2]);
  const last = b.transpose(lastCell, [0, 1, 3, 2]);
  const segments = b.mul(kvParts, keySegments);
  const segmentStart = b.reshape(b.mul(b.range(segments), count), [kvParts, keySegments, 1, 1]);
  const clusters = b.mul(segments, keyClusters);
  return {
    ...cells,
    membership: b.indicator(b.and(b.lessOrEqual(first, cell), b.less(cell, last))),
    firstCell: b.reshape(b.add(firstCell, segmentStart), [clusters]),
    cellCount: b.reshape(cellCount, [clusters]),
    assignment: b.where(b.greater(visible, 0), cluster, keyClusters),
  };
}

/** Half a cluster of average size, as a power of two between 4 and 16: small cells waste few slots. */
function cellSize(segment: number, keyClusters: number): number {
  if (segment === 0) return 16;
  return 2 ** Math.min(4, Math.max(2, Math.round(Math.log2(segment / keyClusters)) - 1));
}

/** Index of a spare cell, all of whose slots are hidden. */
export function hiddenCell(b: GraphBuilder, cells: KeyCells): Value {
  return b.sub(b.dims([cells.count]), 1);
}
