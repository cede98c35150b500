import type { Node } from '../graph/node.js';
import type { Value } from '../graph/value.js';
import type { Laboratory } from '../probe/laboratory.js';
import { elementwiseFusion } from './elementwise-fusion.js';
import type { FormContext, Fusion, Miss, SourceForm } from './source-form.js';

/**
 * Element-wise attention as a quotient of sums: the Taylor series by ReduceSum or, causal, CumSum; or the
 * exponentials of all pairs, numerator and denominator apart.
 */
export const elementwiseSeries: SourceForm = {
  name: 'elementwise-series',
  anchors: ['Div', 'Mul'],
  recognize,
};

function recognize(anchor: Node, context: FormContext): Fusion | Miss {
  const quotient = quotientOf(anchor, context.laboratory);
  if (quotient === null) return { node: anchor, reason: 'it is no quotient', near: false, nodes: [] };
  const { numerator, denominator } = quotient;
  const interior = [
    { value: numerator, holds: 'weighted sums' },
    { value: denominator, holds: 'sums of weights' },
  ];
  const output = anchor.outputs[0]!;
  return elementwiseFusion({ anchor, output, normalizer: denominator, softmax: null, interior }, context);
}

/** A quotient of two computed values, written as such or as a product with a reciprocal. */
function quotientOf(
  { type, inputs }: Node,
  laboratory: Laboratory,
): { readonly numerator: Value; readonly denominator: Value } | null {
  const [first, second] = inputs;
  if (first == null || second == null) return null;
  const computed = (value: Value | null) => value?.producer != null && laboratory.scalar(value) === null;
  if (type === 'Div') return computed(second) ? { numerator: first, denominator: second } : null;
  for (const [numerator, factor] of [
    [first, second],
    [second, first],
  ] as const) {
    const denominator = reciprocalOf(factor, laboratory);
    if (computed(denominator)) return { numerator, denominator: denominator! };
  }
  return null;
}

/** What a value is one over. */
function reciprocalOf({ producer }: Value, laboratory: Laboratory): Value | null {
  if (producer?.type === 'Reciprocal') return producer.inputs[0] ?? null;
  const [one, divisor] = producer?.type === 'Div' ? producer.inputs : [];
  return one != null && laboratory.scalar(one) === 1 ? (divisor ?? null) : null;
}
