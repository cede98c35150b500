import { InputError } from '../../rewriter/errors.js';
import { ARRAY_TYPES, type TensorValue } from './tensor.js';

/**
 * Inputs of one batch row, `batch` times over; tensors without a batch axis of size 1 stay as they are.
 * @throws InputError when no input has such an axis
 */
export function repeatBatch(
  inputs: ReadonlyMap<string, TensorValue>,
  batch: number,
): ReadonlyMap<string, TensorValue> {
  if (batch === 1) return inputs;
  if (![...inputs.values()].some(({ dims }) => dims[0] === 1)) {
    throw new InputError('the inputs have no batch axis of size 1 to repeat', {
      remedy: 'Leave out --batch, or give inputs with one batch row.',
    });
  }
  return new Map([...inputs].map(([name, tensor]) => [name, repeat(tensor, batch)]));
}

function repeat(tensor: TensorValue, batch: number): TensorValue {
  const { type, dims, data } = tensor;
  if (dims[0] !== 1) return tensor;
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const repeated = new Uint8Array(bytes.length * batch);
  for (let row = 0; row < batch; row++) repeated.set(bytes, row * bytes.length);
  return {
    type,
    dims: [batch, ...dims.slice(1)],
    data: new ARRAY_TYPES[type](repeated.buffer),
  } as TensorValue;
}
