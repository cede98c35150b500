import { DataType } from '../../../rewriter/onnx/spec.js';
import type { Dim, GraphBuilder, Value } from '../../graph-builder.js';
import type { MultipoleParameters } from '../parameters.js';
import { evenVisibleSeeds, kMeans, membership } from './k-means.js';
import { type BodyInputs, HIDDEN, type Sizes, times } from './sizes.js';

/**
 * Keys sorted by cluster inside their segment, each cluster filled up to whole cells of `size` slots. Cells
 * make ragged clusters into blocks of one shape: for summaries, and for gathering retrieved clusters. The
 * last cell of each segment (the spare) belongs to no cluster, and all its slots are hidden.
 */
export interface KeyCells {
  readonly size: Dim;
  /** Cells of one segment, spare included. */
  readonly count: Dim;
  /** [B*G,segments,count,size,D] and E, without and with a last column that holds 0 or HIDDEN. */
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
  /** [B*G,segments,segment]: cluster of each key, `key_clusters` for a hidden one. */
  readonly assignment: Value;
}

/** Longest contiguous run that is a cell of its own; longer ones are cut into cells. */
const LONGEST_RUN = 64;

interface SegmentedKeys {
  /** [B*G,segments,segment,D], E and 1. */
  readonly keys: Value;
  readonly values: Value;
  readonly visible: Value;
}

export function keyCells(
  b: GraphBuilder,
  inputs: BodyInputs,
  sizes: Sizes,
  parameters: MultipoleParameters,
): KeyCells {
  const { kvParts, keySegments, segment } = sizes;
  const missing = b.sub(b.mul(keySegments, segment), b.dim(inputs.key, 1));
  const keys = b.pad(inputs.key, 3, 1, 0, missing);
  const values = b.pad(inputs.value, 3, 1, 0, missing);
  const visible = b.indicator(b.equal(b.pad(inputs.keyBias, 2, 1, 0, missing, HIDDEN), 0));
  const segmented = {
    keys: b.reshape(keys, [kvParts, keySegments, segment, sizes.headDim]),
    values: b.reshape(values, [kvParts, keySegments, segment, sizes.valueDim]),
    visible: b.reshape(visible, [kvParts, keySegments, segment, 1]),
  };
  if (parameters.keyGrouping === 'contiguous') {
    if (parameters.segment > 0) {
      const run = Math.ceil(parameters.segment / parameters.keyClusters);
      if (run <= LONGEST_RUN) return runCells(b, segmented, run, sizes, parameters);
    }
    const run = b.ceilDiv(b.dims([segment]), parameters.keyClusters);
    const cluster = b.reshape(b.div(b.range(b.dims([segment])), run), [1, 1, segment, 1]);
    return sortedCells(b, segmented, cluster, sizes, parameters);
  }
  return sortedCells(b, segmented, kMeansClusters(b, segmented, sizes, parameters), sizes, parameters);
}

function kMeansClusters(
  b: GraphBuilder,
  { keys, visible }: SegmentedKeys,
  { kvParts, keySegments, segment, headDim }: Sizes,
  { keyClusters, iterations }: MultipoleParameters,
): Value {
  const parts = b.mul(kvParts, keySegments);
  const points = b.reshape(keys, [parts, segment, headDim]);
  const weights = b.reshape(visible, [parts, segment, 1]);
  const seeds = evenVisibleSeeds(b, points, weights, segment, keyClusters);
  const { assignment } = kMeans(b, points, weights, seeds, keyClusters, iterations);
  return b.reshape(assignment, [kvParts, keySegments, segment, 1]);
}

/** Cells for contiguous runs short enough to be one cell each: nothing moves. */
function runCells(
  b: GraphBuilder,
  { keys, values, visible }: SegmentedKeys,
  run: number,
  { kvParts, keySegments, segment, headDim, valueDim }: Sizes,
  { keyClusters, segment: length }: MultipoleParameters,
): KeyCells {
  const count = keyClusters + 1;
  const cells = (x: Value, size: Dim) =>
    b.reshape(b.pad(x, 4, 2, 0, count * run - length), [kvParts, keySegments, count, run, size]);
  const plain = cells(keys, headDim);
  const shown = cells(visible, 1);
  const clusters = b.mul(b.mul(kvParts, keySegments), keyClusters);
  const cluster = b.range(clusters);
  const occupied = b.reduceMax(b.slice(shown, 2, 0, keyClusters), 3, 4);
  const own = b.reshape(b.div(b.range(length), run), [1, 1, length, 1]);
  return {
    size: run,
    count,
    keys: plain,
    biasedKeys: b.concat([plain, b.where(b.greater(shown, 0), 0, b.constant(HIDDEN, DataType.FLOAT))], 4),
    values: cells(values, valueDim),
    membership: null,
    firstCell: b.add(cluster, b.div(cluster, keyClusters)),
    cellCount: b.cast(b.reshape(occupied, [clusters]), DataType.INT64),
    assignment: b.reshape(b.where(b.greater(visible, 0), own, keyClusters), [kvParts, keySegments, segment]),
  };
}

/** Cells for any assignment [*,*,segment,1]: a counting sort inside each segment. */
function sortedCells(
  b: GraphBuilder,
  { keys, values, visible }: SegmentedKeys,
  cluster: Value,
  { kvParts, keySegments, segment, headDim, valueDim }: Sizes,
  { keyClusters, segment: length }: MultipoleParameters,
): KeyCells {
  const size = cellSize(length, keyClusters);
  // Whole cells that the keys can fill, whatever the sizes of the clusters, and the spare.
  const count = b.add(b.div(b.add(b.dims([segment]), keyClusters * (size - 1)), size), 1);
  const members = b.mul(membership(b, cluster, keyClusters), visible);
  const ranks = b.cumSum(members, 2);
  const cellCount = b.ceilDiv(b.cast(b.reduceSum(members, 2), DataType.INT64), size);
  const lastCell = b.cumSum(cellCount, 3);
  const firstCell = b.sub(lastCell, cellCount);

  const firstSlot = b.cast(b.mul(firstCell, size), DataType.FLOAT);
  const slotOfMember = b.mul(members, b.sub(b.add(ranks, firstSlot), 1));
  const sortedSlot = b.cast(b.reduceSum(slotOfMember, -1), DataType.INT64);
  const spare = b.mul(b.sub(count, 1), size);
  const slot = b.where(b.greater(visible, 0), sortedSlot, spare);

  const slots = b.mul(count, size);
  const position = b.reshape(b.range(b.mul(b.mul(kvParts, keySegments), segment)), [
    kvParts,
    keySegments,
    segment,
  ]);
  const content = b.scatterElements(
    b.full([kvParts, keySegments, slots], -1, DataType.INT64),
    b.reshape(slot, [kvParts, keySegments, segment]),
    position,
  );
  const shown = b.and(b.greater(content, -1), b.less(b.range(slots), spare));
  const source = b.max(content, 0);
  const cells = (x: Value, width: Value) =>
    b.reshape(b.gather(b.reshape(x, [-1, width]), source), [kvParts, keySegments, count, size, width]);
  const plain = cells(keys, headDim);
  const bias = b.where(shown, 0, b.constant(HIDDEN, DataType.FLOAT));

  const cell = b.range(count);
  const owns = b.and(
    b.lessOrEqual(b.transpose(firstCell, [0, 1, 3, 2]), cell),
    b.less(cell, b.transpose(lastCell, [0, 1, 3, 2])),
  );
  const segmentStart = b.reshape(b.mul(b.range(b.mul(kvParts, keySegments)), count), [
    kvParts,
    keySegments,
    1,
    1,
  ]);
  const flat = [b.mul(b.mul(kvParts, keySegments), keyClusters)];
  return {
    size,
    count,
    keys: plain,
    biasedKeys: b.concat([plain, b.reshape(bias, [kvParts, keySegments, count, size, 1])], 4),
    values: cells(values, valueDim),
    membership: b.indicator(owns),
    firstCell: b.reshape(b.add(firstCell, segmentStart), flat),
    cellCount: b.reshape(cellCount, flat),
    assignment: b.reshape(b.where(b.greater(visible, 0), cluster, keyClusters), [
      kvParts,
      keySegments,
      segment,
    ]),
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

/** Cells of segments [from, to) of one of the tensors of {@link KeyCells}. */
export function segmentCells(b: GraphBuilder, tensor: Value, from: Dim, to: Dim): Value {
  return b.slice(tensor, 1, from, to);
}

/** Clusters of all segments per key head. */
export function clusterTotal(b: GraphBuilder, sizes: Sizes, parameters: MultipoleParameters): Dim {
  return times(b, sizes.keySegments, parameters.keyClusters);
}
