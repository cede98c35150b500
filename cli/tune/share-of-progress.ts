import type { Progress } from '../runtime/jobs.js';

/** Steps that a progress bar is divided into: finer than its characters and percents. */
const RESOLUTION = 1000;

/** A part of the work, as a range of the whole: parts are divided further without knowing each other. */
export class ShareOfProgress {
  constructor(
    private readonly progress: Progress,
    private readonly start = 0,
    private readonly end = 1,
  ) {}

  /** The part of this part from `start` to `end`, both between 0 and 1. */
  part(start: number, end: number): ShareOfProgress {
    return new ShareOfProgress(this.progress, this.at(start), this.at(end));
  }

  /** Tells that `done` of `total` steps of this part are over and that `label` is under way. */
  step(done: number, total: number, label: string): void {
    this.progress(Math.round(RESOLUTION * this.at(total === 0 ? 0 : done / total)), RESOLUTION, label);
  }

  private at(fraction: number): number {
    return this.start + (this.end - this.start) * Math.min(fraction, 1);
  }
}
