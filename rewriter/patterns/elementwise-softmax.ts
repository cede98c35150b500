import type { Node } from '../graph/node.js';
import type { Value } from '../graph/value.js';
import { PRODUCTS } from '../match/product.js';
import { type Laboratory, PLAIN } from '../probe/laboratory.js';
import { elementwiseFusion } from './elementwise-fusion.js';
import type { FormContext, Fusion, Miss, SourceForm } from './source-form.js';

/**
 * Element-wise attention by its definition: the softmax over the keys of -(q - k)^2, channel by channel, by that
 * operator or written out, times the values and summed, be it by a product and a sum or by a product of matrices.
 */
export const elementwiseSoftmax: SourceForm = {
  name: 'elementwise-softmax',
  anchors: ['ReduceSum', ...PRODUCTS],
  recognize,
};

function recognize(anchor: Node, context: FormContext): Fusion | Miss {
  const weighted = anchor.type === 'ReduceSum' ? (anchor.inputs[0]?.producer ?? null) : anchor;
  const multiplies = weighted !== null && (weighted !== anchor ? weighted.type === 'Mul' : true);
  const weights = multiplies ? weighted.inputs.map(weightsBehind).find(found => found !== null) : null;
  if (weights == null) return { node: anchor, reason: 'it sums no weighted values', near: false, nodes: [] };
  const softmax = weights.type === 'Softmax' ? weights : null;
  const ending = {
    anchor,
    output: withoutUnitAxis(anchor.outputs[0]!, context.laboratory),
    normalizers: [softmax === null ? weights.inputs[1]! : softmax.inputs[0]!],
    numerator: null,
    softmax,
    interior: [{ value: weights.outputs[0]!, holds: 'attention probabilities' }],
  };
  return elementwiseFusion(ending, context);
}

/** The softmax that a value is, or the quotient that stands for one, moved around or not. */
function weightsBehind(value: Value | null): Node | null {
  const producer = value?.producer ?? null;
  if (producer === null) return null;
  const [numerator, sums] = producer.inputs;
  const divides = producer.type === 'Div' && numerator?.producer?.type === 'Exp' && sums?.producer != null;
  if (producer.type === 'Softmax' || divides) return producer;
  const moves = ['Identity', 'Cast', 'Dropout', 'Unsqueeze', 'Squeeze', 'Transpose'];
  return moves.includes(producer.type) ? weightsBehind(producer.inputs[0] ?? null) : null;
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
