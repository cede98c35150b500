import type { Node } from '../graph/node.js';
import type { Match } from '../match/matcher.js';
import { any, bound, node, oneOf, type Pattern, type RankOf, through } from '../match/pattern.js';
import { type Laboratory, PLAIN } from '../probe/laboratory.js';

/** What messages say that a softmax is expected to take. */
export const LOGITS = 'a product of query and key, scaled or masked';

/**
 * The softmax of `logits` over the last axis; the node that gives the probabilities is 'softmax'. It is one operator,
 * or written out: exponentials over their sum, or of logits less the logarithm of that sum. The largest logit of a row may
 * be subtracted first. What is subtracted and divided by has to be confirmed by {@link softmaxProblem}.
 */
export function softmaxOf(logits: Pattern): Pattern {
  const largest = through(node('ReduceMax', [any('unshifted')], { more: true }), 'the largest logit');
  const shifted = oneOf(
    'shift',
    { largest: node('Sub', [bound('unshifted', logits), largest], { name: 'shifted' }), none: logits },
    LOGITS,
  );
  const sums = through(node('ReduceSum', [any('exponentials')], { more: true }), 'a sum of exponentials');
  const logarithms = oneOf(
    'logarithm',
    {
      operator: node('LogSoftmax', [shifted], { unfit: unfitAxis }),
      written: node(
        'Sub',
        [
          bound('exponents', shifted),
          through(node('ReduceLogSumExp', [any('exponents')], { more: true }), 'a logarithm of a sum'),
        ],
        { name: 'normalized' },
      ),
    },
    LOGITS,
  );
  return oneOf('softmax', {
    operator: node('Softmax', [shifted], { name: 'softmax', unfit: unfitAxis }),
    written: node('Div', [bound('exponentials', node('Exp', [shifted])), sums], { name: 'softmax' }),
    ofLogarithms: node('Exp', [through(logarithms, 'logarithms of probabilities')], { name: 'softmax' }),
  });
}

/** The softmax runs over keys, the last axis; before opset 13 it takes all axes from the given one on. */
function unfitAxis(softmax: Node, rankOf: RankOf): string | null {
  const axis = softmax.int('axis', softmax.opset >= 13 ? -1 : 1);
  if (axis === -1) return null;
  const rank = rankOf(softmax.inputs[0]!);
  if (typeof rank === 'string') return `has a shape that cannot be followed: ${rank}`;
  return axis === rank - 1 ? null : `runs along axis ${axis} of ${rank}, not along the last one`;
}

/** Why what {@link softmaxOf} matched is no softmax over the last axis; null where it is one. */
export function softmaxProblem({ nodes }: Match, { trials }: Laboratory): string | null {
  const softmax = nodes.get('softmax')!;
  const reduced = [
    nodes.get('shifted'),
    nodes.get('normalized'),
    softmax.type === 'Div' ? softmax : undefined,
  ];
  const overLastAxis = trials.every(trial =>
    reduced.every(step => {
      if (step === undefined) return true;
      const [whole, part] = step.inputs.map(input => trial.probe(PLAIN).tryToSample(input!)?.dims);
      return whole !== undefined && part?.join() === [...whole.slice(0, -1), 1].join();
    }),
  );
  return overLastAxis ? null : 'its softmax does not run along the last axis';
}

/**
 * What a row becomes whose logits are all the same large negative number: a mean of the values, but unknown where the
 * logarithm of a sum is subtracted, as rounding takes the number of keys out of it.
 */
export function equalRowOf({ nodes }: Match): 'mean' | 'unknown' {
  return nodes.has('normalized') ? 'unknown' : 'mean';
}
