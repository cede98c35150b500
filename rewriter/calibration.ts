import type { HeadMoments } from '../custom-ops/head-rotation.js';
import { InputError } from './errors.js';
import type { Decision } from './plan.js';
import type { PlacedRotation, Replacement } from './replacement-nodes.js';
import { isAttention } from './site.js';

/** Whether a replacement is to be calibrated: its operator approximates the site only in a rotation of its own. */
export function needsCalibration({ site, operator, rotation }: Replacement): boolean {
  return isAttention(site) && operator.rotationFor !== undefined && rotation === undefined;
}

/**
 * The decisions with every replacement rotated that is to be.
 * @param moments of queries and keys on the user's data, by id of the site
 * @throws InputError naming a site that needs moments and has none
 */
export function calibrated(
  decisions: readonly Decision[],
  moments: ReadonlyMap<string, HeadMoments>,
  place: PlacedRotation['place'],
): Decision[] {
  return decisions.map(decision => {
    const { replacement, site } = decision;
    if (replacement === null || !needsCalibration(replacement)) return decision;
    const { operator } = replacement;
    const known = moments.get(site.id);
    if (known === undefined) throw uncalibrated(site.id, operator.id);
    return {
      ...decision,
      replacement: { ...replacement, rotation: { ...operator.rotationFor!(known), place } },
    };
  });
}

/** What becomes of a replacement that nothing was calibrated for. */
export function uncalibrated(site: string, operator: string): InputError {
  return new InputError(
    `${site}: ${operator} approximates softmax attention only as far as it is calibrated on data`,
    { remedy: 'Give data like that which the model will see: --data FILE, as tune takes it.' },
  );
}
