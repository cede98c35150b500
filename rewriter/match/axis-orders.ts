import type { Move } from '../site.js';

/**
 * How a stored tensor holds a tensor of known axes: each of its axes is one of those, or several of them one after
 * the other. `order` lists the known axes as they are stored, the outermost first.
 */
export interface AxisOrder {
  /** Sizes of the known axes, in their own order. */
  readonly sizes: readonly number[];
  readonly order: readonly number[];
  /** Distance of neighbors along each known axis in the stored elements. */
  readonly strides: readonly number[];
}

/** Most orders to try. */
const MOST_ORDERS = 200;

/** All ways in which a tensor of shape `dims` can hold axes of these sizes; axes of size 1 come last. */
export function axisOrders(dims: readonly number[], sizes: readonly number[]): readonly AxisOrder[] {
  const found: AxisOrder[] = [];
  const moving = sizes.flatMap((size, axis) => (size === 1 ? [] : [axis]));
  const unit = sizes.flatMap((size, axis) => (size === 1 ? [axis] : []));
  const extend = (order: readonly number[], axis: number, rest: number) => {
    if (found.length >= MOST_ORDERS) return;
    if (rest > 1) {
      for (const next of moving) {
        if (order.includes(next) || rest % sizes[next]! !== 0) continue;
        extend([...order, next], axis, rest / sizes[next]!);
      }
    } else if (axis + 1 < dims.length) extend(order, axis + 1, dims[axis + 1]!);
    else if (order.length === moving.length) found.push(axisOrder(sizes, [...order, ...unit]));
  };
  extend([], -1, 1);
  return found;
}

/** Axes of these sizes in this order. */
export function axisOrder(sizes: readonly number[], order: readonly number[]): AxisOrder {
  const strides = new Array<number>(sizes.length).fill(0);
  let stride = 1;
  for (const axis of [...order].reverse()) {
    strides[axis] = stride;
    stride *= sizes[axis]!;
  }
  return { sizes, order, strides };
}

/** The moves from a stored tensor of shape `dims` to the known axes in their own order, shaped as `target`. */
export function movesTo(
  { sizes, order }: AxisOrder,
  dims: readonly number[],
  target: readonly number[],
): Move[] {
  const moving = order.filter(axis => sizes[axis] !== 1);
  const sorted = moving.every((axis, n) => n === 0 || axis > moving[n - 1]!);
  if (sorted) return dims.join() === target.join() ? [] : [{ reshape: target }];
  const stored = order.map(axis => sizes[axis]!);
  const turned = sizes.map((_, axis) => order.indexOf(axis));
  return [
    ...(stored.join() === dims.join() ? [] : [{ reshape: stored }]),
    { transpose: turned },
    ...(sizes.join() === target.join() ? [] : [{ reshape: target }]),
  ];
}

/** Numbers that divide a size, from 1 to itself. */
export function divisorsOf(size: number): readonly number[] {
  return Array.from({ length: size }, (_, n) => n + 1).filter(divisor => size % divisor === 0);
}
