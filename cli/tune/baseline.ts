import { chooseMetric, type MetricRequest } from './choose-metric.js';
import type { Engine } from './engine.js';
import { ExactRuns } from './exact-runs.js';
import type { MeasurementCache } from './measurement-cache.js';
import type { Metric, Tensors } from './metric.js';
import { KEPT } from './site-form.js';
import { type Choices, modelBytes, type TunableModel } from './tunable-model.js';
import type { TuningData } from './tuning-data.js';
import type { ShareOfProgress } from './workload.js';

/** What every plan is compared with. */
export interface Baseline {
  readonly metric: Metric;
  /** The fastest exact form that is known of each site. */
  readonly exact: Choices;
  readonly exactRuns: ExactRuns;
  /** Milliseconds of one run of the original, and of one with exact operators. */
  readonly originalMs: number;
  readonly exactMs: number;
  readonly notes: readonly string[];
}

/** How far the operators' own exact attention may move the metric before it does not pass for exact. */
const ROUNDING = { loss: 1e-3, error: 1e-4 } as const;

/** In runs that take longer, being the first one hardly shows. */
const SLOW_MS = 3000;

interface Request {
  readonly model: TunableModel;
  readonly data: TuningData;
  readonly engine: Engine;
  readonly cache: MeasurementCache;
  readonly metric: Omit<MetricRequest, 'causal'>;
}

interface Run {
  readonly outputs: Tensors;
  readonly ms: number;
}

/**
 * Runs the original, finds its metric, and makes sure that the operators' exact attention stands for the original's.
 * @throws InputError when the original does not run, or has no metric
 */
export async function measureBaseline(
  { model, data, engine, cache, metric: request }: Request,
  progress: ShareOfProgress,
): Promise<Baseline> {
  const first = data.calibration[0]!;
  const names = model.file.model.graph.outputs.map(({ name }) => name);
  let computed: Promise<Run> | null = null;
  const original = () => {
    progress.step(0, 2, `the original on ${first.name}`);
    computed ??= engine.with(modelBytes(model.file.model), async session => {
      const run = () => engine.timed(session, first.feeds, names);
      const cold = await run();
      return cold.ms > SLOW_MS ? cold : run();
    });
    return computed;
  };
  const shapes = await cache.get('shapes of the outputs', async () =>
    [...(await original()).outputs].map(([name, { type, dims }]) => [name, { type, dims }] as const),
  );
  const originalMs = await cache.get('milliseconds of the original', async () => (await original()).ms);
  const causal = model.sites.every(({ site }) => site.causal);
  const metric = await chooseMetric({ ...request, causal }, first, new Map(shapes));
  const before = await cache.get('metric of the original', async () => {
    const { outputs } = await original();
    return (await metric.measure(first, outputs, outputs)).value;
  });

  const operatorForms = model.exactForms(data.length);
  const [after, exactMs] = await cache.get('metric and milliseconds of exact operators', () =>
    engine.with(modelBytes(model.variant(operatorForms)), async session => {
      progress.step(1, 2, `exact attention on ${first.name}`);
      const reference = metric.kind === 'error' ? (await original()).outputs : null;
      const { outputs, ms } = await engine.timed(session, first.feeds, metric.outputs);
      return [(await metric.measure(first, outputs, reference ?? outputs)).value, ms] as const;
    }),
  );
  const same =
    Math.abs(after - before) <= ROUNDING[metric.kind] * (metric.kind === 'loss' ? Math.abs(before) : 1);
  const exact: Choices = same ? operatorForms : new Map(model.sites.map(({ site }) => [site.id, KEPT]));
  const notes = same
    ? []
    : [`The operators' own exact attention changes the metric from ${before} to ${after}: it is not used.`];
  const exactRuns = new ExactRuns(engine, cache, metric, () => modelBytes(model.variant(exact)));
  return { metric, exact, exactRuns, originalMs, exactMs, notes };
}
