import type { Node } from '../graph/node.js';
import type { Value } from '../graph/value.js';
import { movedBy } from '../match/weight-chain.js';
import type { Laboratory } from '../probe/laboratory.js';
import { elementwiseFusion } from './elementwise-fusion.js';
import type { FormContext, Fusion, Miss, SourceForm } from './source-form.js';

/**
 * Element-wise attention as a quotient of sums: the Taylor series by ReduceSum or, causal, CumSum; or the
 * exponentials of all pairs, numerator and denominator apart; for all channels at once, or head by head and joined.
 */
export const elementwiseSeries: SourceForm = {
  name: 'elementwise-series',
  anchors: ['Div', 'Mul', 'Concat'],
  recognize,
};

function recognize(anchor: Node, context: FormContext): Fusion | Miss {
  const far = (reason: string): Miss => ({ node: anchor, reason, near: false, nodes: [] });
  const found = partsOf(anchor).map(part => part && quotientOf(part, context.laboratory));
  const quotients = found.filter(quotient => quotient !== null);
  if (quotients.length === 0 || quotients.length < found.length) return far('it is no quotient');
  const interior = quotients.flatMap(({ numerator, denominator }) => [
    { value: numerator, holds: 'weighted sums' },
    { value: denominator, holds: 'sums of weights' },
  ]);
  const [{ numerator }] = quotients as [Quotient, ...Quotient[]];
  const ending = {
    anchor,
    output: anchor.outputs[0]!,
    normalizers: quotients.map(({ denominator }) => denominator),
    numerator: quotients.length === 1 ? numerator : null,
    softmax: null,
    interior,
  };
  const fusion = elementwiseFusion(ending, context);
  // Heads that are no attention together may each be one.
  return quotients.length > 1 && 'reason' in fusion ? far(fusion.reason) : fusion;
}

/** The nodes that may divide: the anchor, or those whose results a loop over heads joins; null for another. */
function partsOf(anchor: Node): readonly (Node | null)[] {
  if (anchor.type !== 'Concat') return [anchor];
  return anchor.inputs.map(input => {
    let producer = input?.producer ?? null;
    for (let moved = producer && movedBy(producer); moved; moved = producer && movedBy(producer)) {
      producer = moved.producer;
    }
    return producer;
  });
}

interface Quotient {
  readonly numerator: Value;
  readonly denominator: Value;
}

/** A quotient of two computed values, written as such or as a product with a reciprocal. */
function quotientOf({ type, inputs }: Node, laboratory: Laboratory): Quotient | null {
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
