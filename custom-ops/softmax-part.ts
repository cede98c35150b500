import { DataType } from '../rewriter/onnx/spec.js';
import type { GraphBuilder, Value } from './graph-builder.js';

/**
 * Logit of what a row may not see. Finite, so that sums and products with zero stay finite, and low enough
 * that its exponential is zero beside any real logit; VISIBLE_ABOVE tells the two apart.
 */
export const HIDDEN = -1e30;
export const VISIBLE_ABOVE = -1e29;

/** Softmax attention over some of a row's keys: normalized output [...,E] and log of the denominator [...,1]. */
export interface SoftmaxPart {
  readonly output: Value;
  readonly lse: Value;
}

/**
 * Softmax over logits [...,n] and its product with values [...,n,E]. The log-sum-exp comes from the largest
 * logit and the largest probability, which saves keeping sums that Softmax does not return.
 */
export function softmaxPart(b: GraphBuilder, logits: Value, values: Value): SoftmaxPart {
  const probabilities = b.softmax(logits);
  return { output: b.matMul(probabilities, values), lse: logSumExp(b, logits, probabilities) };
}

export function logSumExp(b: GraphBuilder, logits: Value, probabilities: Value): Value {
  return b.sub(b.reduceMax(logits, -1), b.log(b.reduceMax(probabilities, -1)));
}

/** x with at least one element along an axis of the given length. */
export function atLeastOne(
  b: GraphBuilder,
  x: Value,
  rank: number,
  axis: number,
  length: Value,
  fill: number,
): Value {
  return b.pad(x, rank, axis, 0, b.max(b.sub(1, length), 0), fill);
}

/** [B*G,1,1,keys], or one key without keys: 0 for a visible key, HIDDEN for another, by a mask [B,keys]. */
export function keyBias(
  b: GraphBuilder,
  keyMask: Value,
  { batch, kvHeads, keys }: { readonly batch: Value; readonly kvHeads: Value; readonly keys: Value },
): Value {
  const bias = b.where(keyMask, b.constant(0, DataType.FLOAT), HIDDEN);
  const length = b.max(keys, 1);
  const perHead = b.unsqueeze(atLeastOne(b, bias, 2, 1, keys, HIDDEN), 1);
  return b.reshape(b.expand(perHead, [batch, kvHeads, length]), [b.mul(batch, kvHeads), 1, 1, length]);
}

/**
 * Output [B,H,N,E] and lse [B,H,N] from those of chunks of rows, stacked as [chunks,B*G,H/G,rows,E] and 1: zeros and
 * minus infinity for a row that saw no key.
 */
export function joinedChunks(
  b: GraphBuilder,
  chunks: SoftmaxPart,
  sizes: Readonly<Record<'batch' | 'heads' | 'queries' | 'keys' | 'valueDim', Value>>,
): SoftmaxPart {
  const { batch, heads, queries, keys, valueDim } = sizes;
  const whole = (x: Value, width: Value) => {
    const byHead = b.reshape(b.transpose(x, [1, 2, 0, 3, 4]), [batch, heads, -1, width]);
    return b.slice(byHead, 2, 0, queries);
  };
  const lse = whole(chunks.lse, b.ints([1]));
  const sees = b.and(b.greater(lse, VISIBLE_ABOVE), b.greater(keys, 0));
  return {
    output: b.where(sees, whole(chunks.output, valueDim), 0),
    lse: b.squeeze(b.where(sees, lse, Number.NEGATIVE_INFINITY), 3),
  };
}
