import type * as Ort from 'onnxruntime-common';
import { fitsDims } from '../../../rewriter/onnx/element-size.js';
import type { ValueInfo } from '../../../rewriter/onnx/model-info.js';
import { tensorType } from './tensor-type.js';

/**
 * What a model of several parts would only find out in one of them, in the words of that part.
 * @param inputs of the model, those without a stored value
 * @throws Error naming the input: missing, unknown, of another element type or of a shape that does not fit
 */
export function checkFeeds(
  inputs: readonly ValueInfo[],
  feeds: Readonly<Record<string, Ort.OnnxValue | null | undefined>>,
): asserts feeds is Readonly<Record<string, Ort.Tensor>> {
  const names = inputs.map(({ name }) => name);
  const unknown = Object.keys(feeds).find(name => !names.includes(name));
  if (unknown !== undefined)
    throw new Error(`'feeds' names '${unknown}', which is no input: those are ${names.join(', ')}`);
  for (const { name, dataType, dims } of inputs) {
    const tensor = feeds[name];
    if (!tensor) throw new Error(`input '${name}' is missing in 'feeds'`);
    const expected = tensorType(dataType);
    if (expected !== null && tensor.type !== expected)
      throw new Error(`input '${name}' is ${tensor.type} where the model takes ${expected}`);
    if (dims === null || fitsDims(tensor.dims, dims)) continue;
    const wanted = dims.map(dim => dim ?? '?').join(', ');
    throw new Error(
      `input '${name}' has shape [${tensor.dims.join(', ')}] where the model takes [${wanted}]`,
    );
  }
}
