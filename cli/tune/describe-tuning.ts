import { PLAN_VERSION } from '../../rewriter/plan.js';
import type { RuntimeDescription } from '../../rewriter/validation.js';
import { sum } from '../statistics.js';
import type { ChosenPlan } from './choose-plan.js';
import { operationCeiling } from './operation-count.js';
import { formsIn, isSamePlan, type PlanEstimate } from './search.js';
import type { SiteStudy } from './site-study.js';
import type { ModelTimes } from './time-plan.js';
import type { TuneRequest } from './tune-model.js';
import type { FrontierPoint, Outcome, TunedSite, Tuning } from './tuning.js';
import type { TuningContext } from './tuning-context.js';

/** Attention is never all of a model, whatever noise makes of measurements of tiny ones. */
const LARGEST_SHARE = 0.98;
/** Speeds that differ by less are the same number. */
const ROUNDING = 1e-9;
/** Points of the frontier that the document shows. */
const SHOWN_POINTS = 24;

/** What a tuning has found, before it is put in the terms of the model. */
interface Findings {
  readonly request: TuneRequest;
  readonly context: TuningContext;
  readonly runtime: RuntimeDescription;
  readonly studies: readonly SiteStudy[];
  /** Fastest first, the exact one last. */
  readonly plans: readonly PlanEstimate[];
  readonly chosen: ChosenPlan;
  /** Time of the chosen plan against exact attention, whole models, before the last measurement. */
  readonly expectedTime: number;
  readonly times: ModelTimes & { readonly original: number };
  /** Mean metric of exact attention on the windows held out. */
  readonly metricValue: number;
  readonly notes: readonly string[];
}

/** A tuning as documents show it: times of sites as times of the model, divergences as changes of the metric. */
export function describeTuning(findings: Findings): Tuning {
  const { request, context, runtime, plans, chosen, times, metricValue, notes } = findings;
  const { model, data, metric } = context;
  const forecast = new ModelForecast(findings);
  return {
    model: request.model,
    data: {
      files: request.data.files,
      length: data.length,
      searched_windows: context.searched.length,
      calibration_windows: data.calibration.length,
      held_out_windows: data.heldOut.length,
      seed: request.data.seed,
    },
    metric: { name: metric.name, kind: metric.kind },
    budget: request.budget,
    runtime,
    baseline: {
      metric: metricValue,
      original_ms: times.original,
      exact_ms: times.exact,
      attention_ms: forecast.attentionMs,
    },
    plan: describePlan(findings, forecast),
    frontier: thinned(plans, chosen.plan).map(
      (plan): FrontierPoint => ({
        ...forecast.outcome(chosen.correction * plan.cost, forecast.ms(plan)),
        operation_ceiling: ceilingOf(plan, context),
        chosen: plan === chosen.plan,
      }),
    ),
    tried: chosen.tried.map(({ plan, expected }) => ({
      ...forecast.outcome(expected.mean, forecast.ms(plan)),
      standard_error: expected.error,
    })),
    correction: chosen.correction * context.unit,
    sites: describeSites(findings),
    skipped: model.skipped,
    notes,
  };
}

/**
 * What plans make of the time of the model. Machines drift: a plan is foretold in parts of the time of exact
 * attention, measured beside everything else.
 */
class ModelForecast {
  /** Time of exact attention in the model. */
  readonly attentionMs: number;
  /** What a site takes longer in the model than by itself: as much for each as for those of the chosen plan. */
  private readonly overheadMs: number;

  constructor(private readonly findings: Findings) {
    const { chosen, expectedTime, times } = findings;
    this.attentionMs = Math.min(sum(Object.values(times.sites)), LARGEST_SHARE * times.exact);
    this.overheadMs = chosen.plan.exact
      ? 0
      : (expectedTime * times.exact - this.summedMs(chosen.plan)) / approximatedSites(chosen.plan);
  }

  /** Time of the model with a plan. */
  ms(plan: PlanEstimate): number {
    return this.summedMs(plan) + this.overheadMs * approximatedSites(plan);
  }

  /** A growth of the metric and a time of the model as documents show them. */
  outcome(lossIncrease: number, ms: number): Outcome {
    const { times } = this.findings;
    const rest = this.attentionMs - times.exact + ms;
    return {
      loss_increase: lossIncrease,
      ms,
      speed: times.original / ms,
      attention_speed: rest > 0 ? this.attentionMs / rest : null,
    };
  }

  /** Time of the model if sites took as long in it as by themselves. */
  private summedMs(plan: PlanEstimate): number {
    const { studies, times } = this.findings;
    const saved = sum(
      studies.map(({ id, exactMs }) => (1 - plan.sites.get(id)!.ms / exactMs) * times.sites[id]!),
    );
    return times.exact - (this.attentionMs / sum(Object.values(times.sites))) * saved;
  }
}

function approximatedSites({ sites }: PlanEstimate): number {
  return [...sites.values()].filter(({ exact }) => !exact).length;
}

function ceilingOf(plan: PlanEstimate, { model, data }: TuningContext): number | null {
  return operationCeiling(
    model.sites.map(site => ({ site, form: plan.sites.get(site.site.id)!.form })),
    data.length,
  );
}

/** The chosen plan as `rewrite --plan` takes it, with what it was found to cost and gain. */
function describePlan({ context, chosen, times }: Findings, forecast: ModelForecast): Tuning['plan'] {
  return {
    version: PLAN_VERSION,
    sites: [...context.model.spelledOut(formsIn(chosen.plan))].map(([id, form]) => ({ id, ...form })),
    tuning: {
      predicted: {
        ...forecast.outcome(chosen.expected.mean, forecast.ms(chosen.plan)),
        standard_error: chosen.expected.error,
      },
      measured: {
        ...forecast.outcome(chosen.heldOut.mean, times.plan),
        standard_error: context.data.heldOut.length > 1 ? chosen.heldOut.error : null,
        rejected: chosen.rejected,
      },
      expected: { loss_increase: chosen.elsewhere.mean, standard_error: chosen.elsewhere.error },
      operation_ceiling: ceilingOf(chosen.plan, context),
    },
  };
}

/** Sites with what was chosen for them. */
function describeSites({ context: { model, data }, studies, chosen }: Findings): TunedSite[] {
  return studies.map((study, s) => {
    const { form, ms, cost, exact } = chosen.plan.sites.get(study.id)!;
    return {
      ...describeSite(study, chosen.correction),
      causal: model.sites[s]!.site.causal,
      ...form,
      exact,
      ms,
      loss_increase: chosen.correction * cost,
      operation_ceiling: operationCeiling([{ site: model.sites[s]!, form }], data.length),
    };
  });
}

/** What holds for a site whatever was chosen for it. */
function describeSite(
  study: SiteStudy,
  correction: number,
): Pick<TunedSite, 'id' | 'exact_ms' | 'sensitivity' | 'forms'> {
  const { id, exactMs } = study;
  const sensitivity = study.sensitivity();
  return {
    id,
    exact_ms: exactMs,
    sensitivity: sensitivity && {
      ms: sensitivity.studied.ratio * exactMs,
      loss_increase: correction * study.costOf(sensitivity.studied),
      heads: sensitivity.headCosts.map(cost => correction * cost),
    },
    forms: study.studied.map(studied => ({
      ...studied.form,
      ms: studied.ratio * exactMs,
      timed: studied.timed,
      head_errors: studied.headErrors,
      loss_increase: correction * study.costOf(studied),
      measured: studied.observed !== null,
    })),
  };
}

/** The chosen plan, the exact one, and some evenly between that and the fastest by speed; fastest first. */
function thinned(plans: readonly PlanEstimate[], chosen: PlanEstimate): PlanEstimate[] {
  const others = plans.filter(plan => !isSamePlan(plan, chosen));
  const [fastest, slowest] = [1 / plans[0]!.ms, 1 / plans.at(-1)!.ms];
  const shown = new Set([chosen]);
  for (let i = 0; i < SHOWN_POINTS; i++) {
    const speed = slowest + ((fastest - slowest) * i) / (SHOWN_POINTS - 1);
    const next = others.findLast(plan => 1 / plan.ms >= speed * (1 - ROUNDING));
    if (next !== undefined) shown.add(next);
  }
  return [...shown].sort((a, b) => a.ms - b.ms);
}
