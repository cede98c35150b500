import { DataType } from '../../../rewriter/onnx/spec.js';
import type { Dim, GraphBuilder, Value } from '../../graph-builder.js';

/** Index of the nearest of the centroids [parts,C,D] for each of the points [parts,n,D]: [parts,n,1]. */
export function nearestCentroid(b: GraphBuilder, points: Value, centroids: Value): Value {
  // |x - c|^2 without |x|^2, which does not change the order.
  const squares = b.transpose(b.reduceSum(b.mul(centroids, centroids), -1), [0, 2, 1]);
  const products = b.matMul(points, b.transpose(b.mul(centroids, -2), [0, 2, 1]));
  return b.argMin(b.add(products, squares));
}

function updatedCentroids(
  b: GraphBuilder,
  points: Value,
  visible: Value | null,
  centroids: Value,
  assignment: Value,
  count: number,
): Value {
  const cluster = b.reshape(b.range(count), [count, 1]);
  const all = b.indicator(b.equal(b.transpose(assignment, [0, 2, 1]), cluster));
  const members = visible ? b.mul(all, b.transpose(visible, [0, 2, 1])) : all;
  const sizes = b.reduceSum(members, -1);
  return b.where(b.greater(sizes, 0), b.div(b.matMul(members, points), b.max(sizes, 1)), centroids);
}

/**
 * Lloyd's iterations on points [parts,n,D] from seeds [parts,count,D]; `visible` [parts,n,1] holds 0 for
 * points that take no part.
 * @returns the last assignment [parts,n,1], and, where asked for, the means of its members [parts,count,D]
 */
export function kMeans(
  b: GraphBuilder,
  points: Value,
  visible: Value | null,
  seeds: Value,
  count: number,
  iterations: number,
): { assignment: Value; centroids: (builder: GraphBuilder) => Value } {
  const step = (inner: GraphBuilder, centroids: Value) =>
    updatedCentroids(inner, points, visible, centroids, nearestCentroid(inner, points, centroids), count);
  const before =
    iterations === 1
      ? seeds
      : b.loop(b.ints([iterations - 1]), [seeds], (inner, _, [centroids]) => ({
          state: [step(inner, centroids!)],
          stacked: [],
        })).state[0]!;
  const assignment = nearestCentroid(b, points, before);
  return {
    assignment,
    centroids: builder => updatedCentroids(builder, points, visible, before, assignment, count),
  };
}

/** floor(m * n / count) for m < count. */
function evenlySpaced(b: GraphBuilder, n: Value, count: number): Value {
  return b.div(b.mul(b.range(count), n), count);
}

/** Evenly spaced points: [parts,n,D] to [parts,count,D]. */
export function evenSeeds(b: GraphBuilder, points: Value, n: Value, count: number): Value {
  return b.gather(points, evenlySpaced(b, n, count), 1);
}

/** Evenly spaced ones among the visible points; `visible` [parts,n,1] is 0 or 1. */
export function evenVisibleSeeds(
  b: GraphBuilder,
  points: Value,
  visible: Value,
  n: Dim,
  count: number,
): Value {
  const counted = b.cumSum(b.transpose(visible, [0, 2, 1]), 2);
  const total = b.cast(b.reduceSum(visible, 1), DataType.INT64);
  const rank = b.div(b.mul(b.unsqueeze(b.range(count), 1), total), count);
  // The visible point of rank r comes after all points up to which at most r are visible.
  const before = b.lessOrEqual(counted, b.cast(rank, DataType.FLOAT));
  const index = b.min(b.cast(b.reduceSum(b.indicator(before), -1), DataType.INT64), b.sub(b.dims([n]), 1));
  const part = b.reshape(b.range(b.dim(points, 0)), [-1, 1, 1]);
  const rows = b.reshape(points, [-1, b.dim(points, -1)]);
  return b.gather(rows, b.reshape(b.add(b.mul(part, n), index), [-1, count]));
}
