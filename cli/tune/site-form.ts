import type { TuningSpace } from '../../custom-ops/tuning-space.js';
import type { Settings } from '../../rewriter/plan.js';
import type { TunableSite } from './tunable-model.js';

/** One way to compute an attention site. Settings that are left out are the operator's defaults. */
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

/**
 * A form of a site with all its settings, those that follow from the site apart: what is kept in files has to mean
 * the same where defaults are others.
 */
export function spelledOut({ site, spaces }: TunableSite, form: SiteForm): SiteForm {
  const operator = spaces.find(space => space.operator.id === form.operator)?.operator;
  if (operator === undefined) return form;
  const implied = new Set(
    operator.attributes
      .filter(({ name, fromSite }) => fromSite && form.attributes[name] === undefined)
      .map(({ name }) => name),
  );
  const attributes = Object.entries(operator.resolve(site, form.attributes));
  return { ...form, attributes: Object.fromEntries(attributes.filter(([name]) => !implied.has(name))) };
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
