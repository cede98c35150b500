import type { Engine } from './engine.js';
import type { MeasurementCache } from './measurement-cache.js';
import type { Metric } from './metric.js';
import type { SiteForm } from './site-form.js';
import type { Choices, TunableModel, TunableSite } from './tunable-model.js';
import type { DataWindow, TuningData } from './tuning-data.js';

/** What every measurement of one tuning shares. */
export interface TuningContext {
  readonly model: TunableModel;
  readonly data: TuningData;
  readonly metric: Metric;
  readonly engine: Engine;
  readonly cache: MeasurementCache;
  /** What sites are computed by while another one is looked at: exact attention, as fast as there is. */
  readonly exact: Choices;
  /** The metric with exact attention everywhere, by window. */
  readonly baseline: ReadonlyMap<DataWindow, number>;
  /** Largest loss increase, in proportion, or largest error. */
  readonly budget: number;
}

/** The exact form of a site, in a tuning. */
export function exactForm({ exact }: Pick<TuningContext, 'exact'>, { site }: TunableSite): SiteForm {
  return exact.get(site.id)!;
}
