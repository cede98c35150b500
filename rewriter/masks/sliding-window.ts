import type { MaskRule } from './mask-rule.js';

/** Keys beyond a distance are hidden that plain or causal attention would show. */
export const slidingWindow: MaskRule = {
  kind: 'sliding-window',
  holds: ({ band }) => band.lower !== null || (band.upper !== null && band.upper !== 0),
};
