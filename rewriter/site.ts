import type { Node } from './graph/node.js';
import type { DataType } from './onnx/spec.js';

/** What the mask of a site hides, strongest description first (see `masks/`). */
export type MaskKind =
  | 'none'
  | 'all-true'
  | 'key-padding'
  | 'causal'
  | 'causal+padding'
  | 'sliding-window'
  | 'additive-bias'
  | 'relative-bias'
  | 'other';

/**
 * How a value of the graph lays out batch (B), heads (H), sequence (N) and head size (D):
 * 'BHND' is the operator's own layout; 'BHDN' a key transposed for the score product; 'BNHD' before the
 * head transpose; 'BN(HD)' packed heads, as com.microsoft.MultiHeadAttention takes them; 'NB(HD)' and
 * 'N(BH)D' sequence first, as torch.nn.MultiheadAttention works.
 */
export type Layout = 'BHND' | 'BHDN' | 'BNHD' | 'BN(HD)' | 'NB(HD)' | 'N(BH)D';

/** Where a layout has the batch, alone or as the outer part of batch times heads, and queries or keys. */
export const LAYOUT_AXES: Readonly<
  Record<Layout, { readonly batch: number; readonly sequence: number; readonly headsWithBatch: boolean }>
> = {
  BHND: { batch: 0, sequence: 2, headsWithBatch: false },
  BHDN: { batch: 0, sequence: 3, headsWithBatch: false },
  BNHD: { batch: 0, sequence: 1, headsWithBatch: false },
  'BN(HD)': { batch: 0, sequence: 1, headsWithBatch: false },
  'NB(HD)': { batch: 1, sequence: 0, headsWithBatch: false },
  'N(BH)D': { batch: 1, sequence: 0, headsWithBatch: true },
};

/**
 * What an operator that projects inside does to a value X [B,N,X] before it is an operand: X W + b, by the
 * columns of matrices that hold query, key and value side by side.
 */
export interface Projection {
  /** Matrix [X, all columns]; null where only a bias is added. */
  readonly weights: string | null;
  /** Vector [all columns]; null where there is none. */
  readonly bias: string | null;
  /** The first column of this operand, and the one past its last. */
  readonly columns: readonly [number, number];
}

/** A value of the graph together with its layout, once projected. */
export interface Operand {
  readonly value: string;
  readonly layout: Layout;
  /** Its element type, which may differ from the site's: models of half precision compute parts in float32. */
  readonly dataType: DataType;
  /** Null where the value is the operand. */
  readonly projection: Projection | null;
}

/** Names of the values that an operand is made of. */
export function valuesOf({ value, projection }: Operand): readonly string[] {
  return [value, projection?.weights, projection?.bias].filter(name => name != null);
}

/** Keys visible per batch row: a value of the graph of shape [B,S]. */
export interface KeyMask {
  readonly value: string;
  readonly dataType: DataType;
  /** Which elements mark a visible key: exporters write both `attention_mask` and `key_padding_mask`. */
  readonly visible: 'nonzero' | 'zero';
}

/**
 * One place in a model that computes attention: softmax(scale * q k^T + mask) v.
 * Patterns produce sites; operators accept or refuse them; neither knows the other.
 */
export interface AttentionSite {
  /** Stable and unique in the model: the layer's scope where the exporter left one, else the output's name. */
  readonly id: string;
  /** Module path of the layer (for instance `blocks.0.attn`), null when the exporter left none. */
  readonly scope: string | null;
  /** Names of the nodes that own the enclosing subgraphs, outermost first; empty in the main graph. */
  readonly graphPath: readonly string[];
  /** Name of the pattern that matched. */
  readonly pattern: string;
  /** Nodes that exist only for this attention: dead once the output is computed otherwise. */
  readonly nodes: readonly Node[];

  readonly query: Operand;
  readonly key: Operand;
  readonly value: Operand;
  readonly output: Operand;

  /** Heads and head sizes as the graph states them; null where it does not. */
  readonly queryHeads: number | null;
  readonly kvHeads: number | null;
  readonly headDim: number | null;
  /** Head size of the values and of the output. */
  readonly valueDim: number | null;
  /** Total factor on q.k, wherever the graph applies it. */
  readonly scale: number | null;
  /** The part of `scale` that `query` and `key` do not yet carry: what an operator has to apply. */
  readonly operatorScale: number | null;

  readonly mask: MaskKind;
  /** True whenever no later key is visible, whatever the mask. */
  readonly causal: boolean;
  /** Null when no key is hidden by data. */
  readonly keyMask: KeyMask | null;
  /** Which corner the causal diagonal starts from when query and key lengths differ. */
  readonly alignment: 'bottom-right' | 'upper-left' | 'equal';
  /** What the graph gives for a row that sees no key: 'mean' is the mean of all values, 'never' no such row. */
  readonly emptyRow: 'zeros' | 'mean' | 'nan' | 'unknown' | 'never';
  /** True when keys and values of earlier steps are concatenated in front. */
  readonly past: boolean;

  readonly kind: 'self' | 'cross' | 'cached';
  readonly dtype: 'float32' | 'float16' | 'bfloat16' | 'float64' | null;
  /** False when no operator may replace the site as it stands; `reason` says why. */
  readonly replaceable: boolean;
  readonly reason: string | null;
}

/** A place that looked like attention and matched no pattern entirely. */
export interface NearMiss {
  /** Name of the node where the best partial match ended. */
  readonly node: string;
  readonly pattern: string;
  readonly reason: string;
}
