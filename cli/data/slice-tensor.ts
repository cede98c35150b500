import { ARRAY_TYPES, type TensorValue } from './tensor.js';

/** The part `[start, end)` of a tensor along one axis, as a copy. */
export function sliceTensor(tensor: TensorValue, axis: number, start: number, end: number): TensorValue {
  const { type, dims, data } = tensor;
  const inner = dims.slice(axis + 1).reduce((product, dim) => product * dim, 1);
  const outer = dims.slice(0, axis).reduce((product, dim) => product * dim, 1);
  const count = (end - start) * inner;
  const part = new ARRAY_TYPES[type](outer * count);
  for (let o = 0; o < outer; o++) {
    const from = (o * dims[axis]! + start) * inner;
    part.set(data.subarray(from, from + count) as never, o * count);
  }
  return { type, dims: dims.map((dim, a) => (a === axis ? end - start : dim)), data: part } as TensorValue;
}
