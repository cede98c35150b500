import type { Attributes } from '../operator.js';

/** The attributes of one ElementwiseAttention node (README, "Attributes"), typed. */
export interface ElementwiseParameters {
  /** 0: the exponential itself; else the even order of its Taylor polynomial. */
  readonly order: number;
  readonly causal: boolean;
}

/** Beyond this order sums of powers in float32 hold no digits that lower orders lack. */
export const MOST_ORDER = 16;

/** What an empty state has for an offset: larger than any key, with a square that float32 can hold. */
export const EMPTY_OFFSET = 1e18;

/** Why there is no operator of this order; null where there is one. */
export function orderProblem(order: number): string | null {
  if (order % 2 === 1) {
    return (
      `order ${order} is odd: a Taylor polynomial of odd order is negative for large negative q k, so that ` +
      'weights change sign and the denominator can vanish'
    );
  }
  return order > MOST_ORDER ? `order ${order} is above ${MOST_ORDER}` : null;
}

/** 2^n / n! for n = 0 ... order: the coefficients of q^n k^n. */
export function coefficients(order: number): number[] {
  const result = [1];
  for (let n = 1; n <= order; n++) result.push((result[n - 1]! * 2) / n);
  return result;
}

export function attributesOf({ order, causal }: ElementwiseParameters): Attributes {
  return { order, causal: Number(causal) };
}

/** Inverse of {@link attributesOf}, for attributes that `operator.ts` has validated. */
export function parametersOf({ order, causal }: Attributes): ElementwiseParameters {
  return { order: Number(order), causal: Number(causal) !== 0 };
}
