import type { Environment } from '../rewriter/report.js';
import type { RuntimeDescription } from '../rewriter/validation.js';
import { mean } from './statistics.js';

/** What `bench --json` prints. */
export interface BenchReport {
  readonly tool: { readonly name: string; readonly version: string };
  /** When the measurement ended, ISO 8601. */
  readonly created: string;
  readonly command: string;
  readonly machine: Environment;
  /** Where the inputs came from, for people. */
  readonly inputs: string;
  /** By setting (provider and threads), then model, then length. */
  readonly runs: readonly BenchRun[];
  /** For every model after the first and every setting: where it becomes faster than the first. */
  readonly crossover: readonly Crossover[];
  /** For every model and setting that ran at two lengths or more: how cost grows. */
  readonly scaling: readonly Scaling[];
  /** Anything that limits what these numbers show. */
  readonly notes: readonly string[];
}

/** What was measured: a model under a setting. */
export interface Subject {
  readonly model: string;
  /** Execution provider. */
  readonly provider: string;
  /** Threads of one operator; null = as many as the runtime chooses. */
  readonly threads: number | null;
  /** Whether onnxruntime-node alone runs it, by function bodies. */
  readonly stock: boolean;
  /** Null where the model was never loaded to the end. */
  readonly runtime: RuntimeDescription | null;
}

/** A subject at one length. */
export interface BenchRun extends Subject {
  /** Tokens; null for inputs without a sequence. */
  readonly length: number | null;
  readonly batch: number;
  /** Over the timed runs; null where the model did not run. */
  readonly median_ms: number | null;
  readonly min_ms: number | null;
  readonly max_ms: number | null;
  /** Every timed run in order. */
  readonly ms: readonly number[];
  /** Tokens of all batch rows by the median. */
  readonly tokens_per_second: number | null;
  /** Peak resident memory of a process that runs this model alone; null when not measured. */
  readonly peak_bytes: number | null;
  /** The same before the first run: the runtime and the model itself. */
  readonly loaded_bytes: number | null;
  /** Why the model did not run; null where it did. */
  readonly failure: string | null;
}

export interface Crossover extends Subject {
  /** Shortest measured length from which on it is the faster one, or the only one that runs; null: none. */
  readonly length: number | null;
  /** Where both take the same time, by log-log interpolation; null where the measured lengths do not enclose it. */
  readonly estimate: number | null;
}

export interface Scaling extends Subject {
  readonly time: PowerLaw | null;
  /** Of the memory that running takes beyond loading. */
  readonly memory: PowerLaw | null;
}

/** cost = c length^exponent, by least squares on the logarithms. */
export interface PowerLaw {
  readonly exponent: number;
  readonly points: number;
  readonly from: number;
  readonly to: number;
}

function keyOf({ model, stock, provider, threads }: Subject): string {
  return JSON.stringify([model, stock, provider, threads]);
}

/** Runs grouped by subject, in the order of their first appearance. */
export function bySubject(runs: readonly BenchRun[]): BenchRun[][] {
  return groupsOf(runs, keyOf);
}

/** Runs grouped by provider and threads; in each group the subjects, the first model's first. */
export function bySetting(runs: readonly BenchRun[]): BenchRun[][][] {
  return groupsOf(runs, ({ provider, threads }) => JSON.stringify([provider, threads])).map(bySubject);
}

function groupsOf(runs: readonly BenchRun[], keyOf: (run: BenchRun) => string): BenchRun[][] {
  const groups = new Map<string, BenchRun[]>();
  for (const run of runs) {
    const key = keyOf(run);
    const group = groups.get(key);
    if (group) group.push(run);
    else groups.set(key, [run]);
  }
  return [...groups.values()];
}

export function subjectOf({ model, provider, threads, stock, runtime }: Subject): Subject {
  return { model, provider, threads, stock, runtime };
}

export function isSameSubject(a: Subject, b: Subject): boolean {
  return keyOf(a) === keyOf(b);
}

/** How many times as fast as `base` a run is; null unless both ran. */
export function speedup(base: BenchRun | undefined, run: BenchRun): number | null {
  return base?.median_ms == null || run.median_ms === null ? null : base.median_ms / run.median_ms;
}

/** The run of a subject at a length. */
export function runAt(runs: readonly BenchRun[], length: number | null): BenchRun | undefined {
  return runs.find(run => run.length === length);
}

/**
 * Where `others` become faster than `base`, by the medians: from which length on they stay ahead up to the
 * longest. A model that fails where the other runs is the slower one there; lengths at which both fail are left
 * out.
 */
export function crossoverOf(base: readonly BenchRun[], others: readonly BenchRun[]): Crossover {
  const duels = others
    .flatMap(run => {
      const ratio = ratioAgainst(runAt(base, run.length), run);
      return run.length === null || ratio === null ? [] : [{ length: run.length, ratio }];
    })
    .sort((a, b) => a.length - b.length);
  const behind = duels.findLastIndex(({ ratio }) => ratio <= 1);
  const [last, first] = [duels[behind], duels[behind + 1]];
  const length = first?.length ?? null;
  const enclosed =
    last !== undefined && first !== undefined && last.ratio > 0 && Number.isFinite(first.ratio);
  return {
    ...subjectOf(others[0]!),
    length,
    estimate: enclosed ? Math.round(whereEqual(last, first)) : null,
  };
}

/** The base's time by the other's; 0 or infinite where only one of them ran, null where none did. */
function ratioAgainst(base: BenchRun | undefined, other: BenchRun): number | null {
  if (base === undefined || (base.median_ms === null && other.median_ms === null)) return null;
  if (base.median_ms === null) return Number.POSITIVE_INFINITY;
  return other.median_ms === null ? 0 : base.median_ms / other.median_ms;
}

interface Duel {
  readonly length: number;
  readonly ratio: number;
}

/** The length between two measured ones at which the ratio is 1, when its logarithm is linear in that of length. */
function whereEqual(a: Duel, b: Duel): number {
  const share = Math.log(a.ratio) / (Math.log(a.ratio) - Math.log(b.ratio));
  return a.length * (b.length / a.length) ** share;
}

/** How the cost of one subject grows with length. */
export function scalingOf(runs: readonly BenchRun[]): Scaling {
  return {
    ...subjectOf(runs[0]!),
    time: fitPowerLaw(runs.map(run => [run.length, run.median_ms])),
    memory: fitPowerLaw(
      runs.map(({ length, peak_bytes, loaded_bytes }) => [
        length,
        peak_bytes === null || loaded_bytes === null ? null : peak_bytes - loaded_bytes,
      ]),
    ),
  };
}

/**
 * Fits cost = c length^exponent to pairs of length and cost; pairs without a positive number take no part.
 * @returns null for fewer than two different lengths
 */
export function fitPowerLaw(pairs: readonly (readonly [number | null, number | null])[]): PowerLaw | null {
  const known = pairs.filter((pair): pair is [number, number] =>
    pair.every(value => value !== null && value > 0),
  );
  const lengths = known.map(([length]) => length);
  if (new Set(lengths).size < 2) return null;
  const x = lengths.map(Math.log);
  const y = known.map(([, cost]) => Math.log(cost));
  const [meanX, meanY] = [mean(x), mean(y)];
  const slope =
    x.reduce((sum, xi, i) => sum + (xi - meanX) * (y[i]! - meanY), 0) /
    x.reduce((sum, xi) => sum + (xi - meanX) ** 2, 0);
  return {
    exponent: slope,
    points: known.length,
    from: Math.min(...lengths),
    to: Math.max(...lengths),
  };
}
