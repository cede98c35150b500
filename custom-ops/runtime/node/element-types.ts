import type { Tensor } from 'onnxruntime-node';
import { DataType } from '../../../rewriter/onnx/spec.js';

interface NumericArrayConstructor {
  new (buffer: ArrayBuffer): ArrayBufferView;
}

/** Newer JavaScript has it; onnxruntime-common then uses it for float16, and Uint16Array before. */
const HalfArray =
  (globalThis as { readonly Float16Array?: NumericArrayConstructor }).Float16Array ?? Uint16Array;

const ARRAYS = new Map<DataType, readonly [Tensor.Type, NumericArrayConstructor | null]>([
  [DataType.FLOAT, ['float32', Float32Array]],
  [DataType.UINT8, ['uint8', Uint8Array]],
  [DataType.INT8, ['int8', Int8Array]],
  [DataType.UINT16, ['uint16', Uint16Array]],
  [DataType.INT16, ['int16', Int16Array]],
  [DataType.INT32, ['int32', Int32Array]],
  [DataType.INT64, ['int64', BigInt64Array]],
  [DataType.STRING, ['string', null]],
  [DataType.BOOL, ['bool', Uint8Array]],
  [DataType.FLOAT16, ['float16', HalfArray]],
  [DataType.DOUBLE, ['float64', Float64Array]],
  [DataType.UINT32, ['uint32', Uint32Array]],
  [DataType.UINT64, ['uint64', BigUint64Array]],
  [DataType.UINT4, ['uint4', Uint8Array]],
  [DataType.INT4, ['int4', Uint8Array]],
]);

const DATA_TYPES = new Map([...ARRAYS].map(([dataType, [name]]) => [name, dataType]));

/**
 * onnxruntime-common's name of an element type.
 * @throws Error for a type that it has no name for
 */
export function typeName(dataType: number): Tensor.Type {
  const known = ARRAYS.get(dataType);
  if (!known) throw new Error(`Unsupported data type: ${DataType[dataType] ?? dataType}`);
  return known[0];
}

/** @throws Error for a name that ONNX Runtime has no type for */
export function dataTypeOf(name: Tensor.Type): DataType {
  const dataType = DATA_TYPES.get(name);
  if (dataType === undefined) throw new Error(`Unsupported data type: ${name}`);
  return dataType;
}

/** Elements over a buffer, in the array type that a Tensor of this element type has. */
export function viewOf(dataType: number, buffer: ArrayBuffer): ArrayBufferView {
  const NumericArray = ARRAYS.get(dataType)?.[1];
  if (!NumericArray) throw new Error(`Unsupported data type: ${DataType[dataType] ?? dataType}`);
  return new NumericArray(buffer);
}
