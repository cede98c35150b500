import { DataType } from './spec.js';

/** Bits of one element; types narrower than a byte are packed, the first element in the low bits. */
const BITS: Readonly<Partial<Record<DataType, number>>> = {
  [DataType.FLOAT]: 32,
  [DataType.UINT8]: 8,
  [DataType.INT8]: 8,
  [DataType.UINT16]: 16,
  [DataType.INT16]: 16,
  [DataType.INT32]: 32,
  [DataType.INT64]: 64,
  [DataType.BOOL]: 8,
  [DataType.FLOAT16]: 16,
  [DataType.DOUBLE]: 64,
  [DataType.UINT32]: 32,
  [DataType.UINT64]: 64,
  [DataType.COMPLEX64]: 64,
  [DataType.COMPLEX128]: 128,
  [DataType.BFLOAT16]: 16,
  [DataType.FLOAT8E4M3FN]: 8,
  [DataType.FLOAT8E4M3FNUZ]: 8,
  [DataType.FLOAT8E5M2]: 8,
  [DataType.FLOAT8E5M2FNUZ]: 8,
  [DataType.UINT4]: 4,
  [DataType.INT4]: 4,
  [DataType.FLOAT4E2M1]: 4,
  [DataType.FLOAT8E8M0]: 8,
  [DataType.UINT2]: 2,
  [DataType.INT2]: 2,
};

/** Bits of one element; null for strings and for types unknown here. */
export function elementBits(dataType: DataType): number | null {
  return BITS[dataType] ?? null;
}

/** Elements of a tensor of these sizes; 1 for a scalar. */
export function elementCount(dims: readonly number[]): number {
  return dims.reduce((product, dim) => product * dim, 1);
}

/** Whether a tensor of these sizes is what was declared: numbers are sizes, anything else takes any size. */
export function fitsDims(dims: readonly number[], declared: readonly unknown[]): boolean {
  return (
    dims.length === declared.length &&
    dims.every((dim, axis) => typeof declared[axis] !== 'number' || dim === declared[axis])
  );
}

/** Bytes of a tensor as `raw_data` holds it; null for strings and for types unknown here. */
export function tensorBytes(tensor: {
  readonly dataType: DataType;
  readonly dims: readonly number[];
}): number | null {
  const bits = elementBits(tensor.dataType);
  return bits === null ? null : Math.ceil((elementCount(tensor.dims) * bits) / 8);
}
