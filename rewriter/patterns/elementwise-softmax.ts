import type { Node } from '../graph/node.js';
import type { Value } from '../graph/value.js';
import { PRODUCTS } from '../match/product.js';
import { type Laboratory, PLAIN } from '../probe/laboratory.js';
import { elementwiseFusion } from './elementwise-fusion.js';
import type { FormContext, Fusion, Miss, SourceForm } from './source-form.js';

/**
 * Element-wise attention by its definition: the softmax over the keys of -(q - k)^2, channel by channel, times
 * the values and summed, be it by a product and a sum or by a product of matrices.
 */
export const elementwiseSoftmax: SourceForm = {
  name: 'elementwise-softmax',
  anchors: ['ReduceSum', ...PRODUCTS],
  recognize,
};

function recognize(anchor: Node, context: FormContext): Fusion | Miss {
  const weighted = anchor.type === 'ReduceSum' ? (anchor.inputs[0]?.producer ?? null) : anchor;
  const multiplies = weighted !== null && (weighted !== anchor ? weighted.type === 'Mul' : true);
  const softmax = multiplies ? weighted.inputs.map(softmaxBehind).find(found => found !== null) : null;
  if (softmax == null) return { node: anchor, reason: 'it sums no weighted values', near: false, nodes: [] };
  const interior = [{ value: softmax.outputs[0]!, holds: 'attention probabilities' }];
  const output = withoutUnitAxis(anchor.outputs[0]!, context.laboratory);
  return elementwiseFusion(
    { anchor, output, normalizers: [softmax.inputs[0]!], numerator: null, softmax, interior },
    context,
  );
}

/** The softmax that a value is, moved around or not. */
function softmaxBehind(value: Value | null): Node | null {
  const producer = value?.producer ?? null;
  if (producer === null) return null;
  if (producer.type === 'Softmax') return producer;
  const moves = ['Identity', 'Cast', 'Dropout', 'Unsqueeze', 'Squeeze', 'Transpose'];
  return moves.includes(producer.type) ? softmaxBehind(producer.inputs[0] ?? null) : null;
}

/** What a value with a last axis of size 1 becomes where its only use drops that axis. */
function withoutUnitAxis(value: Value, { trials }: Laboratory): Value {
  const [use, ...others] = value.uses.filter(({ node }) => node.type !== 'Shape');
  const next = use?.node.outputs[0];
  if (next == null || others.length > 0 || value.outputOf.length > 0) return value;
  if (!['Squeeze', 'Reshape', 'Gather'].includes(use!.node.type) || next.graph !== value.graph) return value;
  const drops = trials.every(trial => {
    const [before, after] = [value, next].map(each => trial.probe(PLAIN).tryToSample(each)?.dims);
    return before?.at(-1) === 1 && before.slice(0, -1).join() === after?.join();
  });
  return drops ? next : value;
}
