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
  const { request, context, runtime, studies, plans, chosen, expectedTime, times, metricValue, notes } =
    findings;
  const { model, data, metric } = context;
  // Machines drift: a plan is foretold in parts of the time of exact attention, measured beside everything else.
  const attention = sum(Object.values(times.sites));
  const attentionMs = Math.min(attention, LARGEST_SHARE * times.exact);
  const summedMs = (plan: PlanEstimate) =>
    times.exact -
    (attentionMs / attention) *
      sum(studies.map(({ id, exactMs }) => (1 - plan.sites.get(id)!.ms / exactMs) * times.sites[id]!));
  const approximated = ({ sites }: PlanEstimate) => [...sites.values()].filter(({ exact }) => !exact).length;
  // In the model, sites take longer than by themselves: as much for each as for those of the chosen plan.
  const chosenMs = expectedTime * times.exact;
  const overheadMs = chosen.plan.exact ? 0 : (chosenMs - summedMs(chosen.plan)) / approximated(chosen.plan);
  const foretoldMs = (plan: PlanEstimate) => summedMs(plan) + overheadMs * approximated(plan);
  const outcome = (lossIncrease: number, ms: number): Outcome => {
    const rest = attentionMs - times.exact + ms;
    return {
      loss_increase: lossIncrease,
      ms,
      speed: times.original / ms,
      attention_speed: rest > 0 ? attentionMs / rest : null,
    };
  };
  const ceiling = (plan: PlanEstimate) =>
    operationCeiling(
      model.sites.map(site => ({ site, form: plan.sites.get(site.site.id)!.form })),
      data.length,
    );
  const shown = thinned(plans, chosen.plan);
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
      attention_ms: attentionMs,
    },
    plan: {
      version: PLAN_VERSION,
      sites: [...formsIn(chosen.plan)].map(([id, form]) => ({ id, ...form })),
      tuning: {
        predicted: {
          ...outcome(chosen.expected.mean, foretoldMs(chosen.plan)),
          standard_error: chosen.expected.error,
        },
        measured: {
          ...outcome(chosen.heldOut.mean, times.plan),
          standard_error: data.heldOut.length > 1 ? chosen.heldOut.error : null,
          rejected: chosen.rejected,
        },
        expected: { loss_increase: chosen.elsewhere.mean, standard_error: chosen.elsewhere.error },
        operation_ceiling: ceiling(chosen.plan),
      },
    },
    frontier: shown.map(
      (plan): FrontierPoint => ({
        ...outcome(chosen.correction * plan.cost, foretoldMs(plan)),
        operation_ceiling: ceiling(plan),
        chosen: plan === chosen.plan,
      }),
    ),
    tried: chosen.tried.map(({ plan, expected }) => ({
      ...outcome(expected.mean, foretoldMs(plan)),
      standard_error: expected.error,
    })),
    correction: chosen.correction * context.unit,
    sites: studies.map((study, s) => {
      const { form, ms, cost, exact } = chosen.plan.sites.get(study.id)!;
      const ceilingHere = operationCeiling([{ site: model.sites[s]!, form }], data.length);
      return {
        ...describeSite(study, chosen.correction),
        causal: model.sites[s]!.site.causal,
        ...form,
        exact,
        ms,
        loss_increase: chosen.correction * cost,
        operation_ceiling: ceilingHere,
      };
    }),
    skipped: model.skipped,
    notes,
  };
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
