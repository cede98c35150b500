import type { Node } from '../graph/node.js';
import type { Value } from '../graph/value.js';
import { Experiment } from '../match/experiment.js';
import type { Match } from '../match/matcher.js';
import { upstreamOf } from '../match/operands.js';
import { any, node, oneOf, type Pattern, through } from '../match/pattern.js';
import { type Laboratory, PLAIN, type Trial } from '../probe/laboratory.js';
import { sizeOf, UnknownSample } from '../probe/sample.js';
import { LOGITS, softmaxOf } from './softmax.js';

/** A logit that each row of a head has besides those of its keys. */
export interface FoundSink {
  /** A number for each query head [H], of any shape; null for zeros. */
  readonly value: Value | null;
}

/**
 * A softmax that gives each row one more logit than it has keys, and drops its probability again: a row may so attend to
 * nothing. The node that leaves the probabilities of the keys is 'kept', the logits besides `logits` are 'sink'. Both have
 * to be confirmed by {@link sinkOf}.
 */
export function softmaxWithSink(logits: Pattern): Pattern {
  const unfit = ({ inputs }: Node) => (inputs.length === 2 ? null : 'joins more than the logits and a sink');
  const joined = oneOf(
    'sink',
    {
      last: node('Concat', [logits, any('sink')], { unfit }),
      first: node('Concat', [any('sink'), logits], { unfit }),
      zero: node('Pad', [logits], { more: true, name: 'padded' }),
    },
    LOGITS,
  );
  const softmax = through(softmaxOf(joined), 'a softmax');
  return node('Slice', [softmax], { more: true, name: 'kept' });
}

/** The sink of a match; null where it has none, and a text where it has something else. */
export function sinkOf(found: Match, laboratory: Laboratory): FoundSink | string | null {
  if (!found.nodes.has('kept')) return null;
  try {
    if (!laboratory.trials.every(trial => keepsKeys(found, trial))) {
      return 'more or less than the probability of its sink is dropped';
    }
    const sink = found.values.get('sink');
    if (sink === undefined) {
      const isZero = laboratory.trials.every(trial => addsZero(found, trial));
      return isZero ? { value: null } : 'its scores are padded by something else than a column of zeros';
    }
    const path = upstreamOf(sink, laboratory).filter(({ factor }) => factor === 1);
    const byHead = path.map(({ value }) => value).filter(value => isByHead(value, sink, laboratory));
    return byHead.length === 0 ? 'its sink is not one number for each head' : { value: byHead.at(-1)! };
  } catch (error) {
    if (!(error instanceof UnknownSample)) throw error;
    return `its sink cannot be followed: ${error.message}`;
  }
}

/** Rows are told apart up to this number, which half precision holds. */
const ROWS = 1021;

/** Whether all columns but the sink's are kept, in order. @throws UnknownSample */
function keepsKeys({ nodes, matched, choices }: Match, trial: Trial): boolean {
  const [all, kept] = [nodes.get('softmax')!, nodes.get('kept')!].map(({ outputs }) => outputs[0]!);
  const within = new Set(matched.map(({ outputs }) => outputs[0]!));
  const traced = (at: (index: number) => number) => {
    const experiment = new Experiment(trial.probe(PLAIN), within);
    experiment.set(all!, at);
    return experiment.sample(kept!);
  };
  const columns = trial.probe(PLAIN).sample(all!).dims.at(-1)!;
  const [column, row] = [traced(i => i % columns), traced(i => Math.floor(i / columns) % ROWS)];
  const left = columns - 1;
  const skipped = choices.some(({ tag, alternative }) => tag === 'sink' && alternative === 'first') ? 1 : 0;
  if (column.dims.at(-1) !== left) return false;
  return Array.from({ length: sizeOf(column.dims) }, (_, i) => i).every(
    i => column.at(i) === (i % left) + skipped && row.at(i) === Math.floor(i / left) % ROWS,
  );
}

/** Whether padding puts one column of zeros behind the logits. @throws UnknownSample */
function addsZero({ nodes, values }: Match, trial: Trial): boolean {
  const [logits, padded] = [values.get('logits')!, nodes.get('padded')!.outputs[0]!];
  const experiment = new Experiment(trial.probe(PLAIN), new Set([padded]));
  experiment.set(logits, () => 1);
  const { dims, at } = experiment.sample(padded);
  const before = trial.probe(PLAIN).sample(logits).dims;
  const columns = before.at(-1)! + 1;
  const places = Array.from({ length: sizeOf(dims) }, (_, i) => i);
  return (
    dims.join() === [...before.slice(0, -1), columns].join() &&
    places.every(i => at(i) === (i % columns === columns - 1 ? 0 : 1))
  );
}

/** Whether `source` holds, in order, the numbers for the heads that `sink` [...,H,N,1] repeats. @throws UnknownSample */
function isByHead(source: Value, sink: Value, laboratory: Laboratory): boolean {
  return laboratory.trials.every(trial => {
    const experiment = new Experiment(trial.probe(PLAIN));
    const heads = sizeOf(trial.probe(PLAIN).sample(source).dims);
    experiment.set(source, index => index);
    const { dims, at } = experiment.sample(sink);
    const rows = dims.at(-2);
    if (dims.at(-1) !== 1 || rows === undefined || heads > ROWS) return false;
    const places = Array.from({ length: sizeOf(dims) }, (_, i) => i);
    return places.every(i => at(i) === Math.floor(i / rows) % heads);
  });
}
