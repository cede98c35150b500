/**
 * What `validate` measures: the document that it prints with `--json` and that reports show. An error is the
 * relative squared error ||actual - expected||^2 / ||expected||^2 unless said otherwise.
 */
export interface Validation {
  readonly original: string;
  readonly rewritten: string;
  /** Where the inputs came from, for people. */
  readonly inputs: string;
  readonly budgets: Budgets;
  /** What executed both models. */
  readonly runtime: RuntimeDescription;
  readonly lengths: readonly LengthValidation[];
  readonly passed: boolean;
  /** Anything that limits what these numbers show. */
  readonly notes: readonly string[];
}

export interface Budgets {
  /** Largest isolated error of a site. */
  readonly max_error: number;
  /** Largest error of an output of the model. */
  readonly max_output_error: number;
}

export const DEFAULT_BUDGETS: Budgets = { max_error: 0.02, max_output_error: 0.05 };

/** What executes a model: named in every measurement, since time and rounding depend on it. */
export interface RuntimeDescription {
  readonly name: string;
  readonly version: string;
  readonly execution_provider: string;
  /** How nodes of our operators are computed; null for a model without any. */
  readonly custom_operators: 'function-body' | 'native-kernels' | 'mixed' | null;
  /** Our operators that function bodies compute though native kernels were asked for, and why. */
  readonly without_kernel: readonly { readonly operator: string; readonly reason: string }[];
}

/** The models compared on inputs of one length. */
export interface LengthValidation {
  /** Tokens; null where the inputs have no sequence axis. */
  readonly length: number | null;
  readonly outputs: readonly OutputValidation[];
  readonly sites: readonly SiteValidation[];
  readonly passed: boolean;
}

export interface OutputValidation extends Difference {
  readonly name: string;
}

export interface SiteValidation {
  readonly id: string;
  /** Error of the operator fed the original's own query, key and value. */
  readonly isolated: number | null;
  /** Error of the same value inside the rewritten model. */
  readonly propagated: number | null;
  readonly details: { readonly isolated: Difference | null; readonly propagated: Difference | null };
  /** Query rows that see no key: left out of every comparison. */
  readonly rows_without_keys: number;
  /** How far the original attends here; null where that was not measured. */
  readonly reach: AttentionReach | null;
  /** Why something was not measured, or is trivially exact; null otherwise. */
  readonly note: string | null;
}

/** Where attention goes, by the distance between query and key: a mean over sampled rows and all heads. */
export interface AttentionReach {
  /** Shares of attention at distances below REACH_BOUNDS[0], from there to REACH_BOUNDS[1], ..., and beyond. */
  readonly mass: readonly number[];
  /** Keys that would share attention evenly at the same entropy: near 1 where few keys get it all. */
  readonly effective_keys: number;
  /** Rows that were looked at. */
  readonly rows: number;
}

/** Distances in tokens at which the shares of `AttentionReach` begin and end. */
export const REACH_BOUNDS = [16, 64, 256, 1024, 4096] as const;

/** The distances that the shares of `AttentionReach` are about: `below 16`, `16 to 63`, ..., `4096 and more`. */
export function reachTitles(): string[] {
  const between = REACH_BOUNDS.slice(1).map((bound, i) => `${REACH_BOUNDS[i]} to ${bound - 1}`);
  return [`below ${REACH_BOUNDS[0]}`, ...between, `${REACH_BOUNDS.at(-1)} and more`];
}

/** Sites whose reach was measured, at the longest length at which any was. */
export function measuredReach(validation: Validation): {
  readonly length: LengthValidation;
  readonly sites: readonly { id: string; reach: AttentionReach }[];
} | null {
  const measured = validation.lengths.map(length => ({
    length,
    sites: length.sites.flatMap(({ id, reach }) => (reach === null ? [] : [{ id, reach }])),
  }));
  return (
    measured
      .filter(({ sites }) => sites.length > 0)
      .sort((a, b) => (b.length.length ?? 0) - (a.length.length ?? 0))[0] ?? null
  );
}

/** Distance between two tensors; the three measures are null when there are mismatches. */
export interface Difference {
  readonly relative_squared_error: number | null;
  readonly max_abs_error: number | null;
  readonly cosine: number | null;
  /** Elements that are NaN or infinite on one side and something else on the other. */
  readonly mismatches: number;
}

/** Whether a measured difference stays within a budget; one that could not be computed never does. */
export function within(measured: Difference, budget: number): boolean {
  return measured.relative_squared_error !== null && measured.relative_squared_error <= budget;
}

/** The largest isolated error of a site over all lengths; null when it was never measured. */
export function worstIsolated(validation: Validation, siteId: string): number | null {
  const errors = validation.lengths.flatMap(length =>
    length.sites.filter(site => site.id === siteId && site.isolated !== null).map(site => site.isolated!),
  );
  return errors.length === 0 ? null : Math.max(...errors);
}
