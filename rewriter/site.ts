import type { Attributes } from '../custom-ops/operator.js';
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

/** Turns a value into one of another shape: an axis order, or a shape where 0 keeps a size and -1 is the rest. */
export type Move = { readonly transpose: readonly number[] } | { readonly reshape: readonly number[] };

/** An input of a fusion: a value of the graph, data or weights, and the moves from it to what the operator takes. */
export interface FusionOperand {
  readonly value: string;
  readonly dataType: DataType;
  /** In order; none where the value is already laid out as the operator documents its input. */
  readonly moves: readonly Move[];
}

/** What a fusion computes: the moves lead from the operator's output to the value of the graph. */
export interface FusionOutput extends FusionOperand {
  /** Where the value of the graph has batch and rows. */
  readonly axes: SequenceAxes;
}

export interface SequenceAxes {
  readonly batch: number;
  readonly sequence: number;
}

/** Names of the values that an operand is made of. */
export function valuesOf(operand: Operand | FusionOperand | KeyMask): readonly string[] {
  const projection = 'projection' in operand ? operand.projection : null;
  return [operand.value, projection?.weights, projection?.bias].filter(name => name != null);
}

/** Keys visible per batch row: a value of the graph of shape [B,S]. */
export interface KeyMask {
  readonly value: string;
  readonly dataType: DataType;
  /** Which elements mark a visible key: exporters write both `attention_mask` and `key_padding_mask`. */
  readonly visible: 'nonzero' | 'zero';
}

/**
 * What a place in a model computes. 'softmax' is softmax attention, in whatever form. The others are what the
 * custom operators of that name compute themselves (operator specification, sections 2 to 4): a model trained
 * with one of them and exported in plain operators.
 */
export type Computation = 'softmax' | FusedComputation;
export type FusedComputation = 'elementwise' | 'multi-level' | 'bilinear' | 'structured-matmul';

/** What is known of every site, whatever it computes. */
interface SiteFacts {
  /** Stable and unique in the model: the layer's scope where the exporter left one, else the output's name. */
  readonly id: string;
  /** Module path of the layer (for instance `blocks.0.attn`), null when the exporter left none. */
  readonly scope: string | null;
  /** Names of the nodes that own the enclosing subgraphs, outermost first; empty in the main graph. */
  readonly graphPath: readonly string[];
  /** Name of the pattern that matched. */
  readonly pattern: string;
  /** Nodes that exist only for this computation: dead once the output is computed otherwise. */
  readonly nodes: readonly Node[];

  /** Heads and head sizes as the graph states them; null where it does not, or where there are no heads. */
  readonly queryHeads: number | null;
  readonly kvHeads: number | null;
  readonly headDim: number | null;
  /** Total factor on q.k, wherever the graph applies it. */
  readonly scale: number | null;

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

/** One place in a model that computes attention: softmax(scale * q k^T + mask) v. */
export interface AttentionSite extends SiteFacts {
  readonly computation: 'softmax';
  readonly query: Operand;
  readonly key: Operand;
  readonly value: Operand;
  readonly output: Operand;
  /** Head size of the values and of the output. */
  readonly valueDim: number | null;
  /** The part of `scale` that `query` and `key` do not yet carry: what an operator has to apply. */
  readonly operatorScale: number | null;
}

/**
 * One place in a model that computes, in plain operators, what a custom operator computes: replacing it by that
 * operator is exact.
 */
export interface FusionSite extends SiteFacts {
  readonly computation: FusedComputation;
  /** By name of the operator's input; `key_mask` is not among them but in `keyMask`. */
  readonly operands: Readonly<Record<string, FusionOperand>>;
  readonly output: FusionOutput;
  /** What the graph computes with: attributes of the operator, by name. */
  readonly parameters: Attributes;
}

/**
 * What patterns find. Patterns produce sites; operators accept or refuse them; neither knows the other.
 */
export type Site = AttentionSite | FusionSite;

export function isAttention(site: Site): site is AttentionSite {
  return site.computation === 'softmax';
}

/** A place that looked like attention and matched no pattern entirely. */
export interface NearMiss {
  /** Name of the node where the best partial match ended. */
  readonly node: string;
  readonly pattern: string;
  readonly reason: string;
}
