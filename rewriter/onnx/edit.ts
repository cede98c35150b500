import type { Pieces } from './bytes.js';
import {
  encodeFunction,
  encodeNode,
  encodeOpsetImport,
  encodeTensor,
  encodeUntypedValue,
  encodeValue,
  field,
} from './encode.js';
import { FunctionField, GraphField, ModelField } from './field-numbers.js';
import type { FieldRange, FunctionInfo, GraphInfo, ModelInfo, NodeInfo, NodeListInfo } from './model-info.js';
import type { FunctionSpec, NodeSpec, TensorSpec, ValueSpec } from './spec.js';
import { type Segment, type Splice, spliceMessage } from './splice.js';
import { encodeVarint, WireType } from './wire.js';

/** A change of a model. Graphs may be nested ones and, for nodes, bodies of functions. */
export type ModelEdit =
  /** Adds nodes before the one given, or behind the last. */
  | {
      readonly kind: 'insert-nodes';
      readonly into: NodeListInfo;
      readonly before: NodeInfo | null;
      readonly nodes: readonly NodeSpec[];
    }
  /** Takes out a node, initializer, input, output or value info, with all that is inside. */
  | { readonly kind: 'remove'; readonly from: NodeListInfo; readonly item: { readonly range: FieldRange } }
  /** Takes out a field of any message; `enclosing` are the fields around it, outermost first. */
  | { readonly kind: 'remove-field'; readonly range: FieldRange; readonly enclosing: readonly FieldRange[] }
  | { readonly kind: 'add-initializer'; readonly to: GraphInfo; readonly tensor: TensorSpec }
  | { readonly kind: 'add-value'; readonly to: GraphInfo; readonly value: ValueSpec }
  | { readonly kind: 'add-input'; readonly to: GraphInfo; readonly value: ValueSpec }
  /** Makes a value an output of a graph; its type is left to inference. */
  | { readonly kind: 'add-output'; readonly to: GraphInfo; readonly name: string }
  | { readonly kind: 'add-function'; readonly body: FunctionSpec }
  /** Imports an operator set into the model or, since functions have imports of their own, into a function. */
  | {
      readonly kind: 'import-opset';
      readonly into: ModelInfo | FunctionInfo;
      readonly domain: string;
      readonly version: number;
    }
  | { readonly kind: 'set-ir-version'; readonly version: number };

/**
 * Applies edits to the bytes of a model. What they do not touch is copied from the source byte for byte;
 * without edits the output is the source. Edits inside something that another edit removes are dropped.
 */
export function editModel(model: ModelInfo, edits: readonly ModelEdit[]): Segment[] {
  const removed = new Set(edits.flatMap(edit => (edit.kind === 'remove' ? [edit.item.range.start] : [])));
  const splices = edits
    .map(edit => toSplice(model, edit))
    .filter(({ enclosing }) => !enclosing.some(({ start }) => removed.has(start)));
  return spliceMessage(model.source, splices);
}

function toSplice(model: ModelInfo, edit: ModelEdit): Splice {
  const appendTo = ({ range, enclosing }: NodeListInfo, pieces: Pieces) =>
    insert(range.end, pieces, enclosing);
  const appendToModel = (pieces: Pieces) => insert(model.source.length, pieces, []);
  switch (edit.kind) {
    case 'insert-nodes': {
      const { into, before } = edit;
      const number = into.kind === 'graph' ? GraphField.node : FunctionField.node;
      const pieces = edit.nodes.flatMap(node => field(number, encodeNode(node)));
      return before ? insert(before.range.start, pieces, into.enclosing) : appendTo(into, pieces);
    }
    case 'remove':
      return { range: edit.item.range, pieces: [], enclosing: edit.from.enclosing };
    case 'remove-field':
      return { range: edit.range, pieces: [], enclosing: edit.enclosing };
    case 'add-initializer':
      return appendTo(edit.to, field(GraphField.initializer, encodeTensor(edit.tensor)));
    case 'add-value':
      return appendTo(edit.to, field(GraphField.valueInfo, [encodeValue(edit.value)]));
    case 'add-input':
      return appendTo(edit.to, field(GraphField.input, [encodeValue(edit.value)]));
    case 'add-output':
      return appendTo(edit.to, field(GraphField.output, [encodeUntypedValue(edit.name)]));
    case 'add-function':
      return appendToModel(field(ModelField.functions, encodeFunction(edit.body)));
    case 'import-opset': {
      const imported = [encodeOpsetImport(edit.domain, edit.version)];
      return 'kind' in edit.into
        ? appendTo(edit.into, field(FunctionField.opsetImport, imported))
        : appendToModel(field(ModelField.opsetImport, imported));
    }
    case 'set-ir-version':
      return {
        range: model.irVersionRange,
        pieces: [encodeVarint(ModelField.irVersion * 8 + WireType.varint), encodeVarint(edit.version)],
        enclosing: [],
      };
  }
}

function insert(at: number, pieces: Pieces, enclosing: readonly FieldRange[]): Splice {
  return { range: { start: at, end: at }, pieces, enclosing };
}
