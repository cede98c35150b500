import { concatenate, type Pieces, totalLength } from './bytes.js';
import {
  AttributeField,
  AttributeType,
  DimensionField,
  EntryField,
  EXTERNAL_LOCATION,
  FunctionField,
  GraphField,
  ModelField,
  NodeField,
  OpsetField,
  ShapeField,
  TensorField,
  TensorTypeField,
  TypeField,
  ValueInfoField,
} from './field-numbers.js';
import type {
  AttributeSpec,
  FunctionSpec,
  GraphSpec,
  ModelSpec,
  NodeSpec,
  TensorSpec,
  ValueSpec,
} from './spec.js';
import { encodeVarint, WireType } from './wire.js';

/**
 * Plain data to protobuf, as pieces of bytes: a message inside another is put behind its tag and length, and data is
 * not copied. Strings that are empty are left out. The result depends on nothing but the argument.
 */

/** The bytes of a whole model, for tests, fixtures and benchmarks: a rewrite never encodes a model anew. */
export function buildModel(model: ModelSpec): Uint8Array<ArrayBuffer> {
  return concatenate([
    ...integer(ModelField.irVersion, model.irVersion),
    ...text(ModelField.producerName, model.producerName),
    ...opsetImports(ModelField.opsetImport, model.opsetImports),
    ...entries(ModelField.metadataProps, model.metadata),
    ...field(ModelField.graph, encodeGraph(model.graph)),
    ...(model.functions ?? []).flatMap(body => field(ModelField.functions, encodeFunction(body))),
  ]);
}

/** A field that holds a message or other bytes: tag, length, payload. */
export function field(number: number, payload: Pieces): Pieces {
  return [tag(number, WireType.bytes), encodeVarint(totalLength(payload)), ...payload];
}

/** A GraphProto. */
export function encodeGraph(graph: GraphSpec): Pieces {
  return [
    ...text(GraphField.name, graph.name),
    ...graph.nodes.flatMap(node => field(GraphField.node, encodeNode(node))),
    ...(graph.initializers ?? []).flatMap(tensor => field(GraphField.initializer, encodeTensor(tensor))),
    ...graph.inputs.flatMap(value => field(GraphField.input, [encodeValue(value)])),
    ...graph.outputs.flatMap(value => field(GraphField.output, [encodeValue(value)])),
    ...(graph.values ?? []).flatMap(value => field(GraphField.valueInfo, [encodeValue(value)])),
  ];
}

/** A NodeProto. */
export function encodeNode(node: NodeSpec): Pieces {
  return [
    ...texts(NodeField.input, node.inputs),
    ...texts(NodeField.output, node.outputs),
    ...text(NodeField.name, node.name),
    ...text(NodeField.opType, node.opType),
    ...text(NodeField.domain, node.domain),
    ...Object.entries(node.attributes ?? {}).flatMap(entry =>
      field(NodeField.attribute, encodeAttribute(...entry)),
    ),
    ...text(NodeField.overload, node.overload),
    ...entries(NodeField.metadataProps, node.metadata),
  ];
}

/** A FunctionProto. */
export function encodeFunction(body: FunctionSpec): Pieces {
  return [
    ...text(FunctionField.name, body.name),
    ...texts(FunctionField.input, body.inputs),
    ...texts(FunctionField.output, body.outputs),
    ...texts(FunctionField.attribute, body.attributes ?? []),
    ...opsetImports(FunctionField.opsetImport, body.opsetImports),
    ...text(FunctionField.domain, body.domain),
    ...body.nodes.flatMap(node => field(FunctionField.node, encodeNode(node))),
    ...text(FunctionField.overload, body.overload),
  ];
}

/** A TensorProto; its data is not copied. */
export function encodeTensor(tensor: TensorSpec): Pieces {
  const head = [
    ...tensor.dims.flatMap(dim => integer(TensorField.dims, dim)),
    ...integer(TensorField.dataType, tensor.dataType),
    ...text(TensorField.name, tensor.name),
  ];
  if ('data' in tensor) return [...head, ...field(TensorField.rawData, [tensor.data])];
  const { location, offset, length } = tensor.external;
  return [
    ...head,
    ...entries(TensorField.externalData, { location, offset: String(offset), length: String(length) }),
    ...integer(TensorField.dataLocation, EXTERNAL_LOCATION),
  ];
}

/** A ValueInfoProto of tensor type. */
export function encodeValue({ name, dataType, dims }: ValueSpec): Uint8Array {
  const shape = dims?.flatMap(dim => field(ShapeField.dim, dimension(dim)));
  const tensor = [
    ...integer(TensorTypeField.elemType, dataType),
    ...(shape ? field(TensorTypeField.shape, shape) : []),
  ];
  const type = field(TypeField.tensor, tensor);
  return concatenate([...text(ValueInfoField.name, name), ...field(ValueInfoField.type, type)]);
}

/** A ValueInfoProto that says nothing about the type. */
export function encodeUntypedValue(name: string): Uint8Array {
  return concatenate(text(ValueInfoField.name, name));
}

/** An OperatorSetIdProto. */
export function encodeOpsetImport(domain: string, version: number): Uint8Array {
  return concatenate([...text(OpsetField.domain, domain), ...integer(OpsetField.version, version)]);
}

function encodeAttribute(name: string, attribute: AttributeSpec): Pieces {
  return [
    ...text(AttributeField.name, name),
    ...integer(AttributeField.type, AttributeType[attribute.type]),
    ...attributeValue(attribute),
  ];
}

function attributeValue(attribute: AttributeSpec): Pieces {
  switch (attribute.type) {
    case 'int':
      return integer(AttributeField.i, attribute.value);
    case 'float':
      return float(AttributeField.f, attribute.value);
    case 'string':
      return texts(AttributeField.s, [attribute.value]);
    case 'ints':
      return attribute.value.flatMap(value => integer(AttributeField.ints, value));
    case 'floats':
      return attribute.value.flatMap(value => float(AttributeField.floats, value));
    case 'strings':
      return texts(AttributeField.strings, attribute.value);
    case 'tensor':
      return field(AttributeField.t, encodeTensor(attribute.value));
    case 'graph':
      return field(AttributeField.g, encodeGraph(attribute.value));
  }
}

function dimension(dim: number | string | null): Pieces {
  if (dim === null) return [];
  return typeof dim === 'number' ? integer(DimensionField.value, dim) : text(DimensionField.symbol, dim);
}

function opsetImports(number: number, imports: Readonly<Record<string, number>>): Pieces {
  return Object.entries(imports).flatMap(entry => field(number, [encodeOpsetImport(...entry)]));
}

function entries(number: number, map: Readonly<Record<string, string>> = {}): Pieces {
  return Object.entries(map).flatMap(([key, value]) =>
    field(number, [...text(EntryField.key, key), ...text(EntryField.value, value)]),
  );
}

function tag(number: number, wireType: WireType): Uint8Array {
  return encodeVarint(number * 8 + wireType);
}

/** A field with a 64-bit integer. */
function integer(number: number, value: number | bigint): Pieces {
  return [tag(number, WireType.varint), encodeVarint(value)];
}

/** A field with a 32-bit floating-point number. */
function float(number: number, value: number): Pieces {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setFloat32(0, value, true);
  return [tag(number, WireType.fixed32), bytes];
}

/** A field with a string, left out when that is empty. */
function text(number: number, value = ''): Pieces {
  return value === '' ? [] : texts(number, [value]);
}

/** A field that repeats, with strings. */
function texts(number: number, values: readonly string[]): Pieces {
  return values.flatMap(value => field(number, [new TextEncoder().encode(value)]));
}
