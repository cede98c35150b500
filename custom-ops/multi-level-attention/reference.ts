import type { Tensor } from '../operator.js';
import { blockLength, cachedKeys, levelOffsets, type MultiLevelParameters } from './parameters.js';

/**
 * MultiLevelAttention by its definition (README, "Semantics"): plain loops in float64, float32 in and out.
 * The oracle for the function body and for every kernel.
 */

export interface MultiLevelInputs {
  /** [B,H,N,D] */
  readonly query: Tensor;
  /** [B,G,S,D], G divides H. */
  readonly key: Tensor;
  /** [B,G,S,E] */
  readonly value: Tensor;
  /** [B,P+S], nonzero = visible. */
  readonly keyMask?: Uint8Array;
  readonly past?: MultiLevelCache;
}

/** What later tokens need of the tokens before them. */
export interface MultiLevelCache {
  /** [B,G,P,E]: of all P tokens so far. */
  readonly value: Tensor;
  /** Level l: [B,G,cachedKeys(l,P),rank l], the keys of the block that is not yet full. */
  readonly keys: readonly Tensor[];
}

export interface MultiLevelResult {
  /** [B,H,N,E] */
  readonly output: Tensor;
  /** [B,H,N] */
  readonly lse: Tensor;
  readonly present: MultiLevelCache;
}

/** Evaluates the operator; nothing is checked that `operator.ts` or a kernel checks. */
export function multiLevelAttention(
  inputs: MultiLevelInputs,
  parameters: MultiLevelParameters,
): MultiLevelResult {
  const { query, past } = inputs;
  const [batch = 0, heads = 0, queries = 0, headDim = 0] = query.dims;
  const [, kvHeads = 0, fresh = 0] = inputs.key.dims;
  const value = past ? joinRows(past.value, inputs.value) : inputs.value;
  const [, , keys = 0, valueDim = 0] = value.dims;
  const before = keys - fresh;
  const offsets = levelOffsets(parameters);
  const levels = parameters.ranks.map((rank, level) => {
    const recent = columns(inputs.key, offsets[level]!, rank);
    const tensor = past ? joinRows(past.keys[level]!, recent) : recent;
    return { rank, offset: offsets[level]!, tensor, first: keys - tensor.dims[2]! };
  });
  const scale = parameters.scale ?? 1 / Math.sqrt(headDim);
  const firstPosition = parameters.causalOffset ?? keys - queries;

  /** Levels that tokens at two positions share: level 0 always, and no finer level without the coarser ones. */
  const shared = (i: number, j: number): number => {
    const share = (level: number) =>
      level === 0 ||
      Math.floor(i / blockLength(parameters, level)) === Math.floor(j / blockLength(parameters, level));
    return levels.findLastIndex((_, level) => share(level)) + 1;
  };

  const score = (b: number, h: number, row: number, j: number): number => {
    const kv = b * kvHeads + Math.floor(h / (heads / kvHeads));
    const count = shared(firstPosition + row, j);
    let sum = 0;
    for (let level = 0; level < count; level++) {
      const { rank, offset, tensor, first } = levels[level]!;
      const queryAt = ((b * heads + h) * queries + row) * headDim + offset;
      const keyAt = (kv * tensor.dims[2]! + j - first) * rank;
      let product = 0;
      for (let d = 0; d < rank; d++) product += query.data[queryAt + d]! * tensor.data[keyAt + d]!;
      sum += parameters.levelScale[level]! * product;
    }
    const divisor = { none: 1, count: levels.length, shared: count }[parameters.divide];
    return (scale * sum) / divisor;
  };

  const output = new Float32Array(batch * heads * queries * valueDim);
  const lse = new Float32Array(batch * heads * queries);
  for (let part = 0; part < batch * heads; part++) {
    const [b, h] = [Math.floor(part / heads), part % heads];
    const kv = b * kvHeads + Math.floor(h / (heads / kvHeads));
    for (let row = 0; row < queries; row++) {
      const visible: number[] = [];
      for (let j = 0; j < keys; j++) {
        const hidden = inputs.keyMask?.[b * keys + j] === 0;
        if (!hidden && !(parameters.causal && j > firstPosition + row)) visible.push(j);
      }
      const scores = visible.map(j => score(b, h, row, j));
      const max = scores.reduce((most, x) => Math.max(most, x), Number.NEGATIVE_INFINITY);
      const weights = scores.map(x => Math.exp(x - max));
      const total = weights.reduce((sum, weight) => sum + weight, 0);
      const at = part * queries + row;
      lse[at] = visible.length === 0 ? Number.NEGATIVE_INFINITY : max + Math.log(total);
      for (let e = 0; e < valueDim; e++) {
        const sum = visible.reduce(
          (s, j, n) => s + weights[n]! * value.data[(kv * keys + j) * valueDim + e]!,
          0,
        );
        output[at * valueDim + e] = visible.length === 0 ? 0 : sum / total;
      }
    }
  }

  const present = {
    value,
    keys: levels.map(({ tensor }, level) => lastRows(tensor, cachedKeys(parameters, level, before + fresh))),
  };
  return {
    output: { dims: [batch, heads, queries, valueDim], data: output },
    lse: { dims: [batch, heads, queries], data: lse },
    present,
  };
}

/** Channels [offset, offset + count) of a tensor of four axes. */
function columns({ dims, data }: Tensor, offset: number, count: number): Tensor {
  const [batch = 0, heads = 0, rows = 0, size = 0] = dims;
  const picked = new Float32Array(batch * heads * rows * count);
  for (let row = 0; row < batch * heads * rows; row++) {
    picked.set(data.subarray(row * size + offset, row * size + offset + count), row * count);
  }
  return { dims: [batch, heads, rows, count], data: picked };
}

/** `first` followed by `second` along axis 2. */
function joinRows(first: Tensor, second: Tensor): Tensor {
  const [batch = 0, heads = 0, before = 0, size = 0] = first.dims;
  const after = second.dims[2] ?? 0;
  const data = new Float32Array(batch * heads * (before + after) * size);
  for (let head = 0; head < batch * heads; head++) {
    const at = head * (before + after) * size;
    data.set(first.data.subarray(head * before * size, (head + 1) * before * size), at);
    data.set(second.data.subarray(head * after * size, (head + 1) * after * size), at + before * size);
  }
  return { dims: [batch, heads, before + after, size], data };
}

/** The last `count` rows of axis 2. */
function lastRows({ dims, data }: Tensor, count: number): Tensor {
  const [batch = 0, heads = 0, rows = 0, size = 0] = dims;
  const kept = new Float32Array(batch * heads * count * size);
  for (let head = 0; head < batch * heads; head++) {
    kept.set(
      data.subarray((head * rows + rows - count) * size, (head + 1) * rows * size),
      head * count * size,
    );
  }
  return { dims: [batch, heads, count, size], data: kept };
}
