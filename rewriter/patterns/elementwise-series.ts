import type { Node } from '../graph/node.js';
import { elementwiseFusion } from './elementwise-fusion.js';
import type { FormContext, Fusion, Miss, SourceForm } from './source-form.js';

/**
 * Element-wise attention as a quotient of sums: the Taylor series by ReduceSum or, causal, CumSum; or the
 * exponentials of all pairs, numerator and denominator apart.
 */
export const elementwiseSeries: SourceForm = { name: 'elementwise-series', anchors: ['Div'], recognize };

function recognize(anchor: Node, context: FormContext): Fusion | Miss {
  const [numerator, denominator] = anchor.inputs;
  const far: Miss = { node: anchor, reason: 'it divides by a constant', near: false, nodes: [] };
  if (numerator == null || denominator == null || denominator.producer === null) return far;
  if (context.laboratory.scalar(denominator) !== null) return far;
  const interior = [
    { value: numerator, holds: 'weighted sums' },
    { value: denominator, holds: 'sums of weights' },
  ];
  return elementwiseFusion({ anchor, normalizer: denominator, softmax: null, interior }, context);
}
