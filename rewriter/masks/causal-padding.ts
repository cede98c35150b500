import { hidesLaterKeys } from './causal.js';
import type { MaskRule } from './mask-rule.js';

/** Later keys and the keys of absent tokens are hidden. */
export const causalPadding: MaskRule = {
  kind: 'causal+padding',
  holds: facts => hidesLaterKeys(facts) && facts.padding,
};
