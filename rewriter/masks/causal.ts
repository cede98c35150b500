import type { MaskFacts } from './facts.js';
import type { MaskRule } from './mask-rule.js';

/** No later key is visible. */
export function hidesLaterKeys(facts: MaskFacts): boolean {
  return facts.band.upper !== null && facts.band.upper <= 0;
}

/** Exactly the later keys are hidden. */
export const causal: MaskRule = { kind: 'causal', holds: hidesLaterKeys };
