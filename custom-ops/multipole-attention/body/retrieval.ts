import { DataType } from '../../../rewriter/onnx/spec.js';
import type { GraphBuilder, Value } from '../../graph-builder.js';
import { hiddenCell, type KeyCells } from './key-cells.js';
import { type SoftmaxPart, softmaxPart } from './near-field.js';
import { HIDDEN, type Sizes } from './sizes.js';

/** Clusters to attend exactly, one list per tile or pool: [...,tiles,width]. */
export interface ClusterLists {
  /** Columns of the clusters among those of the chunk. */
  readonly columns: Value;
  /** False for the entries that fill a list up. */
  readonly valid: Value;
}

/** Gathered lists are filled up to a multiple of this many keys, the step of SIMD reductions in ONNX Runtime. */
const KEY_STEP = 64;

/**
 * The clusters that rows of a tile select, in the order of the first row that selects them and then by
 * column: a row's clusters have places that do not depend on later rows.
 * @param selected [tiles,tile,J]: 1 where the row selects the cluster
 */
export function unionLists(b: GraphBuilder, selected: Value, tile: number): ClusterLists {
  const clusters = b.dim(selected, 2);
  const nobody = tile;
  const row = b.cast(b.reshape(b.range(tile), [tile, 1]), DataType.FLOAT);
  const first = b.squeeze(b.reduceMin(b.where(b.greater(selected, 0), row, nobody), 1), 1);
  const chosen = b.less(first, nobody);
  const number = b.cast(b.range(clusters), DataType.FLOAT);
  const place = b.add(b.mul(first, b.cast(clusters, DataType.FLOAT)), number);
  const width = b.max(b.maxOfAll(b.cast(b.reduceSum(b.indicator(chosen), -1), DataType.INT64)), 1);
  const { indices } = b.topK(place, width, { largest: false });
  return { columns: indices, valid: b.gatherElements(chosen, indices) };
}

/**
 * Exact attention of tiles of rows over the members of their listed clusters.
 * @param queries [tiles,tile,D+1]: scaled queries with their column of ones
 * @param cluster [tiles,width]: number of each listed cluster, over all key heads and segments
 * @param lists [tiles,width]
 * @param selected [tiles,tile,J]: 1 where a row attends a cluster of its tile's list; null: every row does
 */
export function retrievedField(
  b: GraphBuilder,
  queries: Value,
  cluster: Value,
  lists: ClusterLists,
  selected: Value | null,
  tile: number,
  cells: KeyCells,
  { headDim, valueDim }: Sizes,
): SoftmaxPart {
  const tiles = b.dim(queries, 0);
  const width = b.dim(cluster, 1);
  const cellCount = b.where(lists.valid, b.gather(cells.cellCount, cluster), 0);
  const end = b.cumSum(cellCount, 1);
  const total = b.slice(end, 1, b.sub(width, 1), width);
  const step = b.ceilDiv(b.ints([KEY_STEP]), cells.size);
  const places = b.mul(b.ceilDiv(b.max(b.maxOfAll(total), 1), step), step);

  // Which entry of the list each place of the gathered cells belongs to.
  const place = b.range(places);
  const passed = b.lessOrEqual(b.unsqueeze(end, 1), b.unsqueeze(place, 1));
  const entry = b.min(b.squeeze(b.reduceSum(b.cast(passed, DataType.INT64), -1), 2), b.sub(width, 1));
  const shift = b.sub(b.gather(cells.firstCell, cluster), b.sub(end, cellCount));
  const ownCell = b.add(b.gatherElements(shift, entry), place);
  const cell = b.where(b.less(place, total), ownCell, hiddenCell(b, cells));
  const slots = b.mul(places, cells.size);
  const members = (tensor: Value, size: Value) =>
    b.reshape(b.gather(b.reshape(tensor, [-1, b.mul(size, cells.size)]), cell), [tiles, slots, size]);
  const keys = members(cells.biasedKeys, b.add(headDim, 1));
  const products = b.matMul(queries, b.transpose(keys, [0, 2, 1]));
  const values = members(cells.values, valueDim);
  if (selected === null) return softmaxPart(b, products, values);

  const ofPlace = b.expand(b.unsqueeze(b.gatherElements(lists.columns, entry), 1), [tiles, tile, places]);
  const bias = b.where(
    b.greater(b.gatherElements(selected, ofPlace), 0),
    b.constant(0, DataType.FLOAT),
    HIDDEN,
  );
  const masked = b.add(b.reshape(products, [tiles, tile, places, cells.size]), b.unsqueeze(bias, 3));
  return softmaxPart(b, b.reshape(masked, [tiles, tile, slots]), values);
}
