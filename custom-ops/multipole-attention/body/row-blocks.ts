import { DataType } from '../../../rewriter/onnx/spec.js';
import type { Dim, GraphBuilder, Value } from '../../graph-builder.js';
import type { Sizes } from './sizes.js';

/** Rows sorted by query cluster, each cluster of each part filled up to whole blocks. */
export interface RowBlocks {
  /** Number of blocks, of all parts together. */
  readonly count: Value;
  /** [count*blockRows]: row (part * rows + row of the part) in each slot, -1 where there is none. */
  readonly content: Value;
  /** [B*H,rows]: slot of each row; any for a place without a row. */
  readonly slotOfRow: Value;
}

/**
 * @param rowCluster [B*H,rows]; `queryClusters` for a place without a row
 * @param multiple the number of blocks is a multiple of this
 * @param even every part has the same number of blocks; otherwise parts follow one another without a gap
 */
export function rowBlocks(
  b: GraphBuilder,
  rowCluster: Value,
  blockRows: number,
  multiple: Dim,
  even: boolean,
  { parts }: Sizes,
  queryClusters: number,
): RowBlocks {
  const rows = b.dim(rowCluster, 1);
  const members = b.indicator(b.equal(b.unsqueeze(rowCluster, 2), b.range(queryClusters)));
  const ranks = b.cumSum(members, 1);
  const ofCluster = b.ceilDiv(b.cast(b.reduceSum(members, 1), DataType.INT64), blockRows);
  const rounded = (n: Value) => b.mul(b.ceilDiv(b.max(n, 1), multiple), multiple);
  let last: Value;
  let count: Value;
  if (even) {
    const inPart = b.cumSum(ofCluster, 2);
    const perPart = rounded(b.maxOfAll(inPart));
    last = b.add(inPart, b.mul(b.reshape(b.range(parts), [-1, 1, 1]), perPart));
    count = b.mul(perPart, parts);
  } else {
    const flat = b.cumSum(b.reshape(ofCluster, [-1]), 0);
    last = b.reshape(flat, [parts, 1, queryClusters]);
    count = rounded(b.maxOfAll(flat));
  }
  const firstSlot = b.cast(b.mul(b.sub(last, ofCluster), blockRows), DataType.FLOAT);
  const slotOfMember = b.mul(members, b.sub(b.add(ranks, firstSlot), 1));
  const slot = b.cast(b.squeeze(b.reduceSum(slotOfMember, -1), 2), DataType.INT64);
  // Places without a row go to one slot more, which is then cut off.
  const slots = b.mul(count, blockRows);
  const placed = b.where(b.less(rowCluster, queryClusters), slot, slots);
  const filled = b.scatterElements(
    b.full([b.add(slots, 1)], -1, DataType.INT64),
    b.reshape(placed, [-1]),
    b.range(b.mul(parts, rows)),
  );
  return { count, content: b.slice(filled, 0, 0, slots), slotOfRow: b.min(placed, b.sub(slots, 1)) };
}

/** Rows of x [parts,rows,width], numbered over all parts: [...,width]. */
export function gatherRows(b: GraphBuilder, x: Value, rows: Value): Value {
  return b.gather(b.reshape(x, [-1, b.dim(x, -1)]), rows);
}
