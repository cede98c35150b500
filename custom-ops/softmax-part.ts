import type { GraphBuilder, Value } from './graph-builder.js';

/**
 * Logit of what a row may not see. Finite, so that sums and products with zero stay finite, and low enough
 * that its exponential is zero beside any real logit; VISIBLE_ABOVE tells the two apart.
 */
export const HIDDEN = -1e30;
export const VISIBLE_ABOVE = -1e29;

/** Softmax attention over some of a row's keys: normalised output [...,E] and log of the denominator [...,1]. */
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
