import { paretoBy } from './pareto.js';
import { formKey, type SiteForm } from './site-form.js';

/** One site in one form. */
export interface SiteEstimate {
  readonly form: SiteForm;
  readonly ms: number;
  /** Divergence that the form is expected to cause; 0 for exact attention. */
  readonly cost: number;
  /** Whether it computes exact attention. */
  readonly exact: boolean;
}

/** What a site may be computed by. */
export interface SiteOptions {
  readonly id: string;
  /** Exact attention at its fastest. */
  readonly exact: SiteEstimate;
  readonly approximations: readonly SiteEstimate[];
}

/** A plan by what single sites add up to. */
export interface PlanEstimate {
  /** By id of the site. */
  readonly sites: ReadonlyMap<string, SiteEstimate>;
  /** Milliseconds of all sites together. */
  readonly ms: number;
  /** Sum of the costs. */
  readonly cost: number;
  /** Whether every site computes exact attention: then the cost is none, not merely none that was seen. */
  readonly exact: boolean;
}

/** The form of each site, by id. */
export function formsIn({ sites }: PlanEstimate): ReadonlyMap<string, SiteForm> {
  return new Map([...sites].map(([id, { form }]) => [id, form]));
}

/** Whether two plans compute every site alike. */
export function isSamePlan(a: PlanEstimate, b: PlanEstimate): boolean {
  return [...a.sites].every(([id, { form }]) => formKey(form) === formKey(b.sites.get(id)!.form));
}

/** Points that a frontier keeps; the steps between them are below a percent of its time. */
const MOST_POINTS = 300;

/**
 * The plans that no other plan beats in expected time and cost both, fastest first, and the fastest exact one at
 * the end. Costs of sites are taken to add up, as small changes do. Depends on nothing but the options.
 */
export function searchPlans(sites: readonly SiteOptions[]): PlanEstimate[] {
  let plans: readonly PlanEstimate[] = [NOTHING];
  let exactPlan = NOTHING;
  for (const { id, exact, approximations } of sites) {
    const options = frontier([exact, ...approximations]);
    const pairs = plans.flatMap(plan =>
      options.map(option => ({ plan, option, ms: plan.ms + option.ms, cost: plan.cost + option.cost })),
    );
    plans = frontier(pairs).map(({ plan, option }) => extended(plan, id, option));
    exactPlan = extended(exactPlan, id, exact);
  }
  return [...plans.filter(plan => !plan.exact), exactPlan];
}

const NOTHING: PlanEstimate = { sites: new Map(), ms: 0, cost: 0, exact: true };

function extended(plan: PlanEstimate, id: string, option: SiteEstimate): PlanEstimate {
  return {
    sites: new Map([...plan.sites, [id, option]]),
    ms: plan.ms + option.ms,
    cost: plan.cost + option.cost,
    exact: plan.exact && option.exact,
  };
}

function frontier<T extends { readonly ms: number; readonly cost: number }>(points: readonly T[]): T[] {
  const best = paretoBy(
    points,
    ({ ms }) => ms,
    ({ cost }) => cost,
  );
  if (best.length <= MOST_POINTS) return best;
  const [first, last] = [best[0]!.ms, best.at(-1)!.ms];
  const step = (last - first) / MOST_POINTS;
  // Of the points in a step of time, the one that costs least; the first and the last stay.
  return best.filter((point, i) => {
    const next = best[i + 1];
    if (i === 0 || next === undefined) return true;
    return Math.floor((point.ms - first) / step) !== Math.floor((next.ms - first) / step);
  });
}
