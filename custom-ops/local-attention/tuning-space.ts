import type { Attributes } from '../operator.js';
import type { Operations, TuningSpace } from '../tuning-space.js';
import { localAttention } from './operator.js';
import { parametersOf } from './parameters.js';

/** In place of a sliding window: exact, so there is nothing to choose but whether. */
export const localTuningSpace: TuningSpace = {
  operator: localAttention,
  exact: {},
  perHead: null,
  candidates: () => [],
  neighbors: () => [],
  operations,
};

/** Pairs of row and key inside the window, against all that a model computes before it masks. */
function operations(attributes: Attributes, heads: number, length: number): Operations {
  const { left, right } = parametersOf(attributes);
  const exact = heads * (right === 0 ? length * (length + 1) : 2 * length * length);
  return { exact, chosen: 2 * heads * (length + pairsBeside(left, length) + pairsBeside(right, length)) };
}

/** Pairs of a row and an earlier key, at most `reach` before it. */
function pairsBeside(reach: number | null, length: number): number {
  const most = Math.max(0, Math.min(reach ?? length, length - 1));
  return (most * (most + 1)) / 2 + (length - 1 - most) * most;
}
