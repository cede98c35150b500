import { Geometry, range, type Unit } from './geometry.js';
import type { MultipoleParameters } from './parameters.js';

/**
 * Multiply-adds of one query head of self-attention over `length` tokens, divided by the head size. Counts
 * products with keys and values of exact, retrieved and estimated parts, stage 1, and k-means of queries and
 * keys; not counted are exponentials, the choice of clusters, and what a kernel computes in vain.
 */
export interface OperationCount {
  readonly exact: number;
  /** Null for orders 1 and 2, where it depends on the head size; the most, where retrieval depends on data. */
  readonly multipole: number | null;
  /** What is left where data has nothing retrieved; equal to the most where retrieval does not depend on data. */
  readonly least: number | null;
}

/** @param retrieve of this head */
export function operationCount(
  parameters: MultipoleParameters,
  retrieve: number,
  length: number,
): OperationCount {
  const { causal, queryClusters, iterations, keyClusters, keyGrouping, order } = parameters;
  const exact = causal ? length * (length + 1) : 2 * length * length;
  if (retrieve < 0 || length < Math.max(parameters.exactBelow, parameters.exactBelowRows))
    return { exact, multipole: exact, least: exact };
  if (order > 0) return { exact, multipole: null, least: null };
  const shape = {
    batch: 1,
    heads: 1,
    kvHeads: 1,
    queries: length,
    past: 0,
    keys: length,
    headDim: 1,
    valueDim: 1,
  };
  const geometry = new Geometry(shape, parameters);
  const sizeOf = ({ start, end }: Unit) => end - start;
  const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);

  const keysPerCluster = (parameters.segment || length) / keyClusters;
  const mostRetrieved = parameters.retrieveMass > 0 ? length : retrieve * keysPerCluster;
  let pairs = 0;
  let retrieved = 0;
  const units = new Map<number, readonly Unit[]>();
  const usedByBlock = new Map<number, Set<Unit>>();
  for (const row of range(0, length)) {
    const { start, end } = geometry.nearKeys(row);
    const segment = geometry.local ? geometry.segmentOf(row) : 0;
    const far = units.get(segment) ?? geometry.farUnits(row);
    units.set(segment, far);
    const block = geometry.blockOf(row);
    const used = usedByBlock.get(block) ?? new Set();
    usedByBlock.set(block, used);
    if (row === 0 || (geometry.local && row % parameters.segment === 0))
      for (const unit of far) used.add(unit);
    const clusters = far.length * keyClusters;
    pairs += end - start + clusters;
    retrieved += Math.min(sum(far.map(sizeOf)), mostRetrieved);
  }
  const summarized = sum(Array.from(usedByBlock.values(), used => sum(Array.from(used, sizeOf))));
  const blocks = [...usedByBlock.keys()].filter(block => block >= 0);
  const clustered = sum(blocks.map(block => geometry.centroidRows(block).length));
  const assigned = causal ? length : 0;
  const everUsed = new Set(Array.from(usedByBlock.values()).flatMap(used => [...used]));
  const keyMeans =
    keyGrouping === 'kmeans' ? sum(Array.from(everUsed, sizeOf)) * keyClusters * iterations : 0;
  const unchanging =
    2 * pairs +
    3 * queryClusters * summarized +
    queryClusters * (iterations * clustered + assigned) +
    keyMeans;
  const multipole = unchanging + 2 * retrieved;
  const dataDecides = parameters.retrieveMass > 0 || parameters.retrieveError > 0;
  return { exact, multipole, least: dataDecides ? unchanging : multipole };
}

/**
 * How many times fewer multiply-adds than exact attention all heads of all sites take: a bound on speed. Null where
 * data decides on them: a bound without retrieval would say little.
 */
export function operationCeiling(
  sites: readonly MultipoleParameters[],
  heads: number,
  length: number,
): number | null {
  let exact = 0;
  let multipole = 0;
  for (const parameters of sites) {
    for (let head = 0; head < heads; head++) {
      const { retrieve } = parameters;
      const count = operationCount(parameters, retrieve[retrieve.length === 1 ? 0 : head]!, length);
      if (count.multipole === null || count.least !== count.multipole) return null;
      exact += count.exact;
      multipole += count.multipole;
    }
  }
  return exact / multipole;
}
