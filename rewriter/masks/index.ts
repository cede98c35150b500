import { additiveBias } from './additive-bias.js';
import { allTrue } from './all-true.js';
import { causal } from './causal.js';
import { causalPadding } from './causal-padding.js';
import type { MaskFacts } from './facts.js';
import { keyPadding } from './key-padding.js';
import type { MaskRule } from './mask-rule.js';
import { none } from './none.js';
import { other } from './other.js';
import { relativeBias } from './relative-bias.js';
import { slidingWindow } from './sliding-window.js';

/** From the top: the first kind that holds names the mask. */
export const MASK_RULES: readonly MaskRule[] = [
  other,
  additiveBias,
  relativeBias,
  slidingWindow,
  causalPadding,
  causal,
  keyPadding,
  allTrue,
  none,
];

export function maskKind(facts: MaskFacts): MaskRule['kind'] {
  return MASK_RULES.find(rule => rule.holds(facts))!.kind;
}
