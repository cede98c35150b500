import type { Node } from '../graph/node.js';
import type { Value } from '../graph/value.js';
import type { Laboratory } from '../probe/laboratory.js';
import { PLAIN } from '../probe/laboratory.js';
import type { Probe } from '../probe/probe.js';
import { FusedLogits, type FusedMask } from './fused-logits.js';

/** Axes of a mask of com.microsoft's attention operators, by rank. */
const MASK_AXES: Readonly<Record<number, FusedMask['axes']>> = {
  2: ['b', 'j'],
  3: ['b', 'i', 'j'],
  4: ['b', 'h', 'i', 'j'],
};

/** Inputs of a node that hide keys, and the size of its heads. */
export interface ContribScores {
  readonly mask: Value | null;
  /** Added to the logits. */
  readonly bias: Value | null;
  readonly headDim: (probe: Probe) => number;
}

/** The logits of com.microsoft.MultiHeadAttention and com.microsoft.Attention. A text says which mask cannot be read. */
export function contribLogits(
  node: Node,
  { mask, bias, headDim }: ContribScores,
  laboratory: Laboratory,
): FusedLogits | string {
  const masks = contribMasks(node, mask, bias, laboratory);
  if (typeof masks === 'string') return masks;
  const scale = node.float('scale', 0);
  return new FusedLogits(node, {
    scale: scale === 0 ? null : scale,
    headDim,
    softcap: 0,
    causal: node.int('unidirectional', 0) === 1,
    window: { left: null, right: null },
    offset: (_, extent) => extent.columns - extent.rows,
    masks,
  });
}

/** A mask of zeros and ones, or the number of keys of each batch row, and an additive bias. */
function contribMasks(
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
