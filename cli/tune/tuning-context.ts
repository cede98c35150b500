import type { Engine } from './engine.js';
import type { ExactRuns } from './exact-runs.js';
import type { MeasurementCache } from './measurement-cache.js';
import type { Metric } from './metric.js';
import type { SiteForm } from './site-form.js';
import type { Choices, TunableModel, TunableSite } from './tunable-model.js';
import type { DataWindow, TuningData } from './tuning-data.js';

/** What every measurement of one tuning shares. */
export interface TuningContext {
  readonly model: TunableModel;
  readonly data: TuningData;
  /** The few calibration windows that single sites are measured on. */
  readonly searched: readonly DataWindow[];
  readonly metric: Metric;
  readonly engine: Engine;
  readonly cache: MeasurementCache;
  /** What sites are computed by while another one is looked at: exact attention, as fast as there is. */
  readonly exact: Choices;
  /** The model with exact attention everywhere. */
  readonly exactRuns: ExactRuns;
  /** Whether attention as the model has it may be faster than the operators' exact attention. */
  readonly mayKeep: boolean;
  /**
   * Growth of the metric's value that makes a change of 1: its mean with exact attention over the calibration
   * windows for a loss, 1 for an error.
   */
  readonly unit: number;
  /** Largest loss increase, in proportion, or largest error. */
  readonly budget: number;
}

/** The exact form of a site, in a tuning. */
export function exactForm({ exact }: Pick<TuningContext, 'exact'>, { site }: TunableSite): SiteForm {
  return exact.get(site.id)!;
}
