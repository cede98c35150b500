import type { ModelGraph } from '../graph/model-graph.js';
import type { Value } from '../graph/value.js';
import { type Feed, uniform } from './feed.js';
import { Probe } from './probe.js';
import { SizeConflict, sizeOf, UnknownSample } from './sample.js';
import { planSizes, type SizePlan } from './size-plan.js';
import type { Sizes } from './sizes.js';

/** Free sizes of the two small trials: distinct within a trial and different from one trial to the other. */
const TRIALS: readonly Pick<SizePlan, 'batch' | 'other'>[] = [
  { batch: 2, other: cycling([5, 7, 11, 13, 17, 19, 23, 29]) },
  { batch: 3, other: cycling([6, 10, 14, 22, 26, 34, 38, 46]) },
];

function cycling(sizes: readonly number[]): SizePlan['other'] {
  return n => sizes[n % sizes.length]! * 10 ** Math.floor(n / sizes.length);
}

type Enlargement = (other: SizePlan['other']) => SizePlan['other'];

/**
 * Models whose free sizes are pixels, frames or samples need more of them than a sequence does. The last is for raw
 * audio: convolutions that look at 400 samples every 320, as in wav2vec 2.0, make as many frames of it.
 */
const ENLARGEMENTS: readonly Enlargement[] = [
  other => other,
  other => n => 16 * other(n),
  () => () => 224,
  other => n => 320 * other(n) + 80,
];

/** Sample sizes together with everything known about the graph at them. */
export interface Trial {
  readonly sizes: Sizes;
  /** The probe of a feed; the same object for the same feed object. */
  probe(feed: Feed): Probe;
}

/** Every token present; shapes are read from this feed. */
export const PLAIN: Feed = uniform(0, 1);

/** The same tokens with other data: what differs from `PLAIN` depends on data. */
export const OTHER_DATA: Feed = uniform(1, 1);

interface Attempt {
  readonly trial: Trial;
  /** The first sizes that do not fit. */
  readonly conflict: SizeConflict | null;
  /** Nodes that cannot be followed. */
  readonly failures: number;
}

/** Finds sizes that fit together and probes a model at them. */
export class Laboratory {
  /** Two small trials; only one when the model has no free size. */
  readonly trials: readonly Trial[];
  /** The one that the first trial took, and larger ones. */
  private readonly enlargements: readonly Enlargement[];
  private readonly long = new Map<number, Trial | null>();
  private readonly scalars = new Map<Value, number | null>();
  private readonly feeds = new Map<string, Feed>();

  constructor(
    private readonly graph: ModelGraph,
    private readonly cache: SizePlan['cache'] = 'filled',
  ) {
    const first = this.settle(TRIALS[0]!, ENLARGEMENTS);
    this.enlargements = ENLARGEMENTS.slice(ENLARGEMENTS.indexOf(first.enlarge));
    const others = first.trial.sizes.free === 0 ? [] : TRIALS.slice(1);
    this.trials = [first.trial, ...others.map(plan => this.settle(plan, this.enlargements).trial)];
  }

  /**
   * The number that a value is whatever the inputs: of one element, and equal in all trials and for any data.
   * Null for everything else.
   */
  scalar(value: Value): number | null {
    let known = this.scalars.get(value);
    if (known === undefined) {
      known = this.measureScalar(value);
      this.scalars.set(value, known);
    }
    return known;
  }

  /** Rank of a value, or why its shape is unknown. */
  rank(value: Value): number | string {
    try {
      return this.trials[0]!.probe(PLAIN).sample(value).dims.length;
    } catch (error) {
      if (error instanceof UnknownSample) return error.message;
      throw error;
    }
  }

  /** The feed of this key, made on first use: probes are shared by feed. */
  feed(key: string, make: () => Feed): Feed {
    let feed = this.feeds.get(key);
    if (feed === undefined) {
      feed = make();
      this.feeds.set(key, feed);
    }
    return feed;
  }

  private measureScalar(value: Value): number | null {
    let result: number | null = null;
    for (const trial of this.trials) {
      for (const feed of [PLAIN, OTHER_DATA]) {
        const sample = trial.probe(feed).tryToSample(value);
        if (sample === null || sizeOf(sample.dims) !== 1) return null;
        const element = sample.at(0);
        if (Number.isNaN(element) || (result !== null && element !== result)) return null;
        result = element;
      }
    }
    return result;
  }

  /** A trial with every free size that is no batch near `length`; null when the model has no free size. */
  longTrial(length: number): Trial | null {
    let trial = this.long.get(length);
    if (trial === undefined) {
      const plan = { batch: 2, other: (n: number) => length + 2 * n };
      trial = this.trials.length === 1 ? null : this.settle(plan, this.enlargements).trial;
      this.long.set(length, trial);
    }
    return trial;
  }

  /** The sizes, by one of these enlargements, at which most of the graph can be followed. */
  private settle({ batch, other }: Pick<SizePlan, 'batch' | 'other'>, enlargements: readonly Enlargement[]) {
    let best: (Attempt & { readonly enlarge: Enlargement }) | null = null;
    for (const enlarge of enlargements) {
      const plan = { batch, other: enlarge(other), cache: this.cache };
      const settled = this.resolveConflicts(this.attempt(planSizes(this.graph.main, plan)));
      if (best === null || settled.failures < best.failures) best = { ...settled, enlarge };
      if (best.failures === 0 || best.trial.sizes.free === 0) break;
    }
    return best!;
  }

  /** Makes sizes agree that have to, one at a time, as long as each step lets more of the graph be followed. */
  private resolveConflicts(start: Attempt): Attempt {
    let best = start;
    for (let conflict = start.conflict; conflict !== null; ) {
      let next: Attempt | null = null;
      for (const sizes of best.trial.sizes.settling(conflict)) {
        const attempt = this.attempt(sizes);
        if (attempt.failures < (next ?? best).failures) next = attempt;
        if (attempt.failures === 0) break;
      }
      if (next === null) break;
      best = next;
      conflict = next.conflict;
    }
    return best;
  }

  private attempt(sizes: Sizes): Attempt {
    const { main } = this.graph;
    const probes = new Map<Feed, Probe>();
    const trial: Trial = {
      sizes,
      probe: feed => {
        let probe = probes.get(feed);
        if (probe === undefined) {
          probe = new Probe(this.graph, sizes, feed);
          probes.set(feed, probe);
        }
        return probe;
      },
    };
    const probe = trial.probe(PLAIN);
    let conflict: SizeConflict | null = null;
    let failures = 0;
    for (const graph of main.withSubgraphs()) {
      for (const node of graph.nodes) {
        const output = node.outputs.find(value => value !== null);
        if (output === undefined) continue;
        try {
          probe.sample(output);
        } catch (error) {
          if (!(error instanceof UnknownSample)) throw error;
          failures++;
          if (error instanceof SizeConflict) conflict ??= error;
        }
      }
    }
    return { trial, conflict, failures };
  }
}
