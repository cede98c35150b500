import type { Attributes } from '../../custom-ops/operator.js';
import type { ModelGraph } from '../graph/model-graph.js';
import type { Node } from '../graph/node.js';
import type { Value } from '../graph/value.js';
import type { MaskInspector } from '../masks/facts.js';
import type { LogitSource } from '../masks/logits.js';
import type { OperandAxes } from '../match/operands.js';
import type { Product } from '../match/product.js';
import type { Laboratory } from '../probe/laboratory.js';
import type {
  AttentionSite,
  FusedComputation,
  FusionSite,
  JoinedOperand,
  KeyMask,
  KeysAndValues,
  Move,
  OperatorCache,
  Projection,
  RotaryPositions,
  SequenceAxes,
  ZerosOperand,
} from '../site.js';
import type { FoundSink } from './attention-sink.js';

/** What forms look at to recognize attention. */
export interface FormContext {
  readonly graph: ModelGraph;
  readonly laboratory: Laboratory;
  readonly masks: MaskInspector;
}

/** Query, key and value as values of the graph. */
export interface ReadOperands {
  readonly kind: 'read';
  readonly query: OperandAxes;
  readonly key: OperandAxes;
  readonly value: OperandAxes;
}

/** Query, key and value that an operator takes as they are, or makes inside itself from inputs [B,N,X]. */
export interface ProjectedOperands {
  readonly kind: 'projected';
  readonly query: ProjectedOperand;
  readonly key: ProjectedOperand;
  readonly value: ProjectedOperand;
  readonly queryHeads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly valueDim: number;
}

export interface ProjectedOperand {
  readonly value: Value;
  /** Null where the value is the operand. */
  readonly projection: Projection | null;
  /** Once projected. */
  readonly layout: 'BHND' | 'BN(HD)';
}

/** Attention as one form found it, before its operands, scale and mask are worked out. */
export interface Attention {
  readonly operands: ReadOperands | ProjectedOperands;
  readonly output: Value;
  /** How the output lays out what it holds. */
  readonly result: Product['result'] | { readonly heads: number };
  /** Constant on the product of query and key that `logits` does not see. */
  readonly productFactor: number;
  readonly logits: LogitSource;
  /** What becomes of a row whose logits are all minus infinity, and of one where all are the same number. */
  readonly emptyRow: {
    readonly infinite: AttentionSite['emptyRow'];
    readonly equal: AttentionSite['emptyRow'];
  };
  /** Positions that the form applies to query and key itself; null where it does not. */
  readonly rotary: FormPositions | null;
  /** Cache that the form keeps itself; null where it keeps none. */
  readonly cache: FormCache | null;
  /** A further logit of each row, whose probability weights nothing; null where there is none. */
  readonly sink: FoundSink | null;
  /** Node that names the layer. */
  readonly named: Node;
  /** Nodes between which no value may be used by anything else, with what such a use would take. */
  readonly interior: readonly { readonly value: Value; readonly holds: string }[];
  readonly nodes: ReadonlySet<Node>;
  /** Why no operator can replace it, as far as the form knows. */
  readonly refusals: readonly string[];
}

/** See `RotaryPositions`. */
export interface FormPositions extends Pick<RotaryPositions, 'channels' | 'interleaved'> {
  readonly cosines: Value;
  readonly sines: Value;
  readonly positions: Value | null;
}

/** See `OperatorCache`. */
export interface FormCache extends Pick<OperatorCache, 'stacked'> {
  readonly past: KeysAndValues<Value> | null;
  readonly present: KeysAndValues<Value | null>;
  readonly lengths: { readonly last: Value; readonly total: Value } | null;
}

/** A value that a custom operator takes or gives, with the moves between it and the operator's layout. */
export interface MovedValue {
  readonly value: Value;
  /** None when left out. */
  readonly moves?: readonly Move[];
}

/** What a custom operator takes: a value, or what several or none hold. */
export type FormOperand = MovedValue | JoinedOperand<MovedValue> | ZerosOperand<Value>;

/**
 * Plain operators that compute what a custom operator computes, as one form found them. A form reports it only
 * where replacing it is exact for every input: it has to account for each operator between operands and output,
 * and is best confirmed by computing both at sample sizes with numbers of its own (see `match/experiment.ts`).
 */
export interface Fusion {
  readonly computation: FusedComputation;
  /** By name of the operator's input, but for the key mask. */
  readonly operands: Readonly<Record<string, FormOperand>>;
  /** Moves lead from the operator's output to `value`. */
  readonly output: MovedValue & { readonly axes: SequenceAxes | null };
  /** By name of the operator's output, the values that hold it; none when left out. */
  readonly furtherOutputs?: Readonly<Record<string, readonly MovedValue[]>>;
  /** Attributes of the operator as the graph has them, by name: order, ranks, block, scales and the like. */
  readonly parameters: Attributes;
  readonly causal: boolean;
  readonly keyMask: KeyMask | null;
  /** What a row that sees no key becomes in the graph. */
  readonly emptyRow: FusionSite['emptyRow'];
  readonly kind: FusionSite['kind'];
  /** What `inspect` tells of heads and scale, where there are any; null when left out. */
  readonly heads?: Partial<Pick<FusionSite, 'queryHeads' | 'kvHeads' | 'headDim' | 'scale'>>;
  /** Node that names the layer. */
  readonly named: Node;
  /** Values that must have no use outside, with what they hold: otherwise replacing the site would save nothing. */
  readonly interior: Attention['interior'];
  /** Every node between operands and output. */
  readonly nodes: ReadonlySet<Node>;
  readonly refusals: readonly string[];
}

/** The attention scores that an operator gives as its fourth output: a use of them keeps it alive. */
export function scoresOutput(node: Node): Attention['interior'] {
  const scores = node.outputs[3];
  return scores == null ? [] : [{ value: scores, holds: 'attention scores' }];
}

/**
 * The cache of an operator whose second and third outputs are the keys and values so far [B,G,P+N,D].
 * @param past keys and values of earlier steps, both or none
 */
export function cacheOf(
  node: Node,
  past: readonly (Value | null | undefined)[],
  lengths: FormCache['lengths'] = null,
): FormCache | null {
  const [pastKey, pastValue] = past;
  const [, key = null, value = null] = node.outputs;
  if (pastKey == null && key === null && value === null) return null;
  return {
    past: pastKey == null || pastValue == null ? null : { key: pastKey, value: pastValue },
    present: { key, value },
    stacked: false,
    lengths,
  };
}

/** An attempt that did not become a site. */
export interface Miss {
  readonly node: Node;
  readonly reason: string;
  /** Whether it came near enough to be told: as far as a softmax over products. */
  readonly near: boolean;
  /** Nodes that the attempt got past. */
  readonly nodes: readonly Node[];
}

/** One way in which models write attention. */
export interface SourceForm {
  /** Name in reports. */
  readonly name: string;
  /** Operators whose nodes a match ends with. */
  readonly anchors: readonly string[];
  recognize(anchor: Node, context: FormContext): Attention | Fusion | Miss;
  /** Operators that mark a place as attention-like, though no match ended near them. */
  readonly marks?: readonly string[];
  /** Why a place that bears such a mark is not of this form; null when it is nothing like attention. */
  explain?(mark: Node, context: FormContext): Miss | null;
}

export function isMiss(result: Attention | Fusion | Miss): result is Miss {
  return 'reason' in result;
}

export function isFusion(result: Attention | Fusion): result is Fusion {
  return 'computation' in result;
}
