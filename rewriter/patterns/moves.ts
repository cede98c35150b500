import type { Move } from '../site.js';

/** The move that puts axes in this order; none where they are. */
export function transposed(order: readonly number[]): readonly Move[] {
  return order.every((axis, n) => axis === n) ? [] : [{ transpose: order }];
}

/** The order that undoes an order of axes. */
export function inverse(order: readonly number[]): readonly number[] {
  return order.map((_, axis) => order.indexOf(axis));
}
