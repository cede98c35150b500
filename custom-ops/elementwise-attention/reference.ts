import type { Tensor } from '../operator.js';
import { coefficients, type ElementwiseParameters, EMPTY_OFFSET, orderProblem } from './parameters.js';

export interface ElementwiseInputs {
  /** [B,N,X] */
  readonly query: Tensor;
  /** [B,S,X]; S = N under `causal`. */
  readonly key: Tensor;
  /** [B,S,X] */
  readonly value: Tensor;
  /** [B,S], 1 = visible. */
  readonly keyMask?: Uint8Array;
  /** What earlier tokens left; order 0 has none. */
  readonly past?: ElementwiseState;
}

/** The sums over all tokens so far. */
export interface ElementwiseState {
  /** [B,2,order+1,X]: S_n, then Z_n, both times exp(offset^2). */
  readonly state: Tensor;
  /** [B,X]: smallest |k| so far, EMPTY_OFFSET before any key. */
  readonly offset: Tensor;
}

export interface ElementwiseResult {
  /** [B,N,X] */
  readonly output: Tensor;
  /** Null for order 0. */
  readonly present: ElementwiseState | null;
}

/**
 * Element-wise attention (operator specification, section 4), in double precision. Channel c of row i is the
 * mean of the values v_jc weighted by exp(-k_jc^2) P(2 q_ic k_jc), where P is the exponential or its Taylor
 * polynomial; a row that sees no key gives zeros.
 * @throws RangeError for an order or shapes that the operator has not
 */
export function elementwiseAttention(
  inputs: ElementwiseInputs,
  parameters: ElementwiseParameters,
): ElementwiseResult {
  const { query, key, value, keyMask, past } = inputs;
  const { order, causal } = parameters;
  const [batch = 0, rows = 0, channels = 0] = query.dims;
  const keys = key.dims[1] ?? 0;
  const problem = orderProblem(order);
  if (problem !== null) throw new RangeError(problem);
  if (causal && rows !== keys) throw new RangeError(`${rows} queries and ${keys} keys: causal needs as many`);
  if (order === 0 && past) throw new RangeError('order 0 has no finite state');

  const output = new Float32Array(batch * rows * channels);
  const state = new Float32Array(batch * 2 * (order + 1) * channels);
  const offset = new Float32Array(batch * channels);
  for (let b = 0; b < batch; b++) {
    for (let c = 0; c < channels; c++) {
      const at = (n: number, length: number) => (b * length + n) * channels + c;
      const sum = order === 0 ? new Kernel() : new Sums(order, stateOf(past, b, c));
      const row = (i: number) => {
        output[at(i, rows)] = sum.mean(query.data[at(i, rows)]!);
      };
      for (let j = 0; j < keys; j++) {
        if (keyMask?.[b * keys + j] !== 0) sum.add(key.data[at(j, keys)]!, value.data[at(j, keys)]!);
        if (causal) row(j);
      }
      for (let i = 0; i < rows && !causal; i++) row(i);
      if (!(sum instanceof Sums)) continue;
      [...sum.numerators, ...sum.denominators].forEach((total, n) => {
        state[(b * 2 * (order + 1) + n) * channels + c] = total;
      });
      offset[b * channels + c] = sum.offset;
    }
  }
  const present = {
    state: { dims: [batch, 2, order + 1, channels], data: state },
    offset: { dims: [batch, channels], data: offset },
  };
  return { output: { dims: query.dims, data: output }, present: order === 0 ? null : present };
}

/** One channel of the exponential itself: all keys so far. */
class Kernel {
  readonly #tokens: { readonly key: number; readonly value: number }[] = [];

  add(key: number, value: number): void {
    this.#tokens.push({ key, value });
  }

  mean(query: number): number {
    const nearest = this.#tokens.reduce((least, { key }) => Math.min(least, (query - key) ** 2), Infinity);
    let numerator = 0;
    let denominator = 0;
    for (const { key, value } of this.#tokens) {
      const weight = Math.exp(nearest - (query - key) ** 2);
      numerator += weight * value;
      denominator += weight;
    }
    return denominator === 0 ? 0 : numerator / denominator;
  }
}

interface ChannelState {
  readonly sums: readonly number[];
  readonly offset: number;
}

/** One channel of a Taylor polynomial: sums that stay in range for any keys, times exp(offset^2). */
class Sums {
  readonly numerators: number[];
  readonly denominators: number[];
  offset: number;
  readonly #coefficients: readonly number[];

  constructor(order: number, past: ChannelState | null) {
    const none = Array.from({ length: 2 * (order + 1) }, () => 0);
    const sums = past?.sums ?? none;
    this.numerators = sums.slice(0, order + 1);
    this.denominators = sums.slice(order + 1);
    this.offset = Math.min(past?.offset ?? EMPTY_OFFSET, EMPTY_OFFSET);
    this.#coefficients = coefficients(order);
  }

  add(key: number, value: number): void {
    const offset = Math.min(this.offset, Math.abs(key));
    const factor = Math.exp((offset - this.offset) * (offset + this.offset));
    let term = Math.exp((offset - Math.abs(key)) * (offset + Math.abs(key)));
    for (let n = 0; n < this.numerators.length; n++) {
      this.numerators[n] = this.numerators[n]! * factor + term * value;
      this.denominators[n] = this.denominators[n]! * factor + term;
      term *= key;
    }
    this.offset = offset;
  }

  mean(query: number): number {
    if (this.denominators[0] === 0) return 0;
    const polynomial = (sums: readonly number[]) =>
      sums.reduceRight((total, sum, n) => total * query + this.#coefficients[n]! * sum, 0);
    return polynomial(this.numerators) / polynomial(this.denominators);
  }
}

function stateOf(past: ElementwiseState | undefined, b: number, c: number): ChannelState | null {
  if (!past) return null;
  const [, , , channels = 0] = past.state.dims;
  const sums = past.state.dims[1]! * past.state.dims[2]!;
  return {
    sums: Array.from({ length: sums }, (_, n) => past.state.data[(b * sums + n) * channels + c]!),
    offset: past.offset.data[b * channels + c]!,
  };
}
