import type { Tensor } from 'onnxruntime-common';
import { DataType } from '../../../rewriter/onnx/spec.js';

const TYPES: readonly (readonly [DataType, Tensor.Type])[] = [
  [DataType.FLOAT, 'float32'],
  [DataType.UINT8, 'uint8'],
  [DataType.INT8, 'int8'],
  [DataType.UINT16, 'uint16'],
  [DataType.INT16, 'int16'],
  [DataType.INT32, 'int32'],
  [DataType.INT64, 'int64'],
  [DataType.STRING, 'string'],
  [DataType.BOOL, 'bool'],
  [DataType.FLOAT16, 'float16'],
  [DataType.DOUBLE, 'float64'],
  [DataType.UINT32, 'uint32'],
  [DataType.UINT64, 'uint64'],
  [DataType.UINT4, 'uint4'],
  [DataType.INT4, 'int4'],
];

/** The name that onnxruntime-common gives an element type, or null. */
export const tensorType = (type: DataType): Tensor.Type | null =>
  TYPES.find(([known]) => known === type)?.[1] ?? null;

/** Element type by onnxruntime-common's name. */
export const dataType = (type: Tensor.Type): DataType => TYPES.find(([, name]) => name === type)![0];
