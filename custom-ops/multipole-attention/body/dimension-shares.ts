import { DataType } from '../../../rewriter/onnx/spec.js';
import type { GraphBuilder, Value } from '../../graph-builder.js';

/**
 * Share of each dimension in the squares of rows [parts,n,D], equal shares where all are zero: [parts,1,D], g of the
 * README's step 5.
 */
export function dimensionShares(b: GraphBuilder, rows: Value): Value {
  const squares = b.reduceSum(b.mul(rows, rows), 1);
  const total = b.reduceSum(squares, -1);
  const some = b.greater(total, 0);
  const equal = b.div(1, b.cast(b.dim(rows, -1), DataType.FLOAT));
  return b.where(some, b.div(squares, b.where(some, total, 1)), equal);
}
