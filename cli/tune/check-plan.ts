import { createHash } from 'node:crypto';
import { type Change, changeOf } from './change.js';
import { formsIn, type PlanEstimate } from './search.js';
import type { ShareOfProgress } from './share-of-progress.js';
import { formKey, type SiteForm } from './site-form.js';
import { type Choices, modelBytes } from './tunable-model.js';
import type { TuningContext } from './tuning-context.js';
import type { DataWindow } from './tuning-data.js';

/** The plan that was chosen, with what was foretold and what came of it. */
export interface CheckedPlan {
  readonly plan: PlanEstimate;
  /** On the calibration windows, all sites together; none for exact attention. */
  readonly calibrated: Change;
  /** On the windows held out: what the budget is held against. */
  readonly heldOut: Change;
  /** What costs of single sites have to be multiplied with to give the change of a whole plan. */
  readonly correction: number;
  /** Faster plans that turned out to be over the budget on held-out windows. */
  readonly rejected: number;
}

/** Plans whose whole change is measured, on calibration windows and on held-out ones. */
const MOST_CHECKS = 5;
/** Bounds of the correction: beyond them a sum of tiny costs says nothing. */
const [LEAST_CORRECTION, MOST_CORRECTION] = [0.25, 8];

const UNCHANGED: Change = { mean: 0, error: 0 };

/**
 * The fastest plan within the budget. Plans are run as a whole on the calibration windows, where what the costs
 * of single sites add up to is corrected; then on the windows held out, backing off to slower plans until one
 * keeps the budget there. Exact attention always does.
 * @param plans fastest first, exact attention last
 */
export async function choosePlan(
  context: TuningContext,
  plans: readonly PlanEstimate[],
  progress: ShareOfProgress,
): Promise<CheckedPlan> {
  const { budget, data } = context;
  const exact = plans.length - 1;
  const next = (after: number, correction: number) =>
    plans.findIndex((plan, i) => i > after && (i === exact || correction * plan.cost <= budget));
  let step = 0;
  const check = async (i: number, windows: readonly DataWindow[]) => {
    if (i === exact) return UNCHANGED;
    return changeWith(context, formsIn(plans[i]!), windows, name =>
      progress.step(step++, 2 * MOST_CHECKS * windows.length, `a plan on ${name}`),
    );
  };

  let correction = 1;
  let tooFast = -1;
  let accepted = exact;
  let calibrated = UNCHANGED;
  for (let checks = 0; checks < MOST_CHECKS; checks++) {
    const i = next(tooFast, correction);
    if (i >= accepted) break;
    const change = await check(i, data.calibration);
    correction = corrected(change, plans[i]!);
    if (change.mean <= budget) {
      accepted = i;
      calibrated = change;
    } else tooFast = i;
  }

  let rejected = 0;
  let heldOut = await check(accepted, data.heldOut);
  let strict = correction;
  while (heldOut.mean > budget) {
    rejected++;
    strict = Math.max(strict, corrected(heldOut, plans[accepted]!));
    accepted = rejected < MOST_CHECKS ? next(accepted, strict) : exact;
    calibrated = await check(accepted, data.calibration);
    heldOut = await check(accepted, data.heldOut);
  }
  if (accepted !== exact) correction = corrected(calibrated, plans[accepted]!);
  return { plan: plans[accepted]!, calibrated, heldOut, correction, rejected };
}

function corrected({ mean }: Change, { cost }: PlanEstimate): number {
  return cost === 0 ? 1 : Math.min(Math.max(mean / cost, LEAST_CORRECTION), MOST_CORRECTION);
}

/** What a plan does to the metric, all sites together. */
async function changeWith(
  context: TuningContext,
  forms: Choices,
  windows: readonly DataWindow[],
  onWindow: (name: string) => void,
): Promise<Change> {
  const { cache, engine, metric, model, baseline } = context;
  const plan = planHash(forms);
  const keyOf = (window: DataWindow) => `plan ${plan}: ${window.name}`;
  const missing = windows.filter(window => !cache.has(keyOf(window)));
  if (missing.length > 0) {
    const exact =
      metric.kind === 'error' ? await engine.open(modelBytes(model.variant(context.exact))) : null;
    try {
      await engine.with(modelBytes(model.variant(forms)), async session => {
        for (const window of missing) {
          onWindow(window.name);
          await cache.get(keyOf(window), async () => {
            const outputs = await engine.run(session, window.feeds, metric.outputs);
            const reference = exact && (await engine.run(exact, window.feeds, metric.outputs));
            return metric.measure(window, outputs, reference ?? outputs);
          });
        }
      });
    } finally {
      await exact?.release();
    }
  }
  return changeOf(
    metric.kind,
    windows.map(window => baseline.get(window)!),
    windows.map(window => cache.stored<number>(keyOf(window))),
  );
}

/** A short name of a plan, for keys. */
export function planHash(forms: ReadonlyMap<string, SiteForm>): string {
  const text = [...forms]
    .map(([id, form]) => `${id}: ${formKey(form)}\n`)
    .sort()
    .join('');
  return createHash('sha256').update(text).digest('hex').slice(0, 16);
}
