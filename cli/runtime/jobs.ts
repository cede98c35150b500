import type { Validation } from '../../rewriter/validation.js';
import type { BenchRequest, BenchResult } from '../bench-models.js';
import type { Calibration, CalibrationRequest } from '../calibration/calibrate-model.js';
import type { Failure } from '../errors.js';
import type { RunRequest, RunResult } from '../run-model.js';
import type { TimingRequest, TimingResult } from '../time-models.js';
import type { TuneRequest } from '../tune/tune-model.js';
import type { Tuning } from '../tune/tuning.js';
import type { ValidationRequest } from '../validation/validate-models.js';

/** Work that executes models, and is therefore done in a process of its own. */
export interface Jobs {
  validate: { readonly request: ValidationRequest; readonly result: Validation };
  run: { readonly request: RunRequest; readonly result: RunResult };
  time: { readonly request: TimingRequest; readonly result: TimingResult };
  bench: { readonly request: BenchRequest; readonly result: BenchResult };
  calibrate: { readonly request: CalibrationRequest; readonly result: Calibration };
  tune: { readonly request: TuneRequest; readonly result: Tuning };
}

export type JobName = keyof Jobs;

/** Reports that `done` of `total` steps are over and that the step `label` is under way. */
export type Progress = (done: number, total: number, label: string) => void;

/** The one message to a job process. */
export type JobMessage = {
  readonly [J in JobName]: { readonly job: J; readonly request: Jobs[J]['request'] };
}[JobName];

/** Messages from a job process; `result` or `failure` is the last. */
export type JobReply =
  | { readonly kind: 'progress'; readonly done: number; readonly total: number; readonly label: string }
  | { readonly kind: 'result'; readonly result: Jobs[JobName]['result'] }
  | { readonly kind: 'failure'; readonly failure: Failure };
