import type { GraphBuilder, Value } from '../../graph-builder.js';
import { HIDDEN, VISIBLE_ABOVE } from '../../softmax-part.js';
import type { MultipoleParameters } from '../parameters.js';
import type { KeyCells, UnitCells } from './key-cells.js';
import { withOnes } from './near-field.js';
import type { Sizes } from './sizes.js';

/**
 * Stage 1: the summaries of every key cluster for every query cluster, as tables to gather from. Row
 * (u * B*H + part) * queryClusters + i holds those of the clusters of the u-th of the units summarized.
 */
export interface Summaries {
  /** [rows, keyClusters * (D+1)]: k_ij, and w_ij - scale c_i.k_ij, which meets the query's column of ones. */
  readonly keys: Value;
  /** [rows, keyClusters * E]: v_ij */
  readonly values: Value;
  /** [rows, keyClusters]: u_ij; null where clusters are not chosen by expected error. */
  readonly spreads: Value | null;
}

/**
 * Summaries of a list of units, one at a time: its cells stay in the cache.
 * @param centroids [B*H,queryClusters,D]
 * @param shares [B*H,1,D]: what dimensions weigh in spreads; null for none
 */
export function summaries(
  b: GraphBuilder,
  cells: KeyCells,
  centroids: Value,
  shares: Value | null,
  units: Value,
  sizes: Sizes,
  parameters: MultipoleParameters,
): Summaries {
  const { queryClusters, keyClusters } = parameters;
  const { parts, kvParts, share, headDim, valueDim } = sizes;
  const queries = b.reshape(withOnes(b, b.mul(centroids, sizes.scale), [parts, queryClusters]), [
    kvParts,
    share,
    1,
    queryClusters,
    b.add(headDim, 1),
  ]);
  const metric = shares && b.reshape(shares, [kvParts, share, 1, 1, headDim]);
  const { stacked } = b.loop(b.dim(units, 0), [], (inner, iteration) => {
    const unit = cells.ofUnit(inner, inner.gather(units, iteration));
    const part = unit.membership
      ? clustersOfCells(inner, queries, unit, unit.membership, metric, sizes, parameters)
      : clustersAsCells(inner, queries, unit, metric, parameters);
    const byQuery = (tensor: Value) => inner.transpose(tensor, [0, 1, 3, 2, 4]);
    return {
      state: [],
      stacked: [
        inner.concat([byQuery(part.keys), byQuery(part.logits)], 4),
        byQuery(part.values),
        ...(part.spreads ? [byQuery(part.spreads)] : []),
      ],
    };
  });
  return {
    keys: b.reshape(stacked[0]!, [-1, b.mul(b.add(headDim, 1), keyClusters)]),
    values: b.reshape(stacked[1]!, [-1, b.mul(valueDim, keyClusters)]),
    spreads: stacked[2] ? b.reshape(stacked[2], [-1, keyClusters]) : null,
  };
}

/** Per cluster and query cluster, [B*G,H/G,C,queryClusters,...]. */
interface UnitSummaries {
  /** w_ij - scale c_i.k_ij, or HIDDEN for an empty cluster. */
  readonly logits: Value;
  readonly keys: Value;
  readonly values: Value;
  readonly spreads: Value | null;
}

/**
 * u_ij = sum p |k_n - o|_g^2 - |k_ij - o|_g^2 for any `origin` o: a key near by, as from zero these would be large
 * numbers with a small difference.
 */
function spreads(
  b: GraphBuilder,
  keys: Value,
  origin: Value,
  means: Value,
  metric: Value,
  expectation: (ofKeys: Value) => Value,
): Value {
  const distances = (points: Value) => {
    const delta = b.sub(points, origin);
    return b.reduceSum(b.mul(b.mul(delta, delta), metric), -1);
  };
  const ofKeys = b.transpose(distances(keys), LAST_TWO_SWAPPED);
  return b.max(b.sub(expectation(ofKeys), distances(means)), 0);
}

const LAST_TWO_SWAPPED = [0, 1, 2, 4, 3];

/** Every cluster is one cell. */
function clustersAsCells(
  b: GraphBuilder,
  queries: Value,
  cells: UnitCells,
  metric: Value | null,
  { keyClusters }: MultipoleParameters,
): UnitSummaries {
  const withoutSpare = (tensor: Value) => b.slice(tensor, 2, 0, keyClusters);
  const products = b.matMul(queries, b.transpose(withoutSpare(cells.biasedKeys), LAST_TWO_SWAPPED));
  const max = b.reduceMax(products, -1);
  // The weights of an empty cluster stay finite; its logit says that it is empty.
  const tilts = b.exp(b.sub(products, max));
  const sum = b.reduceSum(tilts, -1);
  const shares = b.div(tilts, sum);
  const weight = b.add(max, b.log(sum));
  const logits = b.sub(weight, b.reduceSum(b.mul(shares, products), -1));
  const keys = withoutSpare(cells.keys);
  const means = b.matMul(shares, keys);
  return {
    logits: b.where(b.greater(max, VISIBLE_ABOVE), logits, HIDDEN),
    keys: means,
    values: b.matMul(shares, withoutSpare(cells.values)),
    spreads:
      metric &&
      spreads(b, keys, b.slice(keys, 3, 0, 1), means, metric, ofKeys =>
        b.reduceSum(b.mul(shares, ofKeys), -1),
      ),
  };
}

/**
 * A cluster is the sum of its cells: the largest logit and the sum of weights are brought together over its
 * cells and back to them, so that the products over cells are normalized and only need adding up.
 */
function clustersOfCells(
  b: GraphBuilder,
  queries: Value,
  cells: UnitCells,
  membership: Value,
  metric: Value | null,
  { kvParts, share, headDim, valueDim }: Sizes,
  { keyClusters, queryClusters }: MultipoleParameters,
): UnitSummaries {
  const toCells = b.transpose(membership, [0, 1, 3, 2]);
  const products = b.matMul(queries, b.transpose(cells.biasedKeys, LAST_TWO_SWAPPED));
  const cellMax = b.transpose(b.reduceMax(products, -1), [0, 1, 4, 2, 3]);
  const owns = b.greater(b.unsqueeze(membership, 4), 0);
  const max = b.squeeze(b.reduceMax(b.where(owns, cellMax, HIDDEN), 3), 3);
  const ofCell = (perCluster: Value) => b.unsqueeze(b.matMul(toCells, perCluster), 4);
  /** Sums over the cells of a cluster: [...,count,queryClusters,width] to [...,C,queryClusters,width]. */
  const ofCluster = (perCell: Value, width: Value) =>
    b.reshape(b.matMul(membership, b.reshape(perCell, [kvParts, share, -1, b.mul(width, queryClusters)])), [
      kvParts,
      share,
      keyClusters,
      queryClusters,
      width,
    ]);
  const tilts = b.exp(b.sub(products, ofCell(max)));
  const sum = b.matMul(membership, b.squeeze(b.reduceSum(tilts, -1), 4));
  const occupied = b.greater(sum, 0);
  const safe = b.where(occupied, sum, 1);
  const shares = b.mul(tilts, ofCell(b.div(1, safe)));
  const mean = b.matMul(membership, b.squeeze(b.reduceSum(b.mul(shares, products), -1), 4));
  const logits = b.sub(b.add(max, b.log(safe)), mean);
  const means = ofCluster(b.matMul(shares, cells.keys), headDim);
  const expectation = (ofKeys: Value) => ofCluster(b.reduceSum(b.mul(shares, ofKeys), -1), b.ints([1]));
  return {
    logits: b.unsqueeze(b.where(occupied, logits, HIDDEN), 4),
    keys: means,
    values: ofCluster(b.matMul(shares, cells.values), valueDim),
    spreads:
      metric &&
      spreads(b, cells.keys, b.slice(b.slice(cells.keys, 2, 0, 1), 3, 0, 1), means, metric, expectation),
  };
}
