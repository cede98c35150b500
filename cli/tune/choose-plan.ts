import { type Estimate, UNCHANGED } from './forecast.js';
import { isSamePlan, type PlanEstimate } from './search.js';

/** A plan that was run as a whole on calibration windows. */
export interface TriedPlan {
  readonly plan: PlanEstimate;
  /** What it is expected to do to the metric on other windows. */
  readonly expected: Estimate;
}

/** What came of a plan. */
export interface CheckedPlan {
  /** What it did on the windows held out. */
  readonly heldOut: Estimate;
  /** What it is expected to do on other windows, by all that it was run on: what the budget is held against. */
  readonly elsewhere: Estimate;
}

/** The plan that was chosen, with what was foretold and what came of it. */
export interface ChosenPlan extends TriedPlan, CheckedPlan {
  /** What the sum of the costs of single sites has to be multiplied with to give the change of a whole plan. */
  readonly correction: number;
  /** Faster plans that turned out to be over the budget once they were run on the windows held out. */
  readonly rejected: number;
  /** Every plan that was run as a whole. */
  readonly tried: readonly TriedPlan[];
}

/** What the choice asks of the rest. */
export interface PlanTrials {
  /** The fastest plan whose sites add up to at most `cost`; its forms are all measured. */
  fastestWithin(cost: number): Promise<PlanEstimate>;
  /** Runs a plan on calibration windows. */
  calibrate(plan: PlanEstimate): Promise<Estimate>;
  /** Runs a plan that was calibrated on the windows held out. */
  holdOut(plan: PlanEstimate): Promise<CheckedPlan>;
}

/** Plans run on calibration windows, and plans run on the windows held out. */
export const [MOST_TRIALS, MOST_REJECTED] = [4, 3];
/** A plan has to be this much faster than another one to be worth a trial. */
const WORTHWHILE_GAIN = 1.02;
/** How far the next plan goes from one that was over the budget, or well below it. */
const [LEAST_STEP, MOST_STEP] = [0.2, 4];
/** Below this part of the budget, a faster plan may be within it too. */
const WELL_BELOW = 0.9;

/**
 * The fastest plan within the budget. Plans are run as a whole on the calibration windows, which tells how the
 * costs of single sites add up; a plan is within the budget when it is expected to be so with a standard error to
 * spare. Then one is run on the windows held out too, backing off to slower ones until one keeps the budget by all
 * windows. Exact attention always does, and is not run.
 * @param correction what a unit of cost is expected to do to the metric, before any plan was run
 */
export async function choosePlan(
  budget: number,
  correction: number,
  { fastestWithin, calibrate, holdOut }: PlanTrials,
): Promise<ChosenPlan> {
  const tried: TriedPlan[] = [];
  const calibrated = async (plan: PlanEstimate): Promise<TriedPlan> => {
    if (plan.exact) return { plan, expected: UNCHANGED };
    const known = tried.find(other => isSamePlan(other.plan, plan));
    if (known !== undefined) return known;
    const trial = { plan, expected: await calibrate(plan) };
    tried.push(trial);
    return trial;
  };

  let limit = correction > 0 ? budget / correction : Number.POSITIVE_INFINITY;
  let best = await calibrated(await fastestWithin(0));
  let tooCostly = Number.POSITIVE_INFINITY;
  for (let trial = 0; trial < MOST_TRIALS; trial++) {
    const plan = await fastestWithin(limit);
    if (plan.ms * WORTHWHILE_GAIN > best.plan.ms) break;
    const candidate = await calibrated(plan);
    const upper = upperEnd(candidate.expected);
    const within = upper <= budget;
    if (within) best = candidate;
    else tooCostly = Math.min(tooCostly, plan.cost);
    if (within && upper > WELL_BELOW * budget) break;
    const step = Math.min(Math.max(upper > 0 ? budget / upper : MOST_STEP, LEAST_STEP), MOST_STEP);
    const next = plan.cost * step;
    // Between a plan that is within the budget and one that is not, halve what lies in between.
    limit = next < tooCostly ? next : (best.plan.cost + tooCostly) / 2;
  }

  let rejected = 0;
  let checked = best.plan.exact ? SAME : await holdOut(best.plan);
  while (upperEnd(checked.elsewhere) > budget) {
    rejected++;
    const step = Math.max(budget / upperEnd(checked.elsewhere), LEAST_STEP) * WELL_BELOW;
    const next = await fastestWithin(rejected < MOST_REJECTED ? best.plan.cost * step : 0);
    best = await calibrated(next);
    checked = next.exact ? SAME : await holdOut(next);
  }
  const { plan, expected } = best;
  const known = plan.cost > 0 ? expected.mean / plan.cost : correction;
  return { ...best, ...checked, correction: Math.max(known, 0), rejected, tried };
}

const SAME: CheckedPlan = { heldOut: UNCHANGED, elsewhere: UNCHANGED };

/** What a change stays below with a standard error to spare. */
function upperEnd({ mean, error }: Estimate): number {
  return mean + error;
}
