import type { Progress } from '../runtime/jobs.js';

/** Steps that a progress bar is divided into: finer than its characters and percents. */
const RESOLUTION = 1000;
/** Work that has to be over before its pace says anything, seconds. */
const TELLING_SECONDS = 5;

/** A part of the work, as a range of a whole: parts are divided further without knowing each other. */
export class ShareOfProgress {
  constructor(
    private readonly tell: (fraction: number, label: string) => void,
    private readonly start = 0,
    private readonly end = 1,
  ) {}

  /** The part of this part from `start` to `end`, both between 0 and 1. */
  part(start: number, end: number): ShareOfProgress {
    return new ShareOfProgress(this.tell, this.at(start), this.at(end));
  }

  /** Tells that `done` of `total` steps of this part are over and that `label` is under way. */
  step(done: number, total: number, label: string): void {
    this.tell(this.at(total === 0 ? 0 : done / total), label);
  }

  private at(fraction: number): number {
    return this.start + (this.end - this.start) * Math.min(fraction, 1);
  }
}

/**
 * Phases of a job one after the other, by what they are expected to take. Tells progress with the time that is
 * left: what is expected, times how much longer than expected it has taken so far.
 */
export class Workload<Phase extends string> {
  private readonly seconds: Map<Phase, number>;
  private last: { readonly phase: Phase; readonly fraction: number; readonly at: number } | null = null;
  private expected = 0;
  private taken = 0;

  /** @param expected seconds of each phase, in their order */
  constructor(
    private readonly progress: Progress,
    expected: Readonly<Record<Phase, number>>,
    private readonly now: () => number = () => performance.now() / 1000,
  ) {
    this.seconds = new Map(Object.entries(expected) as [Phase, number][]);
  }

  /** Replaces what phases are expected to take, once more is known. */
  expect(expected: Readonly<Partial<Record<Phase, number>>>): void {
    for (const [phase, seconds] of Object.entries(expected))
      this.seconds.set(phase as Phase, seconds as number);
  }

  /** The whole of a phase. */
  phase(phase: Phase): ShareOfProgress {
    return new ShareOfProgress((fraction, label) => this.tell(phase, fraction, label));
  }

  private tell(phase: Phase, fraction: number, label: string): void {
    const at = this.now();
    const { last } = this;
    // What a cache answers is skipped and takes no time: only work between two steps of a phase has a pace.
    if (last?.phase === phase && fraction > last.fraction) {
      this.expected += (fraction - last.fraction) * this.seconds.get(phase)!;
      this.taken += at - last.at;
    }
    this.last = { phase, fraction, at };
    const order = [...this.seconds.keys()];
    const before = this.sum(order.slice(0, order.indexOf(phase)));
    const done = before + fraction * this.seconds.get(phase)!;
    const total = this.sum(order);
    const pace = this.expected > TELLING_SECONDS ? this.taken / this.expected : 1;
    const left = (total - done) * pace;
    this.progress(Math.round((RESOLUTION * done) / total), RESOLUTION, `${timeLeft(left)} · ${label}`);
  }

  private sum(phases: readonly Phase[]): number {
    return phases.reduce((sum, phase) => sum + this.seconds.get(phase)!, 0);
  }
}

/** A rough time, as people say it: `about 3 min left`. */
export function timeLeft(seconds: number): string {
  if (seconds < 50) return `about ${Math.max(5, 10 * Math.round(seconds / 10))} s left`;
  return `about ${Math.round(seconds / 60)} min left`;
}
