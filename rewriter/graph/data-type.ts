import { DataType } from '../onnx/spec.js';

const FLOATING: ReadonlySet<DataType> = new Set([
  DataType.FLOAT,
  DataType.FLOAT16,
  DataType.BFLOAT16,
  DataType.DOUBLE,
]);

export function isFloating(dataType: DataType): boolean {
  return FLOATING.has(dataType);
}
