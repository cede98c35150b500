import type { Change } from './change.js';
import type { PlanEstimate } from './search.js';

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

/** Measures what a plan as a whole does to the metric, on one half of the data. */
export type PlanCheck = (plan: PlanEstimate, windows: 'calibration' | 'heldOut') => Promise<Change>;

/** Plans that are run as a whole, on calibration windows and on held-out ones. */
export const MOST_CHECKS = 5;
/** Bounds of the correction: beyond them a sum of tiny costs says nothing. */
const [LEAST_CORRECTION, MOST_CORRECTION] = [0.25, 8];

const UNCHANGED: Change = { mean: 0, error: 0 };

/**
 * The fastest plan within the budget. Plans are run as a whole on the calibration windows, where what the costs
 * of single sites add up to is corrected; then on the windows held out, backing off to slower plans until one
 * keeps the budget there. Exact attention always does, and is not run.
 * @param plans fastest first, exact attention last
 */
export async function choosePlan(
  plans: readonly PlanEstimate[],
  budget: number,
  check: PlanCheck,
): Promise<CheckedPlan> {
  const exact = plans.length - 1;
  const next = (after: number, correction: number) =>
    plans.findIndex((plan, i) => i > after && (i === exact || correction * plan.cost <= budget));
  const changeOf = async (i: number, windows: 'calibration' | 'heldOut') =>
    i === exact ? UNCHANGED : check(plans[i]!, windows);

  let correction = 1;
  let tooFast = -1;
  let accepted = exact;
  let calibrated = UNCHANGED;
  for (let checks = 0; checks < MOST_CHECKS; checks++) {
    const i = next(tooFast, correction);
    if (i >= accepted) break;
    const change = await changeOf(i, 'calibration');
    correction = corrected(change, plans[i]!);
    if (change.mean <= budget) {
      accepted = i;
      calibrated = change;
    } else tooFast = i;
  }

  let rejected = 0;
  let heldOut = await changeOf(accepted, 'heldOut');
  let strict = correction;
  while (heldOut.mean > budget) {
    rejected++;
    strict = Math.max(strict, corrected(heldOut, plans[accepted]!));
    accepted = rejected < MOST_CHECKS ? next(accepted, strict) : exact;
    calibrated = await changeOf(accepted, 'calibration');
    heldOut = await changeOf(accepted, 'heldOut');
  }
  if (accepted !== exact) correction = corrected(calibrated, plans[accepted]!);
  return { plan: plans[accepted]!, calibrated, heldOut, correction, rejected };
}

function corrected({ mean }: Change, { cost }: PlanEstimate): number {
  return cost === 0 ? 1 : Math.min(Math.max(mean / cost, LEAST_CORRECTION), MOST_CORRECTION);
}
