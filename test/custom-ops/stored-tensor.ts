import type { Tensor } from '../../custom-ops/operator.js';
import { float32ToFloat16 } from '../../rewriter/onnx/float16.js';
import { DataType, type TensorSpec } from '../../rewriter/onnx/spec.js';

/** A tensor as an initializer of a model, in float32 or rounded to float16. */
export function storedTensor(name: string, { dims, data }: Tensor, float16: boolean): TensorSpec {
  const values = float16 ? float32ToFloat16(data) : data;
  return {
    name,
    dataType: float16 ? DataType.FLOAT16 : DataType.FLOAT,
    dims,
    data: new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
  };
}
