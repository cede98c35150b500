import type { GraphBuilder, Value } from '../../graph-builder.js';
import type { MultipoleParameters } from '../parameters.js';
import { type KeyCells, segmentCells } from './key-cells.js';
import { scaledQueries } from './near-field.js';
import { HIDDEN, type Sizes, VISIBLE_ABOVE } from './sizes.js';

/**
 * Stage 1: the summaries of every key cluster for every query cluster, as tables to gather from. Row
 * (part * queryClusters + i) * segments + t holds those of the clusters of segment t.
 */
export interface Summaries {
  /** [rows, keyClusters * (D+1)]: k_ij, and w_ij - scale c_i.k_ij, which meets the query's column of ones. */
  readonly keys: Value;
  /** [rows, keyClusters * E]: v_ij */
  readonly values: Value;
}

/**
 * Summaries of the first `segments` segments, `block` at a time, which bounds the memory for cells.
 * @param centroids [B*H,queryClusters,D]
 * @param segments a multiple of `block`
 */
export function summaries(
  b: GraphBuilder,
  cells: KeyCells,
  centroids: Value,
  segments: Value,
  block: Value,
  sizes: Sizes,
  parameters: MultipoleParameters,
): Summaries {
  const { queryClusters, keyClusters } = parameters;
  const { parts, kvParts, share, headDim, valueDim } = sizes;
  const queries = b.reshape(scaledQueries(b, centroids, sizes.scale, [parts, b.ints([queryClusters])]), [
    kvParts,
    share,
    1,
    1,
    queryClusters,
    b.add(headDim, 1),
  ]);
  const { stacked } = b.loop(b.div(segments, block), [], (inner, iteration) => {
    const from = inner.mul(iteration, block);
    const to = inner.add(from, block);
    const ofBlock = (tensor: Value) => inner.unsqueeze(segmentCells(inner, tensor, from, to), 1);
    const tensors = {
      biasedKeys: ofBlock(cells.biasedKeys),
      keys: ofBlock(cells.keys),
      values: ofBlock(cells.values),
    };
    const part = cells.membership
      ? clustersOfCells(inner, queries, tensors, ofBlock(cells.membership), block, sizes, parameters)
      : clustersAsCells(inner, queries, tensors, parameters);
    return { state: [], stacked: [part.logits, part.keys, part.values] };
  });
  // [blocks, B*G, H/G, block, C, queryClusters, ...] to one row per query cluster and segment.
  const table = (tensor: Value, width: Value) =>
    b.reshape(b.transpose(tensor, [1, 2, 5, 0, 3, 4, 6]), [
      b.mul(b.mul(parts, queryClusters), segments),
      keyClusters,
      width,
    ]);
  const keys = b.concat([table(stacked[1]!, headDim), table(stacked[0]!, b.ints([1]))], 2);
  return {
    keys: b.reshape(keys, [-1, b.mul(b.add(headDim, 1), keyClusters)]),
    values: b.reshape(table(stacked[2]!, valueDim), [-1, b.mul(valueDim, keyClusters)]),
  };
}

/** Cells of some segments, with an axis of size 1 for the query heads of a key head after the first. */
interface BlockCells {
  readonly biasedKeys: Value;
  readonly keys: Value;
  readonly values: Value;
}

/** Per cluster and query cluster, [B*G,H/G,block,C,queryClusters,...]. */
interface BlockSummaries {
  /** w_ij - scale c_i.k_ij, or HIDDEN for an empty cluster. */
  readonly logits: Value;
  readonly keys: Value;
  readonly values: Value;
}

const lastTwoSwapped = [0, 1, 2, 3, 5, 4];

/** log of the sums where they are positive: max + log(sum). */
function logWeight(b: GraphBuilder, max: Value, sum: Value): { weight: Value; inverse: Value } {
  const positive = b.greater(sum, 0);
  const safe = b.where(positive, sum, 1);
  return {
    weight: b.where(positive, b.add(max, b.log(safe)), HIDDEN),
    inverse: b.div(1, safe),
  };
}

/** Every cluster is one cell. */
function clustersAsCells(
  b: GraphBuilder,
  queries: Value,
  cells: BlockCells,
  { keyClusters }: MultipoleParameters,
): BlockSummaries {
  const withoutSpare = (tensor: Value) => b.slice(tensor, 3, 0, keyClusters);
  const products = b.matMul(queries, b.transpose(withoutSpare(cells.biasedKeys), lastTwoSwapped));
  const max = b.reduceMax(products, -1);
  // The weights of an empty cluster stay finite; its logit says that it is empty.
  const tilts = b.exp(b.sub(products, max));
  const sum = b.reduceSum(tilts, -1);
  const shares = b.div(tilts, sum);
  const empty = b.less(max, VISIBLE_ABOVE);
  const entropy = b.sub(b.add(max, b.log(sum)), b.reduceSum(b.mul(shares, products), -1));
  return {
    logits: b.where(empty, HIDDEN, entropy),
    keys: b.matMul(shares, withoutSpare(cells.keys)),
    values: b.matMul(shares, withoutSpare(cells.values)),
  };
}

/**
 * A cluster is the sum of its cells: the largest logit and the sum of weights are brought together over its
 * cells and back to them, so that the products over cells are normalised and only need adding up.
 */
function clustersOfCells(
  b: GraphBuilder,
  queries: Value,
  cells: BlockCells,
  membership: Value,
  block: Value,
  { kvParts, share, headDim, valueDim }: Sizes,
  { keyClusters, queryClusters }: MultipoleParameters,
): BlockSummaries {
  const toCells = b.transpose(membership, [0, 1, 2, 4, 3]);
  const products = b.matMul(queries, b.transpose(cells.biasedKeys, lastTwoSwapped));
  const cellMax = b.transpose(b.reduceMax(products, -1), [0, 1, 2, 5, 3, 4]);
  const owns = b.greater(b.unsqueeze(membership, 5), 0);
  const max = b.reshape(b.reduceMax(b.where(owns, cellMax, HIDDEN), 4), [
    kvParts,
    share,
    block,
    keyClusters,
    queryClusters,
  ]);
  const ofCell = (perCluster: Value) => b.unsqueeze(b.matMul(toCells, perCluster), 5);
  const ofCluster = (perCellSums: Value, width: Value) =>
    b.reshape(
      b.matMul(membership, b.reshape(perCellSums, [kvParts, share, block, -1, b.mul(width, queryClusters)])),
      [kvParts, share, block, keyClusters, queryClusters, width],
    );
  const one = b.ints([1]);
  const tilts = b.exp(b.sub(products, ofCell(max)));
  const sum = ofCluster(b.reduceSum(tilts, -1), one);
  const { weight, inverse } = logWeight(b, b.unsqueeze(max, 5), sum);
  const shares = b.mul(
    tilts,
    ofCell(b.reshape(inverse, [kvParts, share, block, keyClusters, queryClusters])),
  );
  const mean = ofCluster(b.reduceSum(b.mul(shares, products), -1), one);
  return {
    logits: b.where(b.less(weight, VISIBLE_ABOVE), HIDDEN, b.sub(weight, mean)),
    keys: ofCluster(b.matMul(shares, cells.keys), headDim),
    values: ofCluster(b.matMul(shares, cells.values), valueDim),
  };
}
