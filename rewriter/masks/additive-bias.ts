import type { MaskRule } from './mask-rule.js';

/** The logits of visible keys carry a bias that depends on data, or on positions other than by their distance. */
export const additiveBias: MaskRule = {
  kind: 'additive-bias',
  holds: facts => facts.bias === 'data' || facts.bias === 'positional',
};
