import onnxProto, { type onnx as proto } from 'onnx-proto';
import { type ByteSource, MemorySource } from './byte-source.js';
import { concatenate } from './bytes.js';
import {
  AttributeField,
  FunctionField,
  GraphField,
  ModelField,
  NodeField,
  SparseTensorField,
  TensorField,
} from './field-numbers.js';
import { describeForeignFile } from './foreign-file.js';
import { modelError } from './model-error.js';
import type {
  AttributeInfo,
  ByteRange,
  FieldRange,
  FunctionInfo,
  GraphInfo,
  ModelInfo,
  NodeInfo,
  Sidecars,
  SparseTensorInfo,
  TensorInfo,
  TensorStorage,
  TypedField,
  TypeInfo,
  ValueInfo,
} from './model-info.js';
import { DataType } from './spec.js';
import { type Field, fields, WireError, WireType } from './wire.js';

const { onnx } = onnxProto;
const { AttributeType } = onnx.AttributeProto;

/**
 * Decodes a model without its weights.
 * @param source the bytes of the model file
 * @param options `file` names the model in messages; `sidecars` opens its external data
 * @throws InputError when the bytes are not an ONNX model, saying what they look like instead
 */
export function decodeModel(
  source: Uint8Array | ByteSource,
  options: { readonly file?: string; readonly sidecars?: Sidecars } = {},
): ModelInfo {
  const bytes = source instanceof Uint8Array ? new MemorySource(source) : source;
  const file = options.file ?? null;
  try {
    return new Decoder(bytes).model(file, options.sidecars ?? null);
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
    const foreign = describeForeignFile(bytes, file);
    throw modelError(
      { file },
      foreign?.what ?? `not a readable ONNX model: ${error.message} (byte ${error.offset})`,
      foreign?.remedy ?? 'Export or download the model again; the file is damaged or incomplete.',
      error,
    );
  }
}

/** Subgraphs deeper than this are an attack, not a model. */
const MAX_GRAPH_DEPTH = 64;

const INT = [WireType.varint];
const INTS = [WireType.varint, WireType.bytes];
const FLOAT = [WireType.fixed32];
const FLOATS = [WireType.fixed32, WireType.bytes];
const DOUBLES = [WireType.fixed64, WireType.bytes];
const BYTES = [WireType.bytes];

/** Field numbers of a message with the wire types they may have; a field of another type is unknown. */
type Expected = Readonly<Record<number, readonly WireType[]>>;

/**
 * The small fields of each message, which onnx-proto decodes. The others hold weights, hold messages whose
 * place in the file matters, or are newer than onnx-proto (ONNX 1.10): the decoder handles those itself.
 */
const SMALL = {
  ModelProto: {
    [ModelField.irVersion]: INT,
    [ModelField.producerName]: BYTES,
    [ModelField.producerVersion]: BYTES,
    [ModelField.opsetImport]: BYTES,
    [ModelField.metadataProps]: BYTES,
  },
  GraphProto: { [GraphField.name]: BYTES },
  FunctionProto: {
    [FunctionField.name]: BYTES,
    [FunctionField.input]: BYTES,
    [FunctionField.output]: BYTES,
    [FunctionField.attribute]: BYTES,
    [FunctionField.opsetImport]: BYTES,
    [FunctionField.domain]: BYTES,
  },
  NodeProto: {
    [NodeField.input]: BYTES,
    [NodeField.output]: BYTES,
    [NodeField.name]: BYTES,
    [NodeField.opType]: BYTES,
    [NodeField.docString]: BYTES,
    [NodeField.domain]: BYTES,
  },
  AttributeProto: {
    [AttributeField.name]: BYTES,
    [AttributeField.f]: FLOAT,
    [AttributeField.i]: INT,
    [AttributeField.floats]: FLOATS,
    [AttributeField.ints]: INTS,
    [AttributeField.type]: INT,
    [AttributeField.refAttrName]: BYTES,
  },
  TensorProto: {
    [TensorField.dims]: INTS,
    [TensorField.dataType]: INT,
    [TensorField.name]: BYTES,
    [TensorField.externalData]: BYTES,
    [TensorField.dataLocation]: INT,
  },
  SparseTensorProto: { [SparseTensorField.dims]: INTS },
} satisfies Record<string, Expected>;

/** Called with each field of the number it is listed under, if the field has one of these wire types. */
type Visitors = Readonly<Record<number, readonly [readonly WireType[], (field: Field) => void]>>;

/** Decodes the part of a message that onnx-proto knows; the static side of its classes. */
interface MessageType<T> {
  readonly name: string;
  decode(bytes: Uint8Array): T;
}

class Decoder {
  constructor(private readonly source: ByteSource) {}

  model(file: string | null, sidecars: Sidecars | null): ModelInfo {
    const range = { start: 0, end: this.source.length };
    const graphs: GraphInfo[] = [];
    const irVersion: FieldRange[] = [];
    const functions: FunctionInfo[] = [];
    const message = this.message(onnx.ModelProto, SMALL.ModelProto, range, {
      [ModelField.irVersion]: [INT, field => irVersion.push(field)],
      [ModelField.graph]: [BYTES, field => graphs.push(this.graph(field, []))],
      [ModelField.functions]: [BYTES, field => functions.push(this.function(field))],
    });
    const irVersionRange = irVersion.at(-1);
    if (irVersionRange === undefined) throw new WireError('it has no ir_version', 0);
    return {
      source: this.source,
      file,
      sidecars,
      irVersion: toNumber(message.irVersion),
      opsetImports: opsets(message.opsetImport, range),
      producerName: message.producerName,
      producerVersion: message.producerVersion,
      metadata: entries(message.metadataProps),
      graph: only(graphs, 'graph', range),
      functions,
      irVersionRange,
    };
  }

  private graph(range: FieldRange, around: readonly FieldRange[]): GraphInfo {
    const enclosing = [...around, range];
    // Each level of nesting adds three fields: the node, its attribute, the graph.
    if (enclosing.length > 3 * MAX_GRAPH_DEPTH)
      throw new WireError('its subgraphs nest too deeply', range.start);
    const nodes: NodeInfo[] = [];
    const inputs: ValueInfo[] = [];
    const outputs: ValueInfo[] = [];
    const valueInfos: ValueInfo[] = [];
    const initializers: TensorInfo[] = [];
    const sparseInitializers: SparseTensorInfo[] = [];
    const { name } = this.message(onnx.GraphProto, SMALL.GraphProto, payload(range), {
      [GraphField.node]: [BYTES, child => nodes.push(this.node(child, enclosing))],
      [GraphField.initializer]: [BYTES, child => initializers.push(this.tensor(child))],
      [GraphField.input]: [BYTES, child => inputs.push(this.value(child))],
      [GraphField.output]: [BYTES, child => outputs.push(this.value(child))],
      [GraphField.valueInfo]: [BYTES, child => valueInfos.push(this.value(child))],
      [GraphField.sparseInitializer]: [BYTES, child => sparseInitializers.push(this.sparseTensor(child))],
    });
    return {
      kind: 'graph',
      name,
      nodes,
      inputs,
      outputs,
      valueInfos,
      initializers,
      sparseInitializers,
      range,
      enclosing,
    };
  }

  private function(range: FieldRange): FunctionInfo {
    const enclosing = [range];
    const nodes: NodeInfo[] = [];
    const valueInfos: ValueInfo[] = [];
    const attributeDefaults = new Map<string, AttributeInfo>();
    const metadata = new Map<string, string>();
    let overload = '';
    const message = this.message(onnx.FunctionProto, SMALL.FunctionProto, payload(range), {
      [FunctionField.node]: [BYTES, child => nodes.push(this.node(child, enclosing))],
      [FunctionField.attributeProto]: [
        BYTES,
        child => this.addAttribute(attributeDefaults, child, enclosing),
      ],
      [FunctionField.valueInfo]: [BYTES, child => valueInfos.push(this.value(child))],
      [FunctionField.overload]: [BYTES, child => (overload = this.text(child))],
      [FunctionField.metadataProps]: [BYTES, child => this.addEntry(metadata, child)],
    });
    return {
      kind: 'function',
      name: message.name,
      domain: domainName(message.domain),
      overload,
      inputs: message.input,
      outputs: message.output,
      attributes: message.attribute,
      attributeDefaults,
      opsetImports: opsets(message.opsetImport, range),
      nodes,
      valueInfos,
      metadata,
      range,
      enclosing,
    };
  }

  private node(range: FieldRange, around: readonly FieldRange[]): NodeInfo {
    const enclosing = [...around, range];
    const attributes = new Map<string, AttributeInfo>();
    const metadata = new Map<string, string>();
    let overload = '';
    const message = this.message(onnx.NodeProto, SMALL.NodeProto, payload(range), {
      [NodeField.attribute]: [BYTES, child => this.addAttribute(attributes, child, enclosing)],
      [NodeField.overload]: [BYTES, child => (overload = this.text(child))],
      [NodeField.metadataProps]: [BYTES, child => this.addEntry(metadata, child)],
    });
    return {
      name: message.name,
      opType: message.opType,
      domain: domainName(message.domain),
      overload,
      inputs: message.input,
      outputs: message.output,
      attributes,
      docString: message.docString,
      metadata,
      range,
    };
  }

  private addAttribute(
    attributes: Map<string, AttributeInfo>,
    field: Field,
    around: readonly FieldRange[],
  ): void {
    const attribute = this.attribute(field, around);
    if (attributes.has(attribute.name)) {
      throw new WireError(`attribute '${attribute.name}' occurs twice`, field.start);
    }
    attributes.set(attribute.name, attribute);
  }

  private attribute(range: FieldRange, around: readonly FieldRange[]): AttributeInfo {
    const enclosing = [...around, range];
    const strings: Field[] = [];
    const tensors: TensorInfo[] = [];
    const graphs: GraphInfo[] = [];
    const sparseTensors: SparseTensorInfo[] = [];
    const types: TypeInfo[] = [];
    const addTensor = (child: Field) => tensors.push(this.tensor(child));
    const addGraph = (child: Field) => graphs.push(this.graph(child, enclosing));
    const addSparseTensor = (child: Field) => sparseTensors.push(this.sparseTensor(child));
    const addType = (child: Field) => types.push(this.type(child));
    const message = this.message(onnx.AttributeProto, SMALL.AttributeProto, payload(range), {
      [AttributeField.s]: [BYTES, child => strings.push(child)],
      [AttributeField.t]: [BYTES, addTensor],
      [AttributeField.g]: [BYTES, addGraph],
      [AttributeField.strings]: [BYTES, child => strings.push(child)],
      [AttributeField.tensors]: [BYTES, addTensor],
      [AttributeField.graphs]: [BYTES, addGraph],
      [AttributeField.tp]: [BYTES, addType],
      [AttributeField.typeProtos]: [BYTES, addType],
      [AttributeField.sparseTensor]: [BYTES, addSparseTensor],
      [AttributeField.sparseTensors]: [BYTES, addSparseTensor],
    });
    const { name } = message;
    if (message.refAttrName !== '') return { name, range, type: 'reference', value: message.refAttrName };
    const what = `value in attribute '${name}'`;
    switch (message.type) {
      case AttributeType.FLOAT:
        return { name, range, type: 'float', value: message.f };
      case AttributeType.INT:
        return { name, range, type: 'int', value: toNumber(message.i) };
      case AttributeType.STRING:
        return this.lazyString(name, range, strings.at(-1));
      case AttributeType.TENSOR:
        return { name, range, type: 'tensor', value: only(tensors, what, range) };
      case AttributeType.GRAPH:
        return { name, range, type: 'graph', value: only(graphs, what, range) };
      case AttributeType.SPARSE_TENSOR:
        return { name, range, type: 'sparse_tensor', value: only(sparseTensors, what, range) };
      case AttributeType.TYPE_PROTO:
        return { name, range, type: 'type_proto', value: only(types, what, range) };
      case AttributeType.FLOATS:
        return { name, range, type: 'floats', value: message.floats };
      case AttributeType.INTS:
        return { name, range, type: 'ints', value: message.ints.map(toNumber) };
      case AttributeType.STRINGS:
        return { name, range, type: 'strings', value: strings.map(child => this.text(child)) };
      case AttributeType.TENSORS:
        return { name, range, type: 'tensors', value: tensors };
      case AttributeType.GRAPHS:
        return { name, range, type: 'graphs', value: graphs };
      case AttributeType.SPARSE_TENSORS:
        return { name, range, type: 'sparse_tensors', value: sparseTensors };
      case AttributeType.TYPE_PROTOS:
        return { name, range, type: 'type_protos', value: types };
      default:
        return { name, range, type: 'unknown', value: null };
    }
  }

  private lazyString(name: string, range: FieldRange, field: Field | undefined): AttributeInfo {
    const text = () => (field === undefined ? '' : this.text(field));
    return {
      name,
      range,
      type: 'string',
      get value() {
        return text();
      },
    };
  }

  private tensor(range: FieldRange): TensorInfo {
    const raw: ByteRange[] = [];
    const runs = new Map<TypedField, { start: number; end: number }[]>();
    const addTyped = (name: TypedField, { start, end }: Field) => {
      const list = runs.get(name) ?? [];
      runs.set(name, list);
      const last = list.at(-1);
      if (last?.end === start) last.end = end;
      else list.push({ start, end });
    };
    const message = this.message(onnx.TensorProto, SMALL.TensorProto, payload(range), {
      [TensorField.floatData]: [FLOATS, child => addTyped('float_data', child)],
      [TensorField.int32Data]: [INTS, child => addTyped('int32_data', child)],
      [TensorField.stringData]: [BYTES, child => addTyped('string_data', child)],
      [TensorField.int64Data]: [INTS, child => addTyped('int64_data', child)],
      [TensorField.rawData]: [BYTES, child => raw.push(payload(child))],
      [TensorField.doubleData]: [DOUBLES, child => addTyped('double_data', child)],
      [TensorField.uint64Data]: [INTS, child => addTyped('uint64_data', child)],
    });
    const { name, dataType } = message;
    const dims = message.dims.map(toNumber);
    if (dims.some(dim => dim < 0)) throw new WireError(`tensor '${name}' has a negative size`, range.start);
    return { name, dims, dataType, storage: storage(message, raw, runs, range), range };
  }

  private sparseTensor(range: FieldRange): SparseTensorInfo {
    const values: TensorInfo[] = [];
    const indices: TensorInfo[] = [];
    const message = this.message(onnx.SparseTensorProto, SMALL.SparseTensorProto, payload(range), {
      [SparseTensorField.values]: [BYTES, child => values.push(this.tensor(child))],
      [SparseTensorField.indices]: [BYTES, child => indices.push(this.tensor(child))],
    });
    return {
      dims: message.dims.map(toNumber),
      values: only(values, 'tensor of values in a sparse tensor', range),
      indices: only(indices, 'tensor of indices in a sparse tensor', range),
      range,
    };
  }

  private value(range: FieldRange): ValueInfo {
    const { name, type } = this.parse(onnx.ValueInfoProto, this.bytes(payload(range)), range);
    return { name, ...typeInfo(type), range };
  }

  private type(field: FieldRange): TypeInfo {
    return typeInfo(this.parse(onnx.TypeProto, this.bytes(payload(field)), field));
  }

  private addEntry(map: Map<string, string>, field: FieldRange): void {
    const { key, value } = this.parse(onnx.StringStringEntryProto, this.bytes(payload(field)), field);
    map.set(key, value);
  }

  private text(field: FieldRange): string {
    return new TextDecoder().decode(this.bytes(payload(field)));
  }

  private bytes(range: ByteRange): Uint8Array {
    return this.source.bytes(range.start, range.end);
  }

  /** Decodes the small fields of a message with onnx-proto and sends the listed ones to their visitors. */
  private message<T>(type: MessageType<T>, small: Expected, range: ByteRange, visitors: Visitors): T {
    const parts: Uint8Array[] = [];
    for (const field of fields(this.source, range)) {
      if (small[field.number]?.includes(field.wireType)) parts.push(this.bytes(field));
      const [types, visit] = visitors[field.number] ?? [];
      if (types?.includes(field.wireType)) visit?.(field);
    }
    return this.parse(type, concatenate(parts), range);
  }

  private parse<T>(type: MessageType<T>, bytes: Uint8Array, range: ByteRange): T {
    try {
      return type.decode(bytes);
    } catch (error) {
      throw new WireError(`malformed ${type.name}`, range.start, { cause: error });
    }
  }
}

function payload(field: FieldRange): ByteRange {
  return { start: field.body, end: field.end };
}

/** A field that must occur once; protobuf would merge repeated ones, which no exporter writes. */
function only<T>(found: readonly T[], what: string, range: ByteRange): T {
  const [first] = found;
  if (first === undefined) throw new WireError(`it has no ${what}`, range.start);
  if (found.length > 1) throw new WireError(`it has more than one ${what}`, range.start);
  return first;
}

/** protobufjs gives 64-bit integers as Long objects, or as numbers where the long package is absent. */
function toNumber(value: number | { toNumber(): number }): number {
  return typeof value === 'number' ? value : value.toNumber();
}

/** ONNX lets the default domain be spelled both ways. */
function domainName(domain: string): string {
  return domain === 'ai.onnx' ? '' : domain;
}

function entries(list: readonly proto.IStringStringEntryProto[]): Map<string, string> {
  return new Map(list.map(({ key, value }) => [key ?? '', value ?? '']));
}

function opsets(list: readonly proto.IOperatorSetIdProto[], range: ByteRange): Map<string, number> {
  const versions = new Map<string, number>();
  for (const { domain, version } of list) {
    const name = domainName(domain ?? '');
    const number = toNumber(version ?? 0);
    if ((versions.get(name) ?? number) !== number) {
      throw new WireError(`it imports domain '${name}' in two versions`, range.start);
    }
    versions.set(name, number);
  }
  return versions;
}

function storage(
  message: proto.TensorProto,
  raw: readonly ByteRange[],
  runs: ReadonlyMap<TypedField, readonly ByteRange[]>,
  range: ByteRange,
): TensorStorage {
  const named = `tensor '${message.name}'`;
  if (message.dataLocation === onnx.TensorProto.DataLocation.EXTERNAL) {
    const external = entries(message.externalData);
    const location = external.get('location');
    if (location === undefined)
      throw new WireError(`${named} has external data without a location`, range.start);
    const count = (key: string): number | null => {
      const text = external.get(key);
      if (text === undefined) return null;
      if (!/^\d{1,15}$/.test(text)) throw new WireError(`${named} has ${key} '${text}'`, range.start);
      return Number(text);
    };
    return { kind: 'external', location, offset: count('offset') ?? 0, length: count('length') };
  }
  if (raw.length > 0) return { kind: 'raw', range: only(raw, `raw_data in ${named}`, range) };
  const [typed] = runs;
  return typed ? { kind: 'typed', field: typed[0], runs: typed[1] } : { kind: 'empty' };
}

const KINDS = {
  tensorType: 'tensor',
  sparseTensorType: 'sparse-tensor',
  sequenceType: 'sequence',
  mapType: 'map',
  optionalType: 'optional',
} as const;
const TYPE_FIELDS = Object.keys(KINDS) as (keyof typeof KINDS)[];

function typeInfo(type: proto.ITypeProto | null | undefined): TypeInfo {
  const tensor = type?.tensorType ?? type?.sparseTensorType;
  const field = TYPE_FIELDS.find(key => type?.[key] != null);
  return {
    kind: field ? KINDS[field] : 'unknown',
    dataType: tensor?.elemType ?? DataType.UNDEFINED,
    dims: tensor?.shape ? (tensor.shape.dim ?? []).map(dimension) : null,
  };
}

/** Some exporters write -1 for a size they do not know. */
function dimension({ dimValue, dimParam }: proto.TensorShapeProto.IDimension): number | string | null {
  if (dimParam) return dimParam;
  const size = dimValue == null ? -1 : toNumber(dimValue);
  return size < 0 ? null : size;
}
