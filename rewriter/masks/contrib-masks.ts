import type { Node } from '../graph/node.js';
import type { Value } from '../graph/value.js';
import type { Laboratory } from '../probe/laboratory.js';
import { PLAIN } from '../probe/laboratory.js';
import type { FusedMask } from './fused-logits.js';

/** Axes of a mask of com.microsoft's attention operators, by rank. */
const MASK_AXES: Readonly<Record<number, FusedMask['axes']>> = {
  2: ['b', 'j'],
  3: ['b', 'i', 'j'],
  4: ['b', 'h', 'i', 'j'],
};

/**
 * Masks of com.microsoft.MultiHeadAttention and com.microsoft.Attention: a mask of zeros and ones, or the
 * number of keys of each batch row, and an additive bias. A text says which mask cannot be read.
 */
export function contribMasks(
  node: Node,
  mask: Value | null,
  bias: Value | null,
  laboratory: Laboratory,
): FusedMask[] | string {
  const masks: FusedMask[] = [];
  const hidden = node.float('mask_filter_value', -10000);
  if (bias !== null) masks.push({ value: bias, axes: MASK_AXES[4]!, meaning: 'add', hidden });
  if (mask === null) return masks;
  const sample = laboratory.trials[0]!.probe(PLAIN).sample(mask);
  const axes = MASK_AXES[sample.dims.length];
  if (axes !== undefined) return [...masks, { value: mask, axes, meaning: 'keep', hidden }];
  const query = node.inputs[0]!;
  const batch = laboratory.trials[0]!.probe(PLAIN).sample(query).dims[0];
  if (sample.dims.length === 1 && sample.dims[0] === batch) {
    return [...masks, { value: mask, axes: ['b'], meaning: 'count', hidden }];
  }
  return `its mask [${sample.dims.join(', ')}] holds starts and ends of sequences`;
}
