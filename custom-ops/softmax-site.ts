import type { AttentionSite, MaskKind } from '../rewriter/site.js';

const MASKS: ReadonlySet<MaskKind> = new Set(['none', 'all-true', 'key-padding', 'causal', 'causal+padding']);

/**
 * Why an operator that knows causality and key masks cannot take the place of a softmax site; null where it can.
 */
export function softmaxRefusal(operator: string, site: AttentionSite): string | null {
  if (!MASKS.has(site.mask)) return `${operator} has no form for a mask of kind ${site.mask}`;
  if (site.operatorScale === null) return 'the scale of its scores is not constant';
  return null;
}

/** What a softmax site says about an operator's scale and the position of its first row. */
export function siteParameters({ operatorScale, causal, alignment }: AttentionSite): {
  readonly scale: number | null;
  readonly causal: boolean;
  readonly causalOffset: number | null;
} {
  return {
    scale: operatorScale,
    causal,
    causalOffset: causal && alignment === 'upper-left' ? 0 : null,
  };
}
