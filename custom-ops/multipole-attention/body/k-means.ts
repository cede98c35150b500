import { DataType } from '../../../rewriter/onnx/spec.js';
import type { Dim, GraphBuilder, Value } from '../../graph-builder.js';

/** Index of the nearest of the centroids [parts,C,D] for each of the points [parts,n,D]: [parts,n,1]. */
export function nearestCentroid(b: GraphBuilder, points: Value, centroids: Value): Value {
  // |x - c|^2 without |x|^2, which does not change the order.
  const squares = b.transpose(b.reduceSum(b.mul(centroids, centroids), -1), [0, 2, 1]);
  const products = b.matMul(points, b.transpose(b.mul(centroids, -2), [0, 2, 1]));
  return b.argMin(b.add(products, squares));
}

/** Points whose distances to all centroids exist at once. */
const BLOCK_POINTS = 1024;

/** One iteration: the assignment [parts,n,1] and the means of its members [parts,count,D]. */
function iteration(
  b: GraphBuilder,
  points: Value,
  visible: Value | null,
  centroids: Value,
  count: number,
): { assignment: Value; centroids: Value } {
  const n = b.dim(points, 1);
  const parts = b.dim(points, 0);
  const start = [
    b.full([parts, 0, 1], 0, DataType.INT64),
    b.mul(centroids, 0),
    b.full([parts, count, 1], 0, DataType.FLOAT),
  ];
  const { state } = b.loop(b.ceilDiv(n, BLOCK_POINTS), start, (inner, block, [assigned, sums, sizes]) => {
    const from = inner.mul(block, BLOCK_POINTS);
    const ofBlock = (x: Value) => inner.slice(x, 1, from, inner.add(from, BLOCK_POINTS));
    const own = ofBlock(points);
    const assignment = nearestCentroid(inner, own, centroids);
    const cluster = inner.reshape(inner.range(count), [count, 1]);
    const all = inner.indicator(inner.equal(inner.transpose(assignment, [0, 2, 1]), cluster));
    const members = visible ? inner.mul(all, inner.transpose(ofBlock(visible), [0, 2, 1])) : all;
    return {
      state: [
        inner.concat([assigned!, assignment], 1),
        inner.add(sums!, inner.matMul(members, own)),
        inner.add(sizes!, inner.reduceSum(members, -1)),
      ],
      stacked: [],
    };
  });
  const [assignment, sums, sizes] = state as [Value, Value, Value];
  return {
    assignment,
    centroids: b.where(b.greater(sizes, 0), b.div(sums, b.max(sizes, 1)), centroids),
  };
}

/**
 * Lloyd's iterations on points [parts,n,D] from seeds [parts,count,D]; `visible` [parts,n,1] holds 0 for
 * points that take no part.
 * @returns the last assignment [parts,n,1] and the means of its members [parts,count,D]
 */
export function kMeans(
  b: GraphBuilder,
  points: Value,
  visible: Value | null,
  seeds: Value,
  count: number,
  iterations: number,
): { assignment: Value; centroids: Value } {
  const before =
    iterations === 1
      ? seeds
      : b.loop(b.ints([iterations - 1]), [seeds], (inner, _, [centroids]) => ({
          state: [iteration(inner, points, visible, centroids!, count).centroids],
          stacked: [],
        })).state[0]!;
  return iteration(b, points, visible, before, count);
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
