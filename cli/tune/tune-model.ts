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
import { operatorById } from '../../rewriter/plan.js';
import type { RuntimeDescription } from '../../rewriter/validation.js';
import { recordMoments } from '../calibration/record-moments.js';
import { idInputs } from '../data/input-source.js';
import { modelInputs } from '../data/model-inputs.js';
import type { Progress } from '../runtime/jobs.js';
import { siteGlob } from '../site-glob.js';
import { mean } from '../statistics.js';
import { VERSION } from '../version.js';
import { type Baseline, measureBaseline } from './baseline.js';
import { type ChosenPlan, choosePlan, MOST_TRIALS, type PlanTrials } from './choose-plan.js';
import { describeTuning } from './describe-tuning.js';
import { Engine, type EngineSettings } from './engine.js';
import { type Estimate, expectedChange, type Observation, observedChange, slopeOf } from './forecast.js';
import { measurePlan } from './measure-plan.js';
import { MeasurementCache } from './measurement-cache.js';
import { metricModuleHash } from './metric-module.js';
import { PlanSearch } from './plan-search.js';
import { formsIn } from './search.js';
import type { SiteStudy } from './site-study.js';
import { studiesOf } from './study-sites.js';
import { type ModelTimes, timeAgainstExact, timePlan } from './time-plan.js';
import { modelBytes, TunableModel } from './tunable-model.js';
import type { Budget, Tuning } from './tuning.js';
import type { TuningContext } from './tuning-context.js';
import { type DataRequest, type DataWindow, readTuningData, type TuningData } from './tuning-data.js';
import { type ShareOfProgress, Workload } from './workload.js';

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

/** Windows that single sites are measured on: divergences differ little between windows. */
const SEARCHED_WINDOWS = 2;
/** Windows below which chance may decide. */
const FEW_WINDOWS = 4;
/** Attention that takes this much longer than the operators' own exact attention is not looked at again. */
const HOPELESS = 1.1;
/** Windows after which a plan that is over the budget beyond doubt is given up, and what is beyond doubt. */
const [TELLING_WINDOWS, DOUBT] = [4, 3];

/** Seconds of the phases before anything is known of the model: only their proportions are seen. */
const UNKNOWN = { baseline: 20, survey: 60, heads: 20, trials: 120, 'held out': 40, timing: 10 };
type Phase = keyof typeof UNKNOWN;

/**
 * Finds the fastest plan for a model within a budget: measures what every site costs and gains in many forms,
 * searches for plans by what these add up to, runs the best as a whole, and checks the plan on data that took no
 * part in its choice.
 * @throws InputError when the model, the data or the metric are bad, or there is nothing to tune
 */
export async function tuneModel(request: TuneRequest, progress: Progress): Promise<Tuning> {
  const file = openModelFile(request.model);
  try {
    return await tuneOpenModel(file, request, new Workload<Phase>(progress, UNKNOWN));
  } finally {
    file.close();
  }
}

async function tuneOpenModel(
  file: ModelFile,
  request: TuneRequest,
  workload: Workload<Phase>,
): Promise<Tuning> {
  const model = new TunableModel(file, spacesFor(request.operator), siteGlob(request.sites));
  if (model.sites.length === 0) throw nothingToTune(model);
  const inputs = modelInputs(file.model);
  const data = readTuningData(request.data, inputs);
  const engine = new Engine(request.model, model.folder, request.engine);
  const beginning = workload.phase('baseline');
  const { length, calibration } = data;
  model.calibrate(
    await recordMoments(model, { length, windows: calibration }, engine, name =>
      beginning.step(0, 1, `calibrating on ${name}`),
    ),
  );
  beginning.step(0, 1, 'loading the model');
  const exactModel = model.variant(model.exactForms(data.length));
  const runtime = await engine.with(modelBytes(exactModel), async session => session.runtime);
  const cache = new MeasurementCache(request.cache, fingerprint(request, file, data, runtime));
  const ids = idInputs(inputs);
  const baseline = await measureBaseline(
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
    beginning.part(0, 0.4),
  );
  const { metric, exact, exactRuns, originalMs, exactMs } = baseline;
  workload.expect(expectedSeconds(baseline, model.sites.length, data));
  try {
    const values: number[] = [];
    for (const [w, window] of data.calibration.entries()) {
      beginning.part(0.4, 1).step(w, data.calibration.length, `exact attention on ${window.name}`);
      values.push(await exactRuns.value(window));
    }
    const context: TuningContext = {
      model,
      data,
      searched: data.calibration.slice(0, SEARCHED_WINDOWS),
      metric,
      engine,
      cache,
      exact,
      exactRuns,
      mayKeep: originalMs < HOPELESS * exactMs,
      unit: metric.kind === 'loss' ? unitOf(values, metric.name) : 1,
      budget: request.budget.limit,
    };
    const studies = studiesOf(context);
    await forEach(studies, workload.phase('survey'), (study, share) => study.survey(share));
    const slope = slopeSeen(studies, context);
    const allowance = slope > 0 ? (context.budget * context.unit) / slope : Number.POSITIVE_INFINITY;
    await forEach(studies, workload.phase('heads'), (study, share) => study.tellHeadsApart(allowance, share));
    const search = new PlanSearch(studies);
    const chosen = await choosePlan(
      context.budget,
      slope / context.unit,
      trialsOf(context, search, workload),
    );
    await exactRuns.release();
    const timing = workload.phase('timing');
    const forms = formsIn(chosen.plan);
    const expectedTime = chosen.plan.exact ? 1 : await timeAgainstExact(context, forms, timing.part(0, 0.4));
    const times = await timePlan(context, forms, originalMs, timing.part(0.4, 1));
    const heldOut = await exactValues(context, data.heldOut);
    return describeTuning({
      request,
      context,
      runtime,
      studies,
      plans: search.plans(),
      chosen,
      expectedTime,
      times: { ...times, original: times.original ?? originalMs },
      metricValue: mean(heldOut),
      notes: [...baseline.notes, ...dataNotes(data), ...timeNotes(chosen, times)],
    });
  } finally {
    await exactRuns.release();
  }
}

/** What changes of a loss are in proportion to. */
function unitOf(values: readonly number[], metric: string): number {
  const unit = Math.abs(mean(values));
  if (unit > 0) return unit;
  throw new InputError(`the metric (${metric}) is 0 with exact attention: it cannot grow in proportion`, {
    remedy: 'Limit the error of the outputs instead, with --max-error.',
  });
}

/** Phases in seconds, from what whole runs of the model take: forms of sites take parts of these. */
function expectedSeconds(
  { originalMs, exactMs }: Baseline,
  sites: number,
  { calibration, heldOut }: TuningData,
): Record<Phase, number> {
  const run = exactMs / 1000;
  const windows = Math.min(SEARCHED_WINDOWS, calibration.length);
  return {
    baseline: (2 * originalMs) / 1000 + run * (2 + calibration.length),
    survey: run * windows * (8 + 1.5 * sites),
    heads: run * sites,
    trials: run * (windows * (6 + sites) + 2 * sites + 0.5 * MOST_TRIALS * calibration.length),
    'held out': 1.7 * run * heldOut.length,
    timing: 8 * run,
  };
}

async function forEach(
  studies: readonly SiteStudy[],
  progress: ShareOfProgress,
  act: (study: SiteStudy, share: ShareOfProgress) => Promise<void>,
): Promise<void> {
  for (const [s, study] of studies.entries()) {
    await act(study, progress.part(s / studies.length, (s + 1) / studies.length));
  }
}

/** By how much the metric grows with the divergence, in all forms of all sites that were run. */
function slopeSeen(studies: readonly SiteStudy[], { metric, searched }: TuningContext): number {
  const observed = studies.flatMap(({ studied }) => studied.flatMap(({ observed }) => observed ?? []));
  if (observed.length === 0) return metric.slope?.mean ?? 1;
  const byWindow = searched.map((_, w): Observation => {
    const own = observed.filter((_, i) => i % searched.length === w);
    return {
      change: mean(own.map(({ change }) => change)),
      divergence: mean(own.map(({ divergence }) => divergence)),
    };
  });
  return slopeOf(byWindow, metric.slope).mean;
}

function trialsOf(context: TuningContext, search: PlanSearch, workload: Workload<Phase>): PlanTrials {
  const { data, budget, metric, unit } = context;
  const trials = workload.phase('trials');
  const expected = (seen: readonly Observation[]) => expectedChange(seen, metric.slope, unit);
  const isHopeless = (seen: readonly Observation[]) => {
    if (seen.length < TELLING_WINDOWS) return false;
    const { mean: center, error }: Estimate = expected(seen);
    return center - DOUBT * error > budget;
  };
  let trial = 0;
  return {
    fastestWithin: cost => search.fastestWithin(cost, trials.part(0, 0.5)),
    calibrate: async plan => {
      const share = trials.part(0.5 + trial / (2 * MOST_TRIALS), 0.5 + (trial + 1) / (2 * MOST_TRIALS));
      trial++;
      return expected(await measurePlan(context, formsIn(plan), data.calibration, isHopeless, share));
    },
    holdOut: async plan => {
      const share = workload.phase('held out');
      const run = (windows: readonly DataWindow[]) =>
        measurePlan(context, formsIn(plan), windows, () => false, share);
      const [before, heldOut] = [await run(data.calibration), await run(data.heldOut)];
      const all = [...data.calibration, ...data.heldOut];
      return {
        heldOut: observedChange(heldOut, await unitOn(context, data.heldOut)),
        elsewhere: expectedChange([...before, ...heldOut], metric.slope, await unitOn(context, all)),
      };
    },
  };
}

/** What a change on these windows is in proportion to. */
async function unitOn(context: TuningContext, windows: readonly DataWindow[]): Promise<number> {
  const { metric } = context;
  return metric.kind === 'error' ? 1 : unitOf(await exactValues(context, windows), metric.name);
}

/** The metric of exact attention. */
async function exactValues(
  { exactRuns }: Pick<TuningContext, 'exactRuns'>,
  windows: readonly DataWindow[],
): Promise<number[]> {
  const values: number[] = [];
  for (const window of windows) values.push(await exactRuns.value(window));
  return values;
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

function dataNotes({ calibration, heldOut }: TuningData): string[] {
  return calibration.length < FEW_WINDOWS
    ? [
        `Calibrated on ${plural(calibration.length, 'window', 'windows')} and checked on ${heldOut.length}: ` +
          'differences between windows may be larger than the budget. Give more data.',
      ]
    : [];
}

function timeNotes({ plan }: ChosenPlan, times: ModelTimes): string[] {
  return plan.exact || times.plan < times.exact
    ? []
    : [
        `Measured as a whole, the plan (${formatDuration(times.plan)}) is no faster than exact attention ` +
          `(${formatDuration(times.exact)}): use longer inputs, or an idle machine.`,
      ];
}
