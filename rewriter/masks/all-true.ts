import type { MaskRule } from './mask-rule.js';

/** The graph has a mask, and it hides nothing at any length. */
export const allTrue: MaskRule = { kind: 'all-true', holds: facts => facts.masked };
