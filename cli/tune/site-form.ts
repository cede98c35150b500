import type { TuningSpace } from '../../custom-ops/tuning-space.js';
import type { Settings } from '../../rewriter/plan.js';

/** One way to compute an attention site, as a plan describes it. */
export interface SiteForm {
  /** Null keeps what the model has. */
  readonly operator: string | null;
  readonly attributes: Settings;
}

export const KEPT: SiteForm = { operator: null, attributes: {} };

/** The same for equal forms, and different for others. */
export function formKey({ operator, attributes }: SiteForm): string {
  return operator === null ? 'kept' : `${operator} ${JSON.stringify(sorted(attributes))}`;
}

/** The attribute below whose number of keys an operator is exact; a plan has to have it on at its own length. */
const EXACT_BELOW = 'exact_below';

/** `settings` of an operator as a form that is in force at sequences of `length`. */
export function formOf({ operator }: TuningSpace, settings: Settings, length: number | null): SiteForm {
  const threshold = operator.attributes.some(({ name }) => name === EXACT_BELOW);
  const below = Math.min(operator.defaultMinLength, length ?? Number.POSITIVE_INFINITY);
  return {
    operator: operator.id,
    attributes: threshold ? { ...settings, [EXACT_BELOW]: below } : settings,
  };
}

/** What tells a form from others of its operator: its attributes without those that all have. */
export function describeForm({ operator, attributes }: SiteForm): string {
  if (operator === null) return 'kept as it is';
  const telling = Object.entries(attributes).filter(([name]) => name !== EXACT_BELOW);
  return telling.map(([name, value]) => `${name} ${[value].flat().join(',')}`).join(', ') || 'defaults';
}

function sorted(settings: Settings): Settings {
  return Object.fromEntries(Object.entries(settings).sort(([a], [b]) => (a < b ? -1 : 1)));
}
