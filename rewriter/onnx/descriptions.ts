import type { ModelEdit } from './edit.js';
import {
  AttributeField,
  FunctionField,
  GraphField,
  ModelField,
  NodeField,
  TensorField,
  ValueInfoField,
} from './field-numbers.js';
import type { FieldRange, ModelInfo } from './model-info.js';
import { type Field, fields } from './wire.js';

/**
 * What exporters write beside the model itself: doc strings and metadata of graphs, nodes, values, tensors and
 * functions. Exporters put stack traces there, with paths of the machine that they ran on. Metadata of the model as a
 * whole is left out, since programs read it, and so are the scopes of nodes, which name layers.
 */

/** Node metadata of torch's dynamo exporter: a Python list of module paths, outermost first, then the call. */
export const NAME_SCOPES = 'pkg.torch.onnx.name_scopes';

type Message = 'model' | 'graph' | 'node' | 'attribute' | 'tensor' | 'value' | 'function';

interface Layout {
  /** Numbers of the fields of doc strings and of metadata; null where they are none or stay. */
  readonly docString: number | null;
  readonly metadata: number | null;
  /** Messages inside, by the number of their field. */
  readonly inside: Readonly<Record<number, Message>>;
}

const LAYOUTS: Readonly<Record<Message, Layout>> = {
  model: {
    docString: null,
    metadata: null,
    inside: { [ModelField.graph]: 'graph', [ModelField.functions]: 'function' },
  },
  graph: {
    docString: GraphField.docString,
    metadata: GraphField.metadataProps,
    inside: {
      [GraphField.node]: 'node',
      [GraphField.initializer]: 'tensor',
      [GraphField.input]: 'value',
      [GraphField.output]: 'value',
      [GraphField.valueInfo]: 'value',
    },
  },
  node: {
    docString: NodeField.docString,
    metadata: NodeField.metadataProps,
    inside: { [NodeField.attribute]: 'attribute' },
  },
  attribute: {
    docString: AttributeField.docString,
    metadata: null,
    inside: {
      [AttributeField.t]: 'tensor',
      [AttributeField.tensors]: 'tensor',
      [AttributeField.g]: 'graph',
      [AttributeField.graphs]: 'graph',
    },
  },
  tensor: { docString: TensorField.docString, metadata: TensorField.metadataProps, inside: {} },
  value: { docString: ValueInfoField.docString, metadata: ValueInfoField.metadataProps, inside: {} },
  function: {
    docString: FunctionField.docString,
    metadata: FunctionField.metadataProps,
    inside: {
      [FunctionField.node]: 'node',
      [FunctionField.attributeProto]: 'attribute',
      [FunctionField.valueInfo]: 'value',
    },
  },
};

/** Edits that take the descriptions out of a model. */
export function withoutDescriptions({ source }: ModelInfo): readonly ModelEdit[] {
  const edits: ModelEdit[] = [];
  const keeps = (field: Field) => {
    for (const { number, body, end } of fields(source, payloadOf(field))) {
      if (number === 1) return new TextDecoder().decode(source.bytes(body, end)) === NAME_SCOPES;
    }
    return false;
  };
  const visit = (
    message: Message,
    range: { start: number; end: number },
    enclosing: readonly FieldRange[],
  ) => {
    const { docString, metadata, inside } = LAYOUTS[message];
    for (const field of fields(source, range)) {
      const nested = inside[field.number];
      const description = field.number === docString || (field.number === metadata && !keeps(field));
      if (description) edits.push({ kind: 'remove-field', range: field, enclosing });
      else if (nested !== undefined) visit(nested, payloadOf(field), [...enclosing, field]);
    }
  };
  visit('model', { start: 0, end: source.length }, []);
  return edits;
}

function payloadOf({ body, end }: FieldRange) {
  return { start: body, end };
}
