import type { MultipoleParameters } from '../../custom-ops/multipole-attention/parameters.js';
import type { Environment } from '../../rewriter/report.js';

/** What ablation.ts prints. */
export interface AblationReport {
  readonly machine: Environment;
  readonly command: string;
  readonly threads: number;
  readonly model: string;
  readonly text: string;
  /** Indices of the windows, and bytes between their starts. */
  readonly windows: string;
  readonly stride: number;
  readonly length: number;
  readonly results: readonly Result[];
}

/** What was measured of a variant; null for what was not asked for. */
export interface Result {
  readonly name: string;
  /** Bits per byte, the mean over the windows and each of them. */
  readonly loss: number | null;
  readonly loss_by_window: readonly number[] | null;
  /** Relative to exact attention. */
  readonly loss_increase: number | null;
  /** Standard error of that, by how windows differ; null for one window. */
  readonly loss_increase_error: number | null;
  /** By site. */
  readonly errors: readonly number[] | null;
  /** Times fewer multiply-adds than exact attention; null where they depend on data. */
  readonly ceiling: number | null;
  /** Times faster than com.microsoft.MultiHeadAttention, all sites together. */
  readonly speed: number | null;
  /** The same against this operator's own exact attention. */
  readonly speed_over_own_exact: number | null;
  readonly ms_by_site: readonly number[] | null;
  readonly leak: Leak | null;
  readonly parameters: readonly MultipoleParameters[];
}

/** Predictions from cut texts against those from the whole window. */
export interface Leak {
  readonly prefixes: readonly number[];
  readonly largest_logit_difference: number;
  readonly mean_surprisal_difference: number;
}
