import type { Tensor as OrtTensor } from 'onnxruntime-common';
import type { Tensor } from '../../../custom-ops/operator.js';
import { caseInputs, type StructuredMatMulCase } from '../../../custom-ops/structured-matmul/cases.js';
import { INPUT_NAMES } from '../../../custom-ops/structured-matmul/function-body.js';
import { structuredMatMul } from '../../../custom-ops/structured-matmul/reference.js';
import { float16ToFloat32, float32ToFloat16 } from '../../../rewriter/onnx/float16.js';
import { HALF, SINGLE } from '../../comparison.js';
import { assertClose } from '../elementwise-attention/comparison.js';
import type { OnnxRuntime } from '../onnx-runtime.js';
import { type NodeModelOptions, nodeModel } from './node-model.js';

export interface CheckOptions extends Pick<NodeModelOptions, 'opset' | 'bare'> {
  /** The factors are constants of the model, as in models of products, instead of inputs. */
  readonly stored?: boolean;
}

/** Runs a case as a model of one node and compares it with the reference. */
export async function checkCase(
  runtime: OnnxRuntime,
  shared: StructuredMatMulCase,
  { stored = false, ...options }: CheckOptions = {},
): Promise<void> {
  const { structure, leading, float16 } = shared;
  const { x, factors } = caseInputs(shared);
  const model = nodeModel(structure, {
    ...options,
    float16,
    rank: leading.length + 1,
    factors: stored ? factors : [],
  });
  const session = await runtime.InferenceSession.create(model, { logSeverityLevel: 3 });
  const tensor = ({ dims, data }: Tensor) =>
    float16
      ? new runtime.Tensor('float16', float32ToFloat16(data), dims)
      : new runtime.Tensor('float32', data, dims);
  const feeds = Object.fromEntries(
    [x, ...(stored ? [] : factors)].map((value, n): [string, OrtTensor] => [INPUT_NAMES[n]!, tensor(value)]),
  );
  const { output } = await session.run(feeds);
  const data = (output as OrtTensor).data as Float32Array | Uint16Array;
  const actual = {
    dims: (output as OrtTensor).dims,
    data: data instanceof Float32Array ? data.slice() : float16ToFloat32(Uint16Array.from(data)),
  };
  await session.release();
  assertClose(actual, structuredMatMul(x, structure, factors), float16 ? HALF : SINGLE, 'output');
}
