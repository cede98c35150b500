import { mean } from '../statistics.js';

/** A number with its standard error. */
export interface Estimate {
  readonly mean: number;
  readonly error: number;
}

/** One window under changed attention, beside the same window under exact attention. */
export interface Observation {
  /** Growth of the metric's value. */
  readonly change: number;
  readonly divergence: number;
}

export const UNCHANGED: Estimate = { mean: 0, error: 0 };

/** The mean of one number per window; the error of a single window is not known, and 0 here. */
export function meanOf(values: readonly number[]): Estimate {
  const center = mean(values);
  const variance = mean(values.map(value => (value - center) ** 2));
  return { mean: center, error: values.length < 2 ? 0 : Math.sqrt(variance / (values.length - 1)) };
}

/** What the value itself did on these windows, as a multiple of `unit`. */
export function observedChange(observations: readonly Observation[], unit: number): Estimate {
  return scaled(meanOf(observations.map(({ change }) => change)), 1 / unit);
}

/**
 * What the value will do on other windows of the kind: the mean divergence, which differs little between windows,
 * times the growth of the value per divergence, which is estimated from the same windows and from what theory
 * says of it, each weighed by its certainty.
 * @param prior that growth before anything is seen; null leaves it to the observations
 */
export function expectedChange(
  observations: readonly Observation[],
  prior: Estimate | null,
  unit: number,
): Estimate {
  const divergence = meanOf(observations.map(one => one.divergence));
  if (divergence.mean === 0) return observedChange(observations, unit);
  const telling = prior === null || observations.length >= TELLING_WINDOWS;
  const slope = telling ? slopeOf(observations, prior) : prior;
  const error = Math.hypot(slope.mean * divergence.error, slope.error * divergence.mean);
  return scaled({ mean: slope.mean * divergence.mean, error }, 1 / unit);
}

/** Growth of the value per unit of divergence. */
export function slopeOf(observations: readonly Observation[], prior: Estimate | null): Estimate {
  const seen = ratioOf(observations);
  if (prior === null) return seen ?? UNCHANGED;
  if (prior.error === 0 || seen === null || observations.length < 2) return prior;
  const [before, now] = [prior.error ** -2, Math.max(seen.error, SMALLEST_ERROR) ** -2];
  return {
    mean: (before * prior.mean + now * seen.mean) / (before + now),
    error: (before + now) ** -0.5,
  };
}

/** Fewer windows may agree by chance, and seem certain. */
const TELLING_WINDOWS = 4;
/** Of a ratio: windows that agree by chance are not certain. */
const SMALLEST_ERROR = 0.01;

/** Sum of changes over sum of divergences; windows are independent of each other. Null without any divergence. */
function ratioOf(observations: readonly Observation[]): Estimate | null {
  const count = observations.length;
  const total = count * mean(observations.map(({ divergence }) => divergence));
  if (total === 0) return null;
  const ratio = (count * mean(observations.map(({ change }) => change))) / total;
  const residual = mean(observations.map(({ change, divergence }) => (change - ratio * divergence) ** 2));
  return { mean: ratio, error: count < 2 ? 0 : (count * Math.sqrt(residual / (count - 1))) / total };
}

export function scaled({ mean: center, error }: Estimate, factor: number): Estimate {
  return { mean: factor * center, error: factor * error };
}
