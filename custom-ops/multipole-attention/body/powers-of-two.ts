import { DataType } from '../../../rewriter/onnx/spec.js';
import type { GraphBuilder, Value } from '../../graph-builder.js';

/** More than any count of segments needs. */
export const POWERS_OF_TWO = Array.from({ length: 40 }, (_, exponent) => 2 ** exponent);

/** The least power of two that is not below n (n >= 1). */
export function powerOfTwoFrom(b: GraphBuilder, n: Value): Value {
  const powers = b.ints(POWERS_OF_TWO);
  return b.reduceMin(b.where(b.less(powers, n), POWERS_OF_TWO.at(-1)!, powers), 0);
}

/** The exponent of {@link powerOfTwoFrom}. */
export function exponentFrom(b: GraphBuilder, n: Value): Value {
  return b.reduceSum(b.cast(b.less(b.ints(POWERS_OF_TWO), n), DataType.INT64), 0);
}
