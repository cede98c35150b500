import type { Tensor } from '../operator.js';
import type { LocalParameters } from './parameters.js';

/**
 * LocalAttention by its definition (README, "Semantics"): plain loops in float64, float32 in and out. The oracle
 * for the function body and for every kernel.
 */

export interface LocalInputs {
  /** [B,H,N,D] */
  readonly query: Tensor;
  /** [B,G,S,D], G divides H. */
  readonly key: Tensor;
  /** [B,G,S,E] */
  readonly value: Tensor;
  /** [B,S], nonzero = visible. */
  readonly keyMask?: Uint8Array;
}

export interface LocalResult {
  /** [B,H,N,E] */
  readonly output: Tensor;
  /** [B,H,N] */
  readonly lse: Tensor;
}

/** Evaluates the operator; nothing is checked that `operator.ts` or a kernel checks. */
export function localAttention(inputs: LocalInputs, parameters: LocalParameters): LocalResult {
  const { query, key, value, keyMask } = inputs;
  const [batch = 0, heads = 0, queries = 0, headDim = 0] = query.dims;
  const [, kvHeads = 0, keys = 0, valueDim = 0] = value.dims;
  const scale = parameters.scale ?? 1 / Math.sqrt(headDim);
  const output = new Float32Array(batch * heads * queries * valueDim);
  const lse = new Float32Array(batch * heads * queries);
  for (let row = 0; row < batch * heads * queries; row++) {
    const head = Math.floor(row / queries);
    const b = Math.floor(head / heads);
    const kv = b * kvHeads + Math.floor((head % heads) / (heads / kvHeads));
    const position = (row % queries) + (parameters.offset ?? keys - queries);
    const first = Math.max(0, position - (parameters.left ?? keys + Math.abs(position)));
    const last = Math.min(keys - 1, position + (parameters.right ?? keys + Math.abs(position)));
    const visible: number[] = [];
    for (let j = first; j <= last; j++) if (keyMask?.[b * keys + j] !== 0) visible.push(j);
    const logits = visible.map(j => {
      let product = 0;
      for (let d = 0; d < headDim; d++) {
        product += query.data[row * headDim + d]! * key.data[(kv * keys + j) * headDim + d]!;
      }
      return scale * product;
    });
    const max = logits.reduce((most, x) => Math.max(most, x), Number.NEGATIVE_INFINITY);
    const weights = logits.map(x => Math.exp(x - max));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    lse[row] = visible.length === 0 ? Number.NEGATIVE_INFINITY : max + Math.log(total);
    for (let e = 0; e < valueDim; e++) {
      const sum = visible.reduce(
        (s, j, n) => s + weights[n]! * value.data[(kv * keys + j) * valueDim + e]!,
        0,
      );
      output[row * valueDim + e] = visible.length === 0 ? 0 : sum / total;
    }
  }
  return {
    output: { dims: [batch, heads, queries, valueDim], data: output },
    lse: { dims: [batch, heads, queries], data: lse },
  };
}
