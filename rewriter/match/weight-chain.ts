import { isFloating } from '../graph/data-type.js';
import type { Node } from '../graph/node.js';
import type { Value } from '../graph/value.js';
import type { Laboratory } from '../probe/laboratory.js';
import { isStored, upstreamOf } from './operands.js';
import { PRODUCTS } from './product.js';

/** A product of data with stored weights, one or several, however their axes lie. */
export interface WeightProduct {
  readonly node: Node;
  readonly weights: readonly Value[];
  readonly data: Value;
}

/** Reads a node as a product of data with stored weights; null where it is none. */
export function weightProduct(node: Node, laboratory: Laboratory): WeightProduct | null {
  const inputs = node.inputs.filter(value => value !== null);
  const adds = node.type === 'Gemm' && inputs.length > 2;
  if (adds || !(node.type === 'Gemm' || PRODUCTS.some(type => type === node.type))) return null;
  const weights = inputs.filter(value => isStored(value, laboratory));
  const [data, ...others] = inputs.filter(value => !weights.includes(value));
  return weights.length === 0 || data === undefined || others.length > 0 ? null : { node, weights, data };
}

/** The stored tensor that a weight is made from by moving elements alone. */
export function storedTensor(weight: Value, laboratory: Laboratory): Value {
  return upstreamOf(weight, laboratory).findLast(({ factor }) => factor === 1)!.value;
}

/** Operators that move the elements of their first input. */
const MOVES: ReadonlySet<string> = new Set([
  'Identity',
  'Reshape',
  'Transpose',
  'Unsqueeze',
  'Squeeze',
  'Flatten',
]);

/** What a node moves, or widens; null where it does something else. */
export function movedBy(node: Node): Value | null {
  const moves = MOVES.has(node.type) || (node.type === 'Cast' && isFloating(node.int('to', 0)));
  return moves ? (node.inputs[0] ?? null) : null;
}

/** Whether a value holds what `source` does, in another order, shape or width. */
export function isMoved(value: Value, source: Value): boolean {
  const before = value.producer && movedBy(value.producer);
  return before != null && (before === source || isMoved(before, source));
}

/** What a node multiplies by a constant number, and the number; null where it does something else. */
export function scaledBy(
  node: Node,
  laboratory: Laboratory,
): { readonly value: Value; readonly factor: number } | null {
  const [first, second] = node.inputs;
  if (first == null || second == null || (node.type !== 'Mul' && node.type !== 'Div')) return null;
  const factor = laboratory.scalar(second);
  if (factor !== null) return { value: first, factor: node.type === 'Div' ? 1 / factor : factor };
  const other = node.type === 'Mul' ? laboratory.scalar(first) : null;
  return other === null ? null : { value: second, factor: other };
}
