import onnxProto, { type onnx as proto } from 'onnx-proto';
import { concatenate, type Pieces, totalLength } from './bytes.js';
import {
  AttributeField,
  FunctionField,
  GraphField,
  ModelField,
  NodeField,
  TensorField,
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
 * Plain data to protobuf. onnx-proto encodes the fields that it knows; messages inside messages and fields
 * newer than it (ONNX 1.10) are put around and behind those as pieces of bytes. Protobuf allows fields in any
 * order. The result depends on nothing but the argument.
 */

const { onnx } = onnxProto;
const { AttributeType } = onnx.AttributeProto;

/** The bytes of a whole model, for tests, fixtures and benchmarks: a rewrite never encodes a model anew. */
export function buildModel(model: ModelSpec): Uint8Array<ArrayBuffer> {
  const { irVersion, producerName = '', metadata = {} } = model;
  const opsetImport = opsetImports(model.opsetImports);
  return concatenate([
    onnx.ModelProto.encode({
      irVersion,
      producerName,
      opsetImport,
      metadataProps: entries(metadata),
    }).finish(),
    ...field(ModelField.graph, encodeGraph(model.graph)),
    ...(model.functions ?? []).flatMap(body => field(ModelField.functions, encodeFunction(body))),
  ]);
}

/** A field that holds a message or other bytes: tag, length, payload. */
export function field(number: number, payload: Pieces): Pieces {
  return [encodeVarint(number * 8 + WireType.bytes), encodeVarint(totalLength(payload)), ...payload];
}

/** A GraphProto. */
export function encodeGraph(graph: GraphSpec): Pieces {
  return [
    onnx.GraphProto.encode({ name: graph.name }).finish(),
    ...graph.nodes.flatMap(node => field(GraphField.node, encodeNode(node))),
    ...(graph.initializers ?? []).flatMap(tensor => field(GraphField.initializer, encodeTensor(tensor))),
    ...graph.inputs.flatMap(value => field(GraphField.input, [encodeValue(value)])),
    ...graph.outputs.flatMap(value => field(GraphField.output, [encodeValue(value)])),
    ...(graph.values ?? []).flatMap(value => field(GraphField.valueInfo, [encodeValue(value)])),
  ];
}

/** A NodeProto. */
export function encodeNode(node: NodeSpec): Pieces {
  const { inputs, outputs, opType, name = '', domain = '', overload = '', metadata = {} } = node;
  return [
    onnx.NodeProto.encode({ input: [...inputs], output: [...outputs], name, opType, domain }).finish(),
    ...Object.entries(node.attributes ?? {}).flatMap(entry =>
      field(NodeField.attribute, encodeAttribute(...entry)),
    ),
    ...(overload === '' ? [] : field(NodeField.overload, [utf8(overload)])),
    ...entries(metadata).flatMap(entry =>
      field(NodeField.metadataProps, [onnx.StringStringEntryProto.encode(entry).finish()]),
    ),
  ];
}

/** A FunctionProto. */
export function encodeFunction(body: FunctionSpec): Pieces {
  const { domain, name, overload = '', inputs, outputs, attributes = [] } = body;
  const known = onnx.FunctionProto.encode({
    name,
    domain,
    input: [...inputs],
    output: [...outputs],
    attribute: [...attributes],
    opsetImport: opsetImports(body.opsetImports),
  });
  return [
    known.finish(),
    ...body.nodes.flatMap(node => field(FunctionField.node, encodeNode(node))),
    ...(overload === '' ? [] : field(FunctionField.overload, [utf8(overload)])),
  ];
}

/** A TensorProto; its data is not copied. */
export function encodeTensor(tensor: TensorSpec): Pieces {
  const { name = '', dataType, dims } = tensor;
  const head = { name, dataType, dims: [...dims] };
  if ('data' in tensor)
    return [onnx.TensorProto.encode(head).finish(), ...field(TensorField.rawData, [tensor.data])];
  const { location, offset, length } = tensor.external;
  const externalData = entries({ location, offset: String(offset), length: String(length) });
  const dataLocation = onnx.TensorProto.DataLocation.EXTERNAL;
  return [onnx.TensorProto.encode({ ...head, externalData, dataLocation }).finish()];
}

/** A ValueInfoProto of tensor type. */
export function encodeValue({ name, dataType, dims }: ValueSpec): Uint8Array {
  const shape = dims && { dim: dims.map(dimension) };
  return onnx.ValueInfoProto.encode({
    name,
    type: { tensorType: { elemType: dataType, ...(shape && { shape }) } },
  }).finish();
}

/** A ValueInfoProto that says nothing about the type. */
export function encodeUntypedValue(name: string): Uint8Array {
  return onnx.ValueInfoProto.encode({ name }).finish();
}

/** An OperatorSetIdProto. */
export function encodeOpsetImport(domain: string, version: number): Uint8Array {
  return onnx.OperatorSetIdProto.encode({ domain, version }).finish();
}

function encodeAttribute(name: string, attribute: AttributeSpec): Pieces {
  const encode = (value: proto.IAttributeProto) => onnx.AttributeProto.encode({ name, ...value }).finish();
  switch (attribute.type) {
    case 'int':
      return [encode({ type: AttributeType.INT, i: int64(attribute.value) })];
    case 'float':
      return [encode({ type: AttributeType.FLOAT, f: attribute.value })];
    case 'string':
      return [encode({ type: AttributeType.STRING, s: utf8(attribute.value) })];
    case 'ints':
      return [encode({ type: AttributeType.INTS, ints: attribute.value.map(int64) })];
    case 'floats':
      return [encode({ type: AttributeType.FLOATS, floats: [...attribute.value] })];
    case 'strings':
      return [encode({ type: AttributeType.STRINGS, strings: attribute.value.map(utf8) })];
    case 'tensor':
      return [
        encode({ type: AttributeType.TENSOR }),
        ...field(AttributeField.t, encodeTensor(attribute.value)),
      ];
    case 'graph':
      return [
        encode({ type: AttributeType.GRAPH }),
        ...field(AttributeField.g, encodeGraph(attribute.value)),
      ];
  }
}

function dimension(dim: number | string | null): proto.TensorShapeProto.IDimension {
  if (dim === null) return {};
  return typeof dim === 'number' ? { dimValue: dim } : { dimParam: dim };
}

function opsetImports(imports: Readonly<Record<string, number>>): proto.IOperatorSetIdProto[] {
  return Object.entries(imports).map(([domain, version]) => ({ domain, version }));
}

function entries(map: Readonly<Record<string, string>>): { key: string; value: string }[] {
  return Object.entries(map).map(([key, value]) => ({ key, value }));
}

/**
 * A 64-bit integer in the form that protobufjs writes without loss.
 * @throws RangeError when a number is not an integer
 */
function int64(value: number | bigint): { low: number; high: number; unsigned: boolean } {
  const whole = BigInt(value);
  return {
    low: Number(BigInt.asIntN(32, whole)),
    high: Number(BigInt.asIntN(32, whole >> 32n)),
    unsigned: false,
  };
}

function utf8(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}
