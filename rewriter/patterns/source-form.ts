import type { ModelGraph } from '../graph/model-graph.js';
import type { Node } from '../graph/node.js';
import type { Value } from '../graph/value.js';
import type { LogitSource } from '../masks/logits.js';
import type { OperandAxes } from '../match/operands.js';
import type { Product } from '../match/product.js';
import type { Laboratory } from '../probe/laboratory.js';

/** What forms look at to recognize attention. */
export interface FormContext {
  readonly graph: ModelGraph;
  readonly laboratory: Laboratory;
}

/** Attention as one form found it, before its operands, scale and mask are worked out. */
export interface Attention {
  readonly query: OperandAxes;
  readonly key: OperandAxes;
  readonly value: OperandAxes;
  readonly output: Value;
  /** How the output lays out what it holds. */
  readonly result: Product['result'] | { readonly heads: number };
  /** Constant on the product of query and key that `logits` does not see. */
  readonly productFactor: number;
  readonly logits: LogitSource;
  /** What becomes of a row whose logits are all minus infinity. */
  readonly emptySoftmax: 'zeros' | 'nan' | 'mean' | 'unknown';
  /** Keys and values of earlier steps are an operand of the form itself. */
  readonly past: boolean;
  /** Node that names the layer. */
  readonly named: Node;
  /** Nodes between which no value may be used by anything else, with what such a use would take. */
  readonly interior: readonly { readonly value: Value; readonly holds: string }[];
  readonly nodes: ReadonlySet<Node>;
  /** Why no operator can replace it, as far as the form knows. */
  readonly refusals: readonly string[];
}

/** An attempt that did not become a site. */
export interface Miss {
  readonly node: Node;
  readonly reason: string;
  /** Nodes that had matched: how near the miss is. */
  readonly matched: number;
}

/** One way in which models write attention. */
export interface SourceForm {
  /** Name in reports. */
  readonly name: string;
  /** Operators whose nodes a match ends with. */
  readonly anchors: readonly string[];
  recognize(anchor: Node, context: FormContext): Attention | Miss;
}

export function isMiss(result: Attention | Miss): result is Miss {
  return 'reason' in result;
}
