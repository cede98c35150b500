import type { Node } from '../graph/node.js';
import type { Value } from '../graph/value.js';
import { elementwiseFusion } from './elementwise-fusion.js';
import type { FormContext, Fusion, Miss, SourceForm } from './source-form.js';

/**
 * Element-wise attention by its definition: the softmax over the keys of -(q - k)^2, channel by channel, times
 * the values and summed.
 */
export const elementwiseSoftmax: SourceForm = {
  name: 'elementwise-softmax',
  anchors: ['ReduceSum'],
  recognize,
};

function recognize(anchor: Node, context: FormContext): Fusion | Miss {
  const product = anchor.inputs[0]?.producer ?? null;
  const softmax =
    product?.type === 'Mul' ? product.inputs.map(softmaxBehind).find(found => found !== null) : null;
  if (softmax == null) return { node: anchor, reason: 'it sums no weighted values', near: false, nodes: [] };
  const interior = [{ value: softmax.outputs[0]!, holds: 'attention probabilities' }];
  return elementwiseFusion({ anchor, normalizer: softmax.inputs[0]!, softmax, interior }, context);
}

/** The softmax that a value is, moved around or not. */
function softmaxBehind(value: Value | null): Node | null {
  const producer = value?.producer ?? null;
  if (producer === null) return null;
  if (producer.type === 'Softmax') return producer;
  const moves = ['Identity', 'Cast', 'Dropout', 'Unsqueeze', 'Squeeze', 'Transpose'];
  return moves.includes(producer.type) ? softmaxBehind(producer.inputs[0] ?? null) : null;
}
