import type { Tensor } from '../../custom-ops/operator.js';
import {
  bfloat16ToFloat32,
  float16ToFloat32,
  float32ToBfloat16,
  float32ToFloat16,
} from '../../rewriter/onnx/float16.js';
import { DataType } from '../../rewriter/onnx/spec.js';
import { HALF, SINGLE } from '../comparison.js';
import { type CaseTensor, caseTensor } from '../custom-ops/case-file.js';

/** Element types that the CUDA kernels take. */
export const GPU_TYPES = ['float32', 'float16', 'bfloat16'] as const;
export type GpuType = (typeof GPU_TYPES)[number];

/** Largest allowed relative error ||out - ref|| / ||ref|| under equal choices. */
export const TOLERANCE: Record<GpuType, number> = { float32: SINGLE, float16: HALF, bfloat16: 8 * HALF };

const ENCODING = {
  float16: { dataType: DataType.FLOAT16, encode: float32ToFloat16, decode: float16ToFloat32 },
  bfloat16: { dataType: DataType.BFLOAT16, encode: float32ToBfloat16, decode: bfloat16ToFloat32 },
};

/** The numbers that a tensor holds as `type`. */
export function rounded(tensor: Tensor, type: GpuType): Tensor {
  if (type === 'float32') return tensor;
  const { encode, decode } = ENCODING[type];
  return { dims: tensor.dims, data: decode(encode(tensor.data)) };
}

/** A tensor as `type` for a case file. */
export function encoded(name: string, tensor: Tensor, type: GpuType): CaseTensor {
  if (type === 'float32') return caseTensor(name, tensor.dims, tensor.data);
  const { dataType, encode } = ENCODING[type];
  const bits = encode(tensor.data);
  return {
    name,
    dataType,
    dims: tensor.dims,
    data: new Uint8Array(bits.buffer, bits.byteOffset, bits.byteLength),
  };
}

interface Operands {
  readonly query: Tensor;
  readonly key: Tensor;
  readonly value: Tensor;
}

/** Inputs of an operator whose queries, keys and values are what the kernels get: rounded to `type`. */
export function roundedOperands<Inputs extends Operands>(inputs: Inputs, type: GpuType): Inputs {
  return {
    ...inputs,
    query: rounded(inputs.query, type),
    key: rounded(inputs.key, type),
    value: rounded(inputs.value, type),
  };
}

/** Queries, keys and values for a case file. */
export function encodedOperands({ query, key, value }: Operands, type: GpuType): CaseTensor[] {
  return [encoded('query', query, type), encoded('key', key, type), encoded('value', value, type)];
}
