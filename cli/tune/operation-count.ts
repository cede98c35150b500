import type { Operations } from '../../custom-ops/tuning-space.js';
import type { SiteForm } from './site-form.js';
import type { TunableSite } from './tunable-model.js';

/**
 * How many times fewer multiply-adds than exact attention sites take in these forms, at the best where data decides:
 * what a plan could gain if all multiply-adds took the same time. Null where sizes are not known.
 */
export function operationCeiling(
  sites: readonly { readonly site: TunableSite; readonly form: SiteForm }[],
  length: number | null,
): number | null {
  let exact = 0;
  let chosen = 0;
  for (const { site, form } of sites) {
    const operations = operationsOf(site, form, length);
    if (operations === null || operations.chosen === null) return null;
    // Sites differ in head size, which multiplies everything.
    const size = site.site.headDim!;
    exact += size * operations.exact;
    chosen += size * (operations.least ?? operations.chosen);
  }
  return chosen === 0 ? null : exact / chosen;
}

function operationsOf(
  { site, spaces }: TunableSite,
  form: SiteForm,
  length: number | null,
): Operations | null {
  const { headDim, queryHeads, kind } = site;
  if (length === null || headDim === null || queryHeads === null || kind !== 'self') return null;
  const kept = form.operator === null;
  const space = spaces.find(({ operator, exact }) => (kept ? exact !== null : operator.id === form.operator));
  if (space === undefined) return null;
  const attributes = space.operator.resolve(site, kept ? space.exact! : form.attributes);
  return space.operations(attributes, queryHeads, length);
}
