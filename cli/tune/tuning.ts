import type { Plan } from '../../rewriter/plan.js';
import type { Environment } from '../../rewriter/report.js';
import type { RuntimeDescription } from '../../rewriter/validation.js';
import type { SiteForm } from './site-form.js';

/** What a tuning found. */
export interface Tuning {
  readonly model: string;
  readonly data: {
    readonly files: readonly string[];
    /** Tokens; null for inputs without a sequence. */
    readonly length: number | null;
    /** Windows that single sites were measured on: the first of those to calibrate on. */
    readonly searched_windows: number;
    readonly calibration_windows: number;
    readonly held_out_windows: number;
    readonly seed: number;
  };
  readonly metric: { readonly name: string; readonly kind: 'loss' | 'error' };
  readonly budget: Budget;
  readonly runtime: RuntimeDescription;
  readonly baseline: {
    /** Mean metric of exact attention on the windows held out. */
    readonly metric: number;
    readonly original_ms: number;
    /** The model with the fastest exact attention that its sites can have. */
    readonly exact_ms: number;
    /** The part of `exact_ms` that is attention. */
    readonly attention_ms: number;
  };
  readonly plan: TunedPlan;
  /** The plan, and plans that no other one beats by what their sites add up to, fastest first; the last one is exact. */
  readonly frontier: readonly FrontierPoint[];
  /** Plans that were run as a whole on the windows to calibrate on, in this order. */
  readonly tried: readonly (Outcome & { readonly standard_error: number })[];
  /**
   * The growth of the metric that was seen in plans as a whole, in proportion to what single sites add up to.
   */
  readonly correction: number;
  readonly sites: readonly TunedSite[];
  /** Attention that cannot be tuned, and why. */
  readonly skipped: readonly { readonly id: string; readonly reason: string }[];
  /** Anything that limits what these numbers show. */
  readonly notes: readonly string[];
}

/** What `tune --json` prints, and a page shows. */
export interface TuningReport extends Tuning {
  readonly tool: { readonly name: string; readonly version: string };
  /** When the tuning ended, ISO 8601. */
  readonly created: string;
  readonly command: string;
  readonly machine: Environment;
}

export interface Budget {
  /** A loss may grow by this part of itself; an error is one of the outputs. */
  readonly kind: 'loss' | 'error';
  readonly limit: number;
}

/** A plan for `rewrite --plan`, which reads over `tuning`. It says all settings of its sites, defaults included. */
export interface TunedPlan extends Plan {
  readonly tuning: {
    /** By the windows to calibrate on. */
    readonly predicted: Outcome & { readonly standard_error: number };
    /** On the windows held out, and of the model as a whole. */
    readonly measured: Outcome & {
      /** Null for a single window. */
      readonly standard_error: number | null;
      /** Faster plans that were over the budget once they were run on the windows held out. */
      readonly rejected: number;
    };
    /** What is to be expected on other data of the kind, by all windows: what the budget is held against. */
    readonly expected: Pick<Outcome, 'loss_increase'> & { readonly standard_error: number };
    /** How many times fewer multiply-adds attention takes; null where sizes are not known. */
    readonly operation_ceiling: number | null;
  };
}

/** What a plan does to the model. */
export interface Outcome {
  /** In proportion, or the error itself for a budget of error. */
  readonly loss_increase: number;
  readonly ms: number;
  /** Times faster than the original model. */
  readonly speed: number;
  /** Times faster than exact attention, attention alone; null where noise hides it. */
  readonly attention_speed: number | null;
}

/** An expected outcome on the way from the fastest plan to exact attention. */
export interface FrontierPoint extends Outcome {
  readonly operation_ceiling: number | null;
  /** Whether this is the plan. */
  readonly chosen: boolean;
}

export interface TunedSite extends SiteForm {
  readonly id: string;
  readonly causal: boolean;
  /** Whether the form computes exact attention. */
  readonly exact: boolean;
  /** Milliseconds of the form and of exact attention. */
  readonly ms: number;
  readonly exact_ms: number;
  /** Change of the metric that the form is expected to make; in proportion for a loss. */
  readonly loss_increase: number;
  /** What the fastest form that was measured would do alone, and the part of each query head in that. */
  readonly sensitivity: {
    readonly ms: number;
    readonly loss_increase: number;
    readonly heads: readonly number[];
  } | null;
  readonly operation_ceiling: number | null;
  /** All forms that were looked at. */
  readonly forms: readonly TunedForm[];
}

/** A form that was looked at for a site. */
export interface TunedForm extends SiteForm {
  readonly ms: number;
  /** Whether the time was taken in turns with exact attention, and not from single runs. */
  readonly timed: boolean;
  /** Relative squared error of the site's output, by query head. */
  readonly head_errors: readonly number[];
  /** Change of the metric that the form alone is expected to make. */
  readonly loss_increase: number;
  /** Whether that was measured by running the rest of the model, and not foretold from the errors. */
  readonly measured: boolean;
}
