import { DataType } from '../../../rewriter/onnx/spec.js';
import type { Dim, GraphBuilder, Value } from '../../graph-builder.js';
import { hiddenCell, type KeyCells } from './key-cells.js';
import { type SoftmaxPart, softmaxPart } from './near-field.js';
import { HIDDEN, type Sizes } from './sizes.js';

/** Clusters to attend exactly, one list per tile: [B*H,tiles,width]. */
export interface ClusterLists {
  /** Cluster numbers over all segments. */
  readonly clusters: Value;
  /** False for the entries that fill a list up. */
  readonly valid: Value;
}

/** Gathered lists are filled up to a multiple of this many keys, the step of SIMD reductions in ONNX Runtime. */
const KEY_STEP = 64;

/**
 * The clusters that rows of a tile select, in the order of the first row that selects them and then by
 * number: a row's clusters have places that do not depend on later rows.
 * @param selected [B*H,tiles,rows,J]: 1 where the row selects the cluster
 */
export function unionLists(b: GraphBuilder, selected: Value, tile: number): ClusterLists {
  const clusters = b.dim(selected, 3);
  const nobody = tile;
  const row = b.cast(b.reshape(b.range(tile), [tile, 1]), DataType.FLOAT);
  const first = b.reduceMin(b.where(b.greater(selected, 0), row, nobody), 2);
  const chosen = b.less(first, nobody);
  const place = b.add(
    b.mul(first, b.cast(clusters, DataType.FLOAT)),
    b.cast(b.range(clusters), DataType.FLOAT),
  );
  const width = b.max(b.maxOfAll(b.cast(b.reduceSum(b.indicator(chosen), -1), DataType.INT64)), 1);
  const listed = b.topK(place, width, false);
  const squeezed = (x: Value) => b.reshape(x, [b.dim(selected, 0), b.dim(selected, 1), width]);
  return {
    clusters: squeezed(listed.indices),
    valid: squeezed(b.gatherElements(chosen, listed.indices)),
  };
}

/**
 * Exact attention of tiles of rows over the members of their listed clusters.
 * @param queries [B*H,tiles,tile,D+1]: scaled queries with their column of ones
 * @param kvCluster [B*H,1,1]: number of the first cluster of the part's key head
 * @param selected [B*H,tiles,tile,J]: 1 where a row attends a cluster of its tile's list; null: every row does
 */
export function retrievedField(
  b: GraphBuilder,
  queries: Value,
  lists: ClusterLists,
  kvCluster: Value,
  selected: Value | null,
  tile: Dim,
  cells: KeyCells,
  sizes: Sizes,
): SoftmaxPart {
  const { parts, headDim, valueDim } = sizes;
  const tiles = b.dim(queries, 1);
  const width = b.dim(lists.clusters, 2);
  const cluster = b.add(lists.clusters, kvCluster);
  const cellCount = b.where(lists.valid, b.gather(cells.cellCount, cluster), 0);
  const end = b.cumSum(cellCount, 2);
  const total = b.slice(end, 2, b.sub(width, 1), width);
  const step = b.div(b.sub(b.add(b.dims([cells.size]), KEY_STEP), 1), cells.size);
  const places = b.mul(b.ceilDiv(b.max(b.maxOfAll(total), 1), step), step);

  // Which entry of the list each place of the gathered cells belongs to.
  const place = b.range(places);
  const passed = b.lessOrEqual(b.unsqueeze(end, 2), b.unsqueeze(place, 1));
  const entry = b.min(
    b.reshape(b.reduceSum(b.cast(passed, DataType.INT64), -1), [parts, tiles, places]),
    b.sub(width, 1),
  );
  const shift = b.sub(b.gather(cells.firstCell, cluster), b.sub(end, cellCount));
  const cell = b.where(
    b.less(place, total),
    b.add(b.gatherElements(shift, entry), place),
    hiddenCell(b, cells),
  );
  const members = (tensor: Value, size: Value) => {
    const rows = b.reshape(tensor, [-1, b.mul(size, cells.size)]);
    return b.reshape(b.gather(rows, cell), [parts, tiles, b.mul(places, cells.size), size]);
  };
  const keys = members(cells.biasedKeys, b.add(headDim, 1));
  const products = b.matMul(queries, b.transpose(keys, [0, 1, 3, 2]));
  const values = members(cells.values, valueDim);
  if (selected === null) return softmaxPart(b, products, values);

  const ofPlace = b.expand(b.unsqueeze(b.gatherElements(lists.clusters, entry), 2), [
    parts,
    tiles,
    tile,
    places,
  ]);
  const bias = b.where(
    b.greater(b.gatherElements(selected, ofPlace), 0),
    0,
    b.constant(HIDDEN, DataType.FLOAT),
  );
  const perCell = b.reshape(products, [parts, tiles, tile, places, cells.size]);
  const logits = b.reshape(b.add(perCell, b.unsqueeze(bias, 4)), [
    parts,
    tiles,
    tile,
    b.mul(places, cells.size),
  ]);
  return softmaxPart(b, logits, values);
}
