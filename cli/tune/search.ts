import { perHeadNumbers, type TuningSpace } from '../../custom-ops/tuning-space.js';
import { paretoBy } from './screening.js';
import type { FormMeasurement, SiteMeasurement } from './site-bench.js';
import { formKey, KEPT, type SiteForm } from './site-form.js';

/** One site in one form. */
export interface SiteEstimate {
  readonly form: SiteForm;
  readonly ms: number;
  /** Change of the metric that the form is expected to make; never below 0, which would be chance. */
  readonly cost: number;
  /** Whether it computes exact attention. */
  readonly exact: boolean;
}

/** A plan by what the measurements of single sites add up to. */
export interface PlanEstimate {
  /** By id of the site. */
  readonly sites: ReadonlyMap<string, SiteEstimate>;
  /** Milliseconds of all sites together. */
  readonly ms: number;
  /** Sum of the changes of the metric. */
  readonly cost: number;
  /** Whether every site computes exact attention: then the cost is none, not merely none that was seen. */
  readonly exact: boolean;
}

/** The form of each site, by id. */
export function formsIn({ sites }: PlanEstimate): ReadonlyMap<string, SiteForm> {
  return new Map([...sites].map(([id, { form }]) => [id, form]));
}

/** Points that a frontier keeps; the steps between them are below a percent of its time. */
const MOST_POINTS = 400;

/**
 * The plans that no other plan beats in expected time and metric both, fastest first, and the fastest exact one
 * at the end.
 * Costs of sites, and of heads of a site, are taken to add up, as small changes do. Depends on nothing but the
 * measurements.
 * @param exactOf the exact form that a site was compared with
 */
export function searchPlans(
  measurements: readonly SiteMeasurement[],
  exactOf: (measurement: SiteMeasurement) => SiteForm,
): PlanEstimate[] {
  let plans: readonly PlanEstimate[] = [NOTHING];
  let exactPlan = NOTHING;
  for (const measurement of measurements) {
    const { id } = measurement.site.site;
    const exact = fastestExact(measurement, exactOf(measurement));
    const options = frontier([exact, ...approximations(measurement)]);
    plans = frontier(plans.flatMap(plan => options.map(option => extended(plan, id, option))));
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

function fastestExact({ forms, exactMs }: SiteMeasurement, form: SiteForm): SiteEstimate {
  const exact = { form, ms: exactMs, cost: 0, exact: true };
  const kept = forms.find(measured => formKey(measured.form) === formKey(KEPT));
  return kept === undefined || kept.ms >= exactMs ? exact : { ...exact, form: KEPT, ms: kept.ms };
}

/** A site in the forms that were measured on the metric, heads in different forms included. */
function approximations(measurement: SiteMeasurement): SiteEstimate[] {
  const whole = measurement.forms.flatMap(({ form, ms, change }) =>
    change === null ? [] : [{ form, ms, cost: Math.max(0, change.mean), exact: false }],
  );
  return [...whole, ...measurement.site.spaces.flatMap(space => mixedForms(measurement, space))];
}

/** Head by head, exact attention or one of the forms that differ in the per-head attribute only. */
function mixedForms(
  { forms, exactMs, site }: SiteMeasurement,
  { operator, perHead, exact }: TuningSpace,
): SiteEstimate[] {
  const exactNumber = perHead === null ? undefined : exact?.[perHead];
  if (perHead === null || typeof exactNumber !== 'number') return [];
  const heads = site.site.queryHeads ?? 1;
  const families = new Map<string, FormMeasurement[]>();
  for (const measured of forms) {
    if (measured.form.operator !== operator.id || measured.headChanges === null) continue;
    const { [perHead]: _, ...shared } = measured.form.attributes;
    const family = formKey({ operator: operator.id, attributes: shared });
    families.set(family, [...(families.get(family) ?? []), measured]);
  }
  return [...families.values()].flatMap(family => {
    const defaults = operator.resolve(site.site, {})[perHead];
    let mixes: readonly Mix[] = [{ numbers: [], ms: 0, cost: 0 }];
    for (let head = 0; head < heads; head++) {
      const levels = [
        { number: exactNumber, ms: exactMs / heads, cost: 0 },
        ...family.map(({ form, ms, headChanges }) => ({
          number: perHeadNumbers(form.attributes[perHead] ?? defaults, heads)[head]!,
          ms: ms / heads,
          cost: Math.max(0, headChanges![head]!.mean),
        })),
      ];
      mixes = frontier(
        mixes.flatMap(mix =>
          levels.map(({ number, ms, cost }) => ({
            numbers: [...mix.numbers, number],
            ms: mix.ms + ms,
            cost: mix.cost + cost,
          })),
        ),
      );
    }
    const { attributes } = family[0]!.form;
    // Equal numbers are one of the forms as a whole, which was measured as such.
    return mixes
      .filter(({ numbers }) => new Set(numbers).size > 1)
      .map(({ numbers, ms, cost }) => {
        const form = { operator: operator.id, attributes: { ...attributes, [perHead]: numbers } };
        return { form, ms, cost, exact: false };
      });
  });
}

/** Heads in different forms, up to one of them. */
interface Mix {
  readonly numbers: readonly number[];
  readonly ms: number;
  readonly cost: number;
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
  // Of the points in a step of time, the one that costs the metric least; the first and the last stay.
  return best.filter((point, i) => {
    const next = best[i + 1];
    if (i === 0 || next === undefined) return true;
    return Math.floor((point.ms - first) / step) !== Math.floor((next.ms - first) / step);
  });
}
