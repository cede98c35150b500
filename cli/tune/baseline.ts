import { chooseMetric, type MetricRequest } from './choose-metric.js';
import type { Engine } from './engine.js';
import type { MeasurementCache } from './measurement-cache.js';
import type { Metric, Tensors } from './metric.js';
import type { ShareOfProgress } from './share-of-progress.js';
import { KEPT } from './site-form.js';
import { type Choices, modelBytes, type TunableModel } from './tunable-model.js';
import type { DataWindow, TuningData } from './tuning-data.js';

/** What every plan is compared with. */
export interface Baseline {
  readonly metric: Metric;
  /** The fastest exact form that is known of each site. */
  readonly exact: Choices;
  /** The metric with exact attention, by window. */
  readonly values: ReadonlyMap<DataWindow, number>;
  readonly notes: readonly string[];
}

/** How far the operators' own exact attention may move the metric before it does not pass for exact. */
const ROUNDING = { loss: 1e-3, error: 1e-4 } as const;

interface Request {
  readonly model: TunableModel;
  readonly data: TuningData;
  readonly engine: Engine;
  readonly cache: MeasurementCache;
  readonly metric: Omit<MetricRequest, 'causal'>;
}

/**
 * Runs the original, finds its metric, makes sure that the operators' exact attention stands for the
 * original's, and measures the metric with it on all windows.
 * @throws InputError when the original does not run, or has no metric
 */
export async function measureBaseline(
  { model, data, engine, cache, metric: request }: Request,
  progress: ShareOfProgress,
): Promise<Baseline> {
  const first = data.calibration[0]!;
  const names = model.file.model.graph.outputs.map(({ name }) => name);
  let computed: Promise<Tensors> | null = null;
  const original = () => {
    progress.step(0, 1, `the original on ${first.name}`);
    computed ??= engine.with(modelBytes(model.file.model), session =>
      engine.run(session, first.feeds, names),
    );
    return computed;
  };
  const shapes = await cache.get('shapes of the outputs', async () =>
    [...(await original())].map(([name, { type, dims }]) => [name, { type, dims }] as const),
  );
  const causal = model.sites.every(({ site }) => site.causal);
  const metric = await chooseMetric({ ...request, causal }, first, new Map(shapes));
  const before = await cache.get('metric of the original', async () =>
    metric.measure(first, await original(), await original()),
  );

  const operatorForms = model.exactForms(data.length);
  const after = await cache.get('metric of exact operators', () =>
    engine.with(modelBytes(model.variant(operatorForms)), async session => {
      progress.step(1, 4, `exact attention on ${first.name}`);
      const reference = metric.kind === 'error' ? await original() : first.feeds;
      return metric.measure(first, await engine.run(session, first.feeds, metric.outputs), reference);
    }),
  );
  const same =
    Math.abs(after - before) <= ROUNDING[metric.kind] * (metric.kind === 'loss' ? Math.abs(before) : 1);
  const exact: Choices = same ? operatorForms : new Map(model.sites.map(({ site }) => [site.id, KEPT]));
  const notes = same
    ? []
    : [`The operators' own exact attention changes the metric from ${before} to ${after}: it is not used.`];

  const windows = [...data.calibration, ...data.heldOut];
  const keyOf = (window: DataWindow) => `exact attention: ${window.name}`;
  const missing = windows.filter(window => !cache.has(keyOf(window)));
  if (missing.length > 0) {
    await engine.with(modelBytes(model.variant(exact)), async session => {
      for (const [w, window] of missing.entries()) {
        progress.step(w + 2, missing.length + 2, `exact attention on ${window.name}`);
        await cache.get(keyOf(window), async () => {
          const outputs = await engine.run(session, window.feeds, metric.outputs);
          return metric.measure(window, outputs, outputs);
        });
      }
    });
  }
  return {
    metric,
    exact,
    values: new Map(windows.map(window => [window, cache.stored<number>(keyOf(window))])),
    notes,
  };
}
