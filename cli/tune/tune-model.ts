import { createHash } from 'node:crypto';
import { statSync } from 'node:fs';
import { cpus } from 'node:os';
import { basename } from 'node:path';
import { OPERATORS } from '../../custom-ops/index.js';
import type { TuningSpace } from '../../custom-ops/tuning-space.js';
import { TUNING_SPACES } from '../../custom-ops/tuning-spaces.js';
import { InputError } from '../../rewriter/errors.js';
import { formatDuration, plural } from '../../rewriter/format.js';
import { externalLocations } from '../../rewriter/onnx/external-data.js';
import { type ModelFile, openModelFile } from '../../rewriter/onnx/model-file.js';
import { segmentBytes } from '../../rewriter/onnx/write.js';
import { operatorById, PLAN_VERSION } from '../../rewriter/plan.js';
import type { RuntimeDescription } from '../../rewriter/validation.js';
import { idInputs } from '../data/input-source.js';
import { modelInputs } from '../data/model-inputs.js';
import type { Progress } from '../runtime/jobs.js';
import { siteGlob } from '../site-glob.js';
import { mean } from '../statistics.js';
import { VERSION } from '../version.js';
import { measureBaseline } from './baseline.js';
import { choosePlan, MOST_CHECKS } from './choose-plan.js';
import { Engine, type EngineSettings } from './engine.js';
import { measurePlan } from './measure-plan.js';
import { measureSites } from './measure-sites.js';
import { MeasurementCache } from './measurement-cache.js';
import { metricModuleHash } from './metric-module.js';
import { operationCeiling } from './operation-count.js';
import { formsIn, type PlanEstimate, searchPlans } from './search.js';
import { ShareOfProgress } from './share-of-progress.js';
import type { SiteMeasurement } from './site-bench.js';
import { type ModelTimes, timePlan } from './time-plan.js';
import { modelBytes, TunableModel } from './tunable-model.js';
import type { Budget, FrontierPoint, Outcome, TunedSite, Tuning } from './tuning.js';
import { exactForm, type TuningContext } from './tuning-context.js';
import { type DataRequest, readTuningData, type TuningData } from './tuning-data.js';

export interface TuneRequest {
  readonly model: string;
  readonly data: DataRequest;
  readonly budget: Budget;
  /** A module with the user's own metric; null for the model's. */
  readonly metricModule: string | null;
  readonly engine: EngineSettings;
  /** Id of the only operator to choose from; null for all. */
  readonly operator: string | null;
  /** Glob of the sites to tune. */
  readonly sites: string;
  /** Where measurements are kept; null forgets them. */
  readonly cache: string | null;
}

/** Parts of the whole work, by their usual shares of the time. */
const [BASELINE, SITES, CHECKS] = [0.12, 0.8, 0.92];

/** Attention is never all of a model, whatever noise makes of measurements of tiny ones. */
const LARGEST_SHARE = 0.98;

/** Windows below which chance may decide. */
const FEW_WINDOWS = 3;

/** Points of the frontier that the document shows. */
const SHOWN_POINTS = 16;

/**
 * Finds the fastest plan for a model within a budget: measures every site in every form, adds up what single
 * sites cost and gain, and checks the plan as a whole on data that took no part in its choice.
 * @throws InputError when the model, the data or the metric are bad, or there is nothing to tune
 */
export async function tuneModel(request: TuneRequest, progress: Progress): Promise<Tuning> {
  const file = openModelFile(request.model);
  try {
    return await tuneOpenModel(file, request, progress);
  } finally {
    file.close();
  }
}

async function tuneOpenModel(file: ModelFile, request: TuneRequest, progress: Progress): Promise<Tuning> {
  const model = new TunableModel(file, spacesFor(request.operator), siteGlob(request.sites));
  if (model.sites.length === 0) throw nothingToTune(model);
  const inputs = modelInputs(file.model);
  const data = readTuningData(request.data, inputs);
  const engine = new Engine(request.model, model.folder, request.engine);
  const all = new ShareOfProgress(progress);
  all.step(0, 1, 'loading the model');
  const exactModel = model.variant(model.exactForms(data.length));
  const runtime = await engine.with(modelBytes(exactModel), async session => session.runtime);
  const cache = new MeasurementCache(request.cache, fingerprint(request, file, data, runtime));
  const ids = idInputs(inputs);
  const { metric, exact, values, notes } = await measureBaseline(
    {
      model,
      data,
      engine,
      cache,
      metric: {
        module: request.metricModule,
        kind: request.budget.kind,
        ids: ids.length === 1 ? ids[0]!.name : null,
      },
    },
    all.part(0, BASELINE),
  );
  const context: TuningContext = {
    model,
    data,
    metric,
    engine,
    cache,
    exact,
    baseline: values,
    budget: request.budget.limit,
  };
  const measurements = await measureSites(context, all.part(BASELINE, SITES));
  const plans = searchPlans(measurements, ({ site }) => exactForm(context, site));
  const checks = all.part(SITES, CHECKS);
  let step = 0;
  const checked = await choosePlan(plans, context.budget, (plan, half) =>
    measurePlan(context, formsIn(plan), data[half], name =>
      checks.step(step++, 2 * MOST_CHECKS * data[half].length, `a plan on ${name}`),
    ),
  );
  const times = await timePlan(context, formsIn(checked.plan), all.part(CHECKS, 1));

  // Machines drift: a plan is foretold in parts of the time of exact attention, measured beside everything else.
  const attentionMs = Math.min(sum(Object.values(times.sites)), LARGEST_SHARE * times.exact);
  const scale = attentionMs / sum(Object.values(times.sites));
  const foretold = (plan: PlanEstimate) =>
    times.exact -
    scale *
      sum(
        measurements.map(({ site: { site }, exactMs }) => {
          const saved = 1 - plan.sites.get(site.id)!.ms / exactMs;
          return saved * times.sites[site.id]!;
        }),
      );
  const outcome = (lossIncrease: number, ms: number): Outcome => {
    const attention = attentionMs - times.exact + ms;
    return {
      loss_increase: lossIncrease,
      ms,
      speed: times.original / ms,
      attention_speed: attention > 0 ? attentionMs / attention : null,
    };
  };
  const ceiling = (plan: PlanEstimate) =>
    operationCeiling(
      model.sites.map(site => ({ site, form: plan.sites.get(site.site.id)!.form })),
      data.length,
    );
  return {
    model: request.model,
    data: {
      files: request.data.files,
      length: data.length,
      calibration_windows: data.calibration.length,
      held_out_windows: data.heldOut.length,
      seed: request.data.seed,
    },
    metric: { name: metric.name, kind: metric.kind },
    budget: request.budget,
    runtime,
    baseline: {
      metric: mean(data.heldOut.map(window => values.get(window)!)),
      original_ms: times.original,
      exact_ms: times.exact,
      attention_ms: attentionMs,
    },
    plan: {
      version: PLAN_VERSION,
      sites: [...formsIn(checked.plan)].map(([id, form]) => ({ id, ...form })),
      tuning: {
        predicted: outcome(checked.calibrated.mean, foretold(checked.plan)),
        measured: {
          ...outcome(checked.heldOut.mean, times.plan),
          standard_error: checked.heldOut.error,
          rejected: checked.rejected,
        },
        operation_ceiling: ceiling(checked.plan),
      },
    },
    frontier: thinned(plans, checked.plan).map(
      (plan): FrontierPoint => ({
        ...outcome(checked.correction * plan.cost, foretold(plan)),
        operation_ceiling: ceiling(plan),
        chosen: plan === checked.plan,
      }),
    ),
    sites: measurements.map(measured => describeSite(measured, checked.plan, checked.correction, data)),
    skipped: model.skipped,
    notes: [...notes, ...dataNotes(data), ...timeNotes(checked.plan, times)],
  };
}

/** @throws InputError for an operator that is unknown or cannot be tuned */
function spacesFor(id: string | null): readonly TuningSpace[] {
  if (id === null) return TUNING_SPACES;
  const operator = operatorById(OPERATORS, id);
  const spaces = TUNING_SPACES.filter(space => space.operator === operator);
  if (spaces.length > 0) return spaces;
  throw new InputError(`--op: ${id} has nothing to tune`, {
    remedy: `Choose from ${TUNING_SPACES.map(space => space.operator.id).join(', ')}.`,
  });
}

function nothingToTune({ file, skipped }: TunableModel): InputError {
  const reasons = skipped.map(({ id, reason }) => `${id}: ${reason}`).join('; ');
  return new InputError(
    `${file.file}: there is no attention to tune${reasons === '' ? '' : `: ${reasons}`}`,
    { file: file.file, remedy: '`inspect` shows what was found, and near misses.' },
  );
}

/** Of everything that measurements depend on, apart from what their keys name. */
function fingerprint(
  { engine, metricModule, budget, data: { hide } }: TuneRequest,
  { file, model, sidecars }: ModelFile,
  { length, hash }: TuningData,
  runtime: RuntimeDescription,
): string {
  const sum = createHash('sha256');
  for (const piece of segmentBytes(model.source, [{ start: 0, end: model.source.length }])) sum.update(piece);
  for (const location of externalLocations(model)) {
    const { size, mtimeMs } = statSync(sidecars.path(location));
    sum.update(`${location} ${size} ${mtimeMs}\n`);
  }
  const metric = metricModule === null ? budget.kind : metricModuleHash(metricModule);
  const settings = [VERSION, basename(file), hash, length, hide, metric, engine, runtime, cpus()[0]?.model];
  return sum.update(JSON.stringify(settings)).digest('hex');
}

/** The chosen plan, the fastest, the exact one, and some evenly in between. */
function thinned(plans: readonly PlanEstimate[], chosen: PlanEstimate): PlanEstimate[] {
  const last = plans.length - 1;
  const shown = new Set([plans.indexOf(chosen)]);
  for (let i = 0; i < SHOWN_POINTS; i++) shown.add(Math.round((i * last) / (SHOWN_POINTS - 1)));
  return plans.filter((_, i) => shown.has(i));
}

function describeSite(
  { site, exactMs, forms }: SiteMeasurement,
  plan: PlanEstimate,
  correction: number,
  { length }: TuningData,
): TunedSite {
  const { id } = site.site;
  const { form, ms, cost, exact } = plan.sites.get(id)!;
  const [fastest] = forms
    .flatMap(measured => (measured.change === null ? [] : [{ ms: measured.ms, change: measured.change }]))
    .sort((a, b) => a.ms - b.ms);
  return {
    id,
    causal: site.site.causal,
    ...form,
    exact,
    ms,
    exact_ms: exactMs,
    loss_increase: correction * cost,
    sensitivity: fastest === undefined ? null : { ms: fastest.ms, loss_increase: fastest.change.mean },
    operation_ceiling: operationCeiling([{ site, form }], length),
    forms: forms.map(measured => ({
      ...measured.form,
      ms: measured.ms,
      error: measured.error,
      head_errors: measured.headErrors,
      change: measured.change,
      head_changes: measured.headChanges,
    })),
  };
}

function dataNotes({ calibration, heldOut }: TuningData): string[] {
  return calibration.length < FEW_WINDOWS
    ? [
        `Calibrated on ${plural(calibration.length, 'window', 'windows')} and checked on ${heldOut.length}: ` +
          'differences between windows may be larger than the budget. Give more data.',
      ]
    : [];
}

function timeNotes({ exact }: PlanEstimate, times: ModelTimes): string[] {
  return exact || times.plan < times.exact
    ? []
    : [
        `Measured as a whole, the plan (${formatDuration(times.plan)}) is no faster than exact attention ` +
          `(${formatDuration(times.exact)}): use longer inputs, or an idle machine.`,
      ];
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
