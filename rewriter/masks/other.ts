import type { MaskRule } from './mask-rule.js';

/** Not described by any other kind: capped logits, or a mask that probing does not explain. */
export const other: MaskRule = { kind: 'other', holds: facts => facts.softcap || facts.unclear !== null };
