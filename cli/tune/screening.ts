/** A form of a site by what it takes and how far off it is. */
export interface Screened {
  /** Time in proportion to exact attention's. */
  readonly ratio: number;
  readonly error: number;
}

/** Forms of a site whose effect on the metric is measured, at most. */
const MOST_FORMS = 5;
/** Part of the time of exact attention that a form has to stay below to be of use. */
const WORTHWHILE = 0.95;
/** How far off a single timing may be: a form has to be beaten by this factor to be out after one. */
const ROUGHNESS = 1.25;

/** Whether a form that was timed roughly may be faster than exact attention. */
export function mayBeFaster({ ratio }: Pick<Screened, 'ratio'>): boolean {
  return ratio < ROUGHNESS * WORTHWHILE;
}

/** The forms that may turn out to be of use after one rough timing. */
export function chooseForTiming<T extends Screened>(forms: readonly T[]): T[] {
  return forms.filter(
    form =>
      mayBeFaster(form) &&
      !forms.some(other => ROUGHNESS * other.ratio < form.ratio && other.error <= form.error),
  );
}

/**
 * The forms worth running the rest of the model for: those that no other form beats in time and error both, the
 * fastest and the closest among them, and some evenly in between.
 */
export function chooseForLoss<T extends Screened>(forms: readonly T[]): T[] {
  const useful = forms.filter(({ ratio }) => ratio < WORTHWHILE);
  return evenly(
    paretoBy(
      useful,
      ({ ratio }) => ratio,
      ({ error }) => error,
    ),
    MOST_FORMS,
  );
}

/** At most `count` elements: the first, the last, and those evenly in between. */
export function evenly<T>(elements: readonly T[], count: number): T[] {
  if (elements.length <= count) return [...elements];
  const step = (elements.length - 1) / (count - 1);
  return Array.from({ length: count }, (_, i) => elements[Math.round(i * step)]!);
}

/** Elements that no other one beats in both `time` and `cost`, least time first. */
export function paretoBy<T>(
  elements: readonly T[],
  time: (element: T) => number,
  cost: (element: T) => number,
): T[] {
  const sorted = [...elements].sort((a, b) => time(a) - time(b) || cost(a) - cost(b));
  let least = Number.POSITIVE_INFINITY;
  return sorted.filter(element => {
    if (cost(element) >= least) return false;
    least = cost(element);
    return true;
  });
}
