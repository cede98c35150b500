import type { MaskKind } from '../site.js';
import type { MaskFacts } from './facts.js';

/** What a kind of mask is, as a statement about the facts of a site. */
export interface MaskRule {
  readonly kind: MaskKind;
  holds(facts: MaskFacts): boolean;
}
