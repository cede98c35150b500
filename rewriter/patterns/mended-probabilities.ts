import { HIDDEN_AT_MOST } from '../masks/logits.js';
import { Experiment } from '../match/experiment.js';
import type { Match } from '../match/matcher.js';
import { any, lazy, node, oneOf, type Pattern, through } from '../match/pattern.js';
import { drawn, type Feed } from '../probe/feed.js';
import { type Laboratory, PLAIN, type Trial } from '../probe/laboratory.js';
import { sizeOf, UnknownSample } from '../probe/sample.js';
import type { AttentionSite } from '../site.js';
import { equalRowOf } from './softmax.js';

/** What becomes of rows without a visible key: of logits that are all minus infinity, and all the same number. */
export type EmptyRows = Readonly<Record<'infinite' | 'equal', AttentionSite['emptyRow']>>;

/**
 * Probabilities of which some are replaced before they weight values: the NaN of rows without a visible key, or those
 * of hidden keys, which are zero but in such rows. {@link mendingOf} tells whether it is no more than that.
 */
export function mended(probabilities: Pattern): Pattern {
  const inner = through(
    lazy(() => outer),
    'probabilities',
  );
  const outer: Pattern = oneOf('mended', {
    not: probabilities,
    filled: node('Where', [any(), any(), inner]),
    kept: node('Where', [any(), inner, any()]),
  });
  return outer;
}

/** Probabilities to be left alone, in half precision too. */
const ORDINARY = [0.25, 2 ** -12, 1];

/**
 * What the replacements of {@link mended} make of rows without a visible key; null where there are none, and a text where
 * they change anything else.
 */
export function mendingOf(found: Match, laboratory: Laboratory): EmptyRows | string | null {
  if (!found.choices.some(({ tag, alternative }) => tag === 'mended' && alternative !== 'not')) return null;
  // Any token may count as absent.
  const feeds = [
    [0, 1],
    [0, 1, 2],
  ].map((tokens, n) => laboratory.feed(`drawn ${n} ${tokens.join(' ')}`, () => drawn(n, tokens)));
  try {
    const effects = laboratory.trials.flatMap(trial =>
      [PLAIN, ...feeds].map(feed => effectOf(found, trial, feed)),
    );
    if (effects.some(({ changes }) => changes)) return 'the probabilities of visible keys are changed';
    return {
      infinite: effects.every(({ clearsNaN }) => clearsNaN) ? 'zeros' : 'nan',
      equal: effects.every(({ clearsHidden }) => clearsHidden) ? 'zeros' : equalRowOf(found),
    };
  } catch (error) {
    if (!(error instanceof UnknownSample)) throw error;
    return `what replaces its probabilities cannot be followed: ${error.message}`;
  }
}

interface Effect {
  /** A probability of a visible key is replaced, or one of a hidden key by anything but zero. */
  readonly changes: boolean;
  /** Hidden keys get zero, even where the probability is NaN, or another number. */
  readonly clearsNaN: boolean;
  readonly clearsHidden: boolean;
}

/** @throws UnknownSample */
function effectOf({ nodes, values, matched }: Match, trial: Trial, feed: Feed): Effect {
  const whole = (nodes.get('kept') ?? nodes.get('softmax')!).outputs[0]!;
  const result = matched.find(({ type }) => type === 'Where')!.outputs[0]!;
  const probe = trial.probe(feed);
  const logits = probe.sample(values.get('logits')!);
  const count = sizeOf(logits.dims);
  const resultOf = (probability: number) => {
    const experiment = new Experiment(probe);
    experiment.set(whole, () => probability);
    const { dims, at } = experiment.sample(result);
    if (sizeOf(dims) !== count) throw new UnknownSample('probabilities and logits differ in shape');
    return at;
  };
  const places = Array.from({ length: count }, (_, i) => i);
  const hidden = places.filter(i => logits.at(i) <= HIDDEN_AT_MOST);
  const isHidden = new Set(hidden);
  const results = ORDINARY.map(probability => ({ probability, at: resultOf(probability) }));
  const changes = places.some(i =>
    results.some(({ probability, at }) => at(i) !== probability && !(isHidden.has(i) && at(i) === 0)),
  );
  const ofNaN = resultOf(Number.NaN);
  return {
    changes,
    clearsNaN: hidden.every(i => ofNaN(i) === 0),
    clearsHidden: hidden.every(i => results[0]!.at(i) === 0),
  };
}
