import { DataType } from '../../../rewriter/onnx/spec.js';
import type { GraphBuilder, Value } from '../../graph-builder.js';
import { HIDDEN, type SoftmaxPart, softmaxPart } from '../../softmax-part.js';
import type { KeyCells } from './key-cells.js';

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
 * For use inside a loop: the clusters that rows of a tile select, in the order of the first row that selects
 * them and then by column: a row's clusters have places that do not depend on later rows. The function takes
 * selected [tiles,tile,J], 1 where the row selects the cluster.
 */
export function unionLists(
  outer: GraphBuilder,
  clusters: Value,
  tile: number,
): (b: GraphBuilder, selected: Value) => ClusterLists {
  const row = outer.cast(outer.reshape(outer.range(tile), [tile, 1]), DataType.FLOAT);
  const nobody = outer.constant(tile, DataType.FLOAT);
  const total = outer.cast(clusters, DataType.FLOAT);
  const column = outer.cast(outer.range(clusters), DataType.FLOAT);
  return (b, selected) => {
    const first = b.squeeze(b.reduceMin(b.where(b.greater(selected, 0), row, nobody), 1), 1);
    const chosen = b.less(first, nobody);
    const width = b.max(b.maxOfAll(b.countTrue(chosen)), 1);
    const { indices } = b.topK(b.add(b.mul(first, total), column), width, { largest: false });
    return { columns: indices, valid: b.gatherElements(chosen, indices) };
  };
}

/**
 * For use inside a loop: exact attention of tiles of rows over the members of their listed clusters. The
 * function takes
 * - queries [tiles,tile,D+1]: scaled, with their column of ones;
 * - cluster [tiles,width]: number of each listed cluster, over all key heads and segments;
 * - selected [tiles,tile,J]: 1 where a row attends a cluster of its tile's list; null: every row does.
 */
export function clusterAttention(
  outer: GraphBuilder,
  cells: KeyCells,
): (
  b: GraphBuilder,
  queries: Value,
  cluster: Value,
  lists: ClusterLists,
  selected: Value | null,
) => SoftmaxPart {
  const step = outer.ceilDiv(outer.ints([KEY_STEP]), cells.size);
  const visible = outer.constant(0, DataType.FLOAT);

  return (b, queries, cluster, lists, selected) => {
    const cellCount = b.where(lists.valid, b.gather(cells.cellCount, cluster), 0);
    const end = b.cumSum(cellCount, 1);
    const total = b.reduceMax(end, 1);
    const places = b.mul(b.ceilDiv(b.max(b.maxOfAll(total), 1), step), step);

    // Which entry of the list each place of the gathered cells belongs to: the one after all that end before.
    const place = b.range(places);
    const passed = b.countTrue(b.lessOrEqual(b.unsqueeze(end, 1), b.unsqueeze(place, 1)));
    const entry = b.min(passed, b.sub(b.dim(cluster, 1), 1));
    const shift = b.sub(b.gather(cells.firstCell, cluster), b.sub(end, cellCount));
    const ownCell = b.add(b.gatherElements(shift, entry), place);
    const cell = b.where(b.less(place, total), ownCell, cells.hiddenCell);
    const { biasedKeys, values } = cells.gather(b, cell);
    const products = b.matMul(queries, b.transpose(biasedKeys, [0, 2, 1]));
    if (selected === null) return softmaxPart(b, products, values);

    const [tiles, tile] = [b.dim(queries, 0), b.dim(queries, 1)];
    const slots = b.mul(places, cells.size);
    const columns = b.unsqueeze(b.gatherElements(lists.columns, entry), 1);
    const ofPlace = b.gatherElements(selected, b.expand(columns, [tiles, tile, places]));
    const bias = b.unsqueeze(b.where(b.greater(ofPlace, 0), visible, HIDDEN), 3);
    const masked = b.add(b.reshape(products, [tiles, tile, places, cells.size]), bias);
    return softmaxPart(b, b.reshape(masked, [tiles, tile, slots]), values);
  };
}
