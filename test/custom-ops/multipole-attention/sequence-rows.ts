import type { Tensor } from '../../../custom-ops/operator.js';

/** Positions [from, to) of a [B,H,N,D] tensor. */
export function sequenceRows({ dims, data }: Tensor, from: number, to: number): Tensor {
  const [batch = 0, heads = 0, length = 0, size = 0] = dims;
  const rows = new Float32Array(batch * heads * (to - from) * size);
  for (let head = 0; head < batch * heads; head++) {
    const start = head * length * size;
    rows.set(data.subarray(start + from * size, start + to * size), head * (to - from) * size);
  }
  return { dims: [batch, heads, to - from, size], data: rows };
}
