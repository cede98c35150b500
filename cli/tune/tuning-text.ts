import type { Tuning } from './tuning.js';

/** A change of the metric: percent of a loss, or an error as it is. */
export function changeText({ metric }: Pick<Tuning, 'metric'>, value: number): string {
  if (metric.kind === 'error') return value.toPrecision(2);
  return `${value < 0 ? '−' : '+'}${(100 * Math.abs(value)).toFixed(3)}%`;
}

/** A standard error of a change, to stand behind `±`; null is of a single window. */
export function estimateText({ metric }: Pick<Tuning, 'metric'>, error: number | null): string {
  if (error === null) return 'unknown';
  return metric.kind === 'error' ? error.toPrecision(2) : `${(100 * error).toFixed(3)}%`;
}

/** A change with its standard error: `+0.270% ± 0.030%`. */
export function estimateWithError(
  tuning: Pick<Tuning, 'metric'>,
  change: { readonly loss_increase: number; readonly standard_error: number | null },
): string {
  return `${changeText(tuning, change.loss_increase)} ± ${estimateText(tuning, change.standard_error)}`;
}

/** What the budget allows. */
export function budgetText(tuning: Pick<Tuning, 'metric' | 'budget'>): string {
  const { kind, limit } = tuning.budget;
  return kind === 'loss' ? `at most ${changeText(tuning, limit)} of loss` : `an error of at most ${limit}`;
}

/** `2.50x`; a dash where it is not known. */
export function times(factor: number | null): string {
  return factor === null || !Number.isFinite(factor) ? '–' : `${factor.toFixed(2)}x`;
}
