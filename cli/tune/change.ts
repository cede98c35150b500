import { mean } from '../statistics.js';

/** A change of the metric: for a loss, in proportion to the original's; for an error, the error itself. */
export interface Change {
  readonly mean: number;
  /** Standard error of the mean over windows; 0 for a single window. */
  readonly error: number;
}

/**
 * The change over several windows.
 * @param before the metric with exact attention, window by window
 */
export function changeOf(
  kind: 'loss' | 'error',
  before: readonly number[],
  after: readonly number[],
): Change {
  const unit = kind === 'loss' ? mean(before) : 1;
  const changes = after.map((value, i) => (value - before[i]!) / unit);
  const center = mean(changes);
  const variance = mean(changes.map(change => (change - center) ** 2));
  return { mean: center, error: changes.length < 2 ? 0 : Math.sqrt(variance / (changes.length - 1)) };
}
