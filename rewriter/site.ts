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
 * head transpose; 'BN(HD)' packed heads, as com.microsoft.MultiHeadAttention takes them; 'B(HD)N' channels first,
 * as convolutions make them; 'NB(HD)' and 'N(BH)D' sequence first, as torch.nn.MultiheadAttention works;
 * '(BH)ND' heads next to the batch, as batched products leave them.
 */
export type Layout = 'BHND' | 'BHDN' | 'BNHD' | 'BN(HD)' | 'B(HD)N' | 'NB(HD)' | 'N(BH)D' | '(BH)ND';

/** Where a layout has the batch, alone or as the outer part of batch times heads, and queries or keys. */
export const LAYOUT_AXES: Readonly<
  Record<Layout, { readonly batch: number; readonly sequence: number; readonly headsWithBatch: boolean }>
> = {
  BHND: { batch: 0, sequence: 2, headsWithBatch: false },
  BHDN: { batch: 0, sequence: 3, headsWithBatch: false },
  BNHD: { batch: 0, sequence: 1, headsWithBatch: false },
  'BN(HD)': { batch: 0, sequence: 1, headsWithBatch: false },
  'B(HD)N': { batch: 0, sequence: 2, headsWithBatch: false },
  'NB(HD)': { batch: 1, sequence: 0, headsWithBatch: false },
  'N(BH)D': { batch: 1, sequence: 0, headsWithBatch: true },
  '(BH)ND': { batch: 0, sequence: 1, headsWithBatch: true },
};

/**
 * What an operator that projects inside does to a value X [B,N,X] before it is an operand: X W + b, by the
 * columns of matrices that hold query, key and value side by side. Without weights and bias the columns are those
 * of the value itself, which holds all three.
 */
export interface Projection {
  /** Matrix [X, all columns]; null where X is projected already. */
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

/**
 * Turns a value into one of another shape or order: an axis order; a shape where 0 keeps a size and -1 is the rest;
 * places of axis 1 to pick, in this order; or, of [batch, places, channels], a factor for each place.
 */
export type Move =
  | { readonly transpose: readonly number[] }
  | { readonly reshape: readonly number[] }
  | { readonly pick: readonly number[] }
  | { readonly scale: readonly number[] };

/** An input of a fusion: a value of the graph, data or weights, and the moves from it to what the operator takes. */
export interface FusionOperand {
  readonly value: string;
  readonly dataType: DataType;
  /** In order; none where the value is already laid out as the operator documents its input. */
  readonly moves: readonly Move[];
}

/** Values one after the other along axis 1, and the moves from all of them to what the operator takes. */
export interface JoinedOperand<Part = FusionOperand> {
  readonly parts: readonly Part[];
  readonly moves: readonly Move[];
}

/** Zeros in float32, of the sizes that a value has along some axes, and the moves from them. */
export interface ZerosOperand<Value = string> {
  readonly sizesOf: Value;
  readonly axes: readonly number[];
  readonly moves: readonly Move[];
}

export type FusionInput = FusionOperand | JoinedOperand | ZerosOperand;

/** What a fusion computes: the moves lead from the operator's output to the value of the graph. */
export interface FusionOutput extends FusionOperand {
  /** Where the value of the graph has batch and rows; null where single tokens have no axis of rows. */
  readonly axes: SequenceAxes | null;
}

export interface SequenceAxes {
  readonly batch: number;
  readonly sequence: number;
}

/** Names of the values that an operand is made of. */
export function valuesOf(operand: Operand | FusionInput | KeyMask): readonly string[] {
  if ('parts' in operand) return operand.parts.flatMap(valuesOf);
  if ('sizesOf' in operand) return [operand.sizesOf];
  const projection = 'projection' in operand ? operand.projection : null;
  return [operand.value, projection?.weights, projection?.bias].filter(name => name != null);
}

/**
 * Keys visible per batch row. With 'nonzero' and 'zero' the value has an element for each key, [B,S]; with 'count'
 * and 'last' one for each batch row, [B] or [B,1].
 */
export interface KeyMask {
  readonly value: string;
  readonly dataType: DataType;
  /**
   * Which elements mark a visible key (exporters write both `attention_mask` and `key_padding_mask`), or that
   * the element is the number of visible keys, which come first, or the index of the last one.
   */
  readonly visible: 'nonzero' | 'zero' | 'count' | 'last';
}

/** Rotary positions that an operator applies to query and key [B,N,H*D] itself. */
export interface RotaryPositions {
  /** Tables of cosines and sines [positions, rotated channels / 2]. */
  readonly cosines: string;
  readonly sines: string;
  /** Channels of a head that are rotated; null for all of them. */
  readonly channels: number | null;
  /** Whether neighboring channels turn together, rather than one of each half of the head. */
  readonly interleaved: boolean;
  /**
   * Positions int64 [B,N], of which a first prompt takes only the first one and counts up from there; null where
   * they count on from the keys of earlier steps.
   */
  readonly positions: string | null;
}

/** How many keys before and after its position a row sees; null for all of that side. */
export interface KeyWindow {
  readonly left: number | null;
  readonly right: number | null;
}

/**
 * A logit that each row of a head has besides those of its keys. Its probability is dropped, so that the weights of a row
 * add up to less than one: with the log-sum-exp l of the other logits, to sigmoid(l - sink).
 */
export interface AttentionSink {
  /** A number for each query head [H], of any shape; null for zeros. */
  readonly value: string | null;
  readonly dataType: DataType;
}

/** Keys and values of earlier steps that an operator joins new ones to itself. */
export interface OperatorCache {
  /** [B,G,P,D]; null where there are none, and the operator only gives the new ones. */
  readonly past: KeysAndValues<string> | null;
  /** What the operator gives of old and new ones together, to be computed otherwise too; null where unused. */
  readonly present: KeysAndValues<string | null>;
  /** Whether one value [2,B,G,P,D] holds keys and values, each under both names. */
  readonly stacked: boolean;
  /**
   * Where batch rows may hold different numbers of keys, at the start of their rows of the cache: the index of
   * each row's last key [B], the new ones included, and the number of keys of the longest row. A prompt as long as
   * that starts anew. Null where new keys follow all old ones.
   */
  readonly lengths: { readonly last: string; readonly total: string } | null;
}

export interface KeysAndValues<T> {
  readonly key: T;
  readonly value: T;
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
  /** Null unless the mask is a sliding window. */
  readonly window: KeyWindow | null;
  /** The part of `scale` that `query` and `key` do not yet carry: what an operator has to apply. */
  readonly operatorScale: number | null;
  /** A further logit of each row, whose probability weights nothing; null where there is none. */
  readonly sink: AttentionSink | null;
  /** Null where `query` and `key` carry their positions. */
  readonly rotary: RotaryPositions | null;
  /** Null where `key` and `value` are all keys and values, in whatever way they came to be. */
  readonly cache: OperatorCache | null;
}

/** Names of the values that a site computes, the output first. */
export function valuesComputed(site: Site): readonly string[] {
  if (!isAttention(site)) {
    return [site.output, ...Object.values(site.furtherOutputs).flat()].map(({ value }) => value);
  }
  const present = site.cache?.present;
  const all = [site.output.value, present?.key, present?.value];
  return [...new Set(all.filter(name => name != null))];
}

/** Names of the values that positions, cache and sink are made of. */
export function valuesBehind({
  rotary,
  cache,
  sink,
}: Pick<AttentionSite, 'rotary' | 'cache' | 'sink'>): readonly string[] {
  return [
    sink?.value,
    rotary?.cosines,
    rotary?.sines,
    rotary?.positions,
    cache?.past?.key,
    cache?.past?.value,
    cache?.lengths?.last,
    cache?.lengths?.total,
  ].filter(name => name != null);
}

/**
 * One place in a model that computes, in plain operators, what a custom operator computes: replacing it by that
 * operator is exact.
 */
export interface FusionSite extends SiteFacts {
  readonly computation: FusedComputation;
  /** By name of the operator's input; `key_mask` is not among them but in `keyMask`. */
  readonly operands: Readonly<Record<string, FusionInput>>;
  readonly output: FusionOutput;
  /** By name of the operator's output: the values of the graph that hold it, each with the moves that lead to it. */
  readonly furtherOutputs: Readonly<Record<string, readonly FusionOperand[]>>;
  /** What the graph computes with: attributes of the operator, by name. */
  readonly parameters: Attributes;
}

/**
 * What patterns find. Patterns produce sites; operators accept or refuse them; neither knows the other.
 */
export type Site = AttentionSite | FusionSite;

/** Which keys around its position a row of a site sees, key masks aside. */
export function reachOf(site: Site): KeyWindow {
  return (isAttention(site) ? site.window : null) ?? { left: null, right: site.causal ? 0 : null };
}

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
