import { type ByteSource, MemorySource } from './byte-source.js';
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
  SparseTensorField,
  TensorField,
  TensorTypeField,
  TypeField,
  ValueInfoField,
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
import { decodeVarints, type Field, fields, WireError, WireType } from './wire.js';

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

const UTF8 = new TextDecoder('utf-8', { ignoreBOM: true });
const UNTYPED: TypeInfo = { kind: 'unknown', dataType: DataType.UNDEFINED, dims: null };

/** Called with each field of the number it is listed under, if the field has one of these wire types. */
type Visitors = Readonly<Record<number, readonly [readonly WireType[], (field: Field) => void]>>;

/** Domains and versions as a model or a function imports them. */
type OpsetImports = readonly (readonly [domain: string, version: number])[];

class Decoder {
  constructor(private readonly source: ByteSource) {}

  model(file: string | null, sidecars: Sidecars | null): ModelInfo {
    const range = { start: 0, end: this.source.length };
    const graphs: GraphInfo[] = [];
    const irVersions: Field[] = [];
    const functions: FunctionInfo[] = [];
    const imports: [string, number][] = [];
    const metadata = new Map<string, string>();
    let producerName = '';
    let producerVersion = '';
    this.message(range, {
      [ModelField.irVersion]: [INT, field => irVersions.push(field)],
      [ModelField.producerName]: [BYTES, field => (producerName = this.text(field))],
      [ModelField.producerVersion]: [BYTES, field => (producerVersion = this.text(field))],
      [ModelField.graph]: [BYTES, field => graphs.push(this.graph(field, []))],
      [ModelField.opsetImport]: [BYTES, field => imports.push(this.opsetImport(field))],
      [ModelField.metadataProps]: [BYTES, field => this.addEntry(metadata, field)],
      [ModelField.functions]: [BYTES, field => functions.push(this.function(field))],
    });
    const irVersionRange = irVersions.at(-1);
    if (irVersionRange === undefined) throw new WireError('it has no ir_version', 0);
    return {
      source: this.source,
      file,
      sidecars,
      irVersion: this.integer(irVersionRange),
      opsetImports: opsets(imports, range),
      producerName,
      producerVersion,
      metadata,
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
    let name = '';
    this.message(payload(range), {
      [GraphField.name]: [BYTES, child => (name = this.text(child))],
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
    const inputs: string[] = [];
    const outputs: string[] = [];
    const attributes: string[] = [];
    const imports: [string, number][] = [];
    let name = '';
    let domain = '';
    let overload = '';
    this.message(payload(range), {
      [FunctionField.name]: [BYTES, child => (name = this.text(child))],
      [FunctionField.input]: [BYTES, child => inputs.push(this.text(child))],
      [FunctionField.output]: [BYTES, child => outputs.push(this.text(child))],
      [FunctionField.attribute]: [BYTES, child => attributes.push(this.text(child))],
      [FunctionField.node]: [BYTES, child => nodes.push(this.node(child, enclosing))],
      [FunctionField.opsetImport]: [BYTES, child => imports.push(this.opsetImport(child))],
      [FunctionField.domain]: [BYTES, child => (domain = this.text(child))],
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
      name,
      domain: domainName(domain),
      overload,
      inputs,
      outputs,
      attributes,
      attributeDefaults,
      opsetImports: opsets(imports, range),
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
    const inputs: string[] = [];
    const outputs: string[] = [];
    let name = '';
    let opType = '';
    let docString = '';
    let domain = '';
    let overload = '';
    this.message(payload(range), {
      [NodeField.input]: [BYTES, child => inputs.push(this.text(child))],
      [NodeField.output]: [BYTES, child => outputs.push(this.text(child))],
      [NodeField.name]: [BYTES, child => (name = this.text(child))],
      [NodeField.opType]: [BYTES, child => (opType = this.text(child))],
      [NodeField.attribute]: [BYTES, child => this.addAttribute(attributes, child, enclosing)],
      [NodeField.docString]: [BYTES, child => (docString = this.text(child))],
      [NodeField.domain]: [BYTES, child => (domain = this.text(child))],
      [NodeField.overload]: [BYTES, child => (overload = this.text(child))],
      [NodeField.metadataProps]: [BYTES, child => this.addEntry(metadata, child)],
    });
    return {
      name,
      opType,
      domain: domainName(domain),
      overload,
      inputs,
      outputs,
      attributes,
      docString,
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
    const floats: number[] = [];
    const ints: number[] = [];
    let name = '';
    let type = 0;
    let referenced = '';
    let float = 0;
    let int = 0;
    this.message(payload(range), {
      [AttributeField.name]: [BYTES, child => (name = this.text(child))],
      [AttributeField.f]: [FLOAT, child => (float = this.floats(child)[0]!)],
      [AttributeField.i]: [INT, child => (int = this.integer(child))],
      [AttributeField.s]: [BYTES, child => strings.push(child)],
      [AttributeField.t]: [BYTES, addTensor],
      [AttributeField.g]: [BYTES, addGraph],
      [AttributeField.floats]: [FLOATS, child => floats.push(...this.floats(child))],
      [AttributeField.ints]: [INTS, child => ints.push(...this.integers(child))],
      [AttributeField.strings]: [BYTES, child => strings.push(child)],
      [AttributeField.tensors]: [BYTES, addTensor],
      [AttributeField.graphs]: [BYTES, addGraph],
      [AttributeField.tp]: [BYTES, addType],
      [AttributeField.typeProtos]: [BYTES, addType],
      [AttributeField.type]: [INT, child => (type = this.integer(child))],
      [AttributeField.refAttrName]: [BYTES, child => (referenced = this.text(child))],
      [AttributeField.sparseTensor]: [BYTES, addSparseTensor],
      [AttributeField.sparseTensors]: [BYTES, addSparseTensor],
    });
    if (referenced !== '') return { name, range, type: 'reference', value: referenced };
    const what = `value in attribute '${name}'`;
    switch (type) {
      case AttributeType.float:
        return { name, range, type: 'float', value: float };
      case AttributeType.int:
        return { name, range, type: 'int', value: int };
      case AttributeType.string:
        return this.lazyString(name, range, strings.at(-1));
      case AttributeType.tensor:
        return { name, range, type: 'tensor', value: only(tensors, what, range) };
      case AttributeType.graph:
        return { name, range, type: 'graph', value: only(graphs, what, range) };
      case AttributeType.sparseTensor:
        return { name, range, type: 'sparse_tensor', value: only(sparseTensors, what, range) };
      case AttributeType.typeProto:
        return { name, range, type: 'type_proto', value: only(types, what, range) };
      case AttributeType.floats:
        return { name, range, type: 'floats', value: floats };
      case AttributeType.ints:
        return { name, range, type: 'ints', value: ints };
      case AttributeType.strings:
        return { name, range, type: 'strings', value: strings.map(child => this.text(child)) };
      case AttributeType.tensors:
        return { name, range, type: 'tensors', value: tensors };
      case AttributeType.graphs:
        return { name, range, type: 'graphs', value: graphs };
      case AttributeType.sparseTensors:
        return { name, range, type: 'sparse_tensors', value: sparseTensors };
      case AttributeType.typeProtos:
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
    const dims: number[] = [];
    const external = new Map<string, string>();
    let name = '';
    let dataType: DataType = DataType.UNDEFINED;
    let location = 0;
    this.message(payload(range), {
      [TensorField.dims]: [INTS, child => dims.push(...this.integers(child))],
      [TensorField.dataType]: [INT, child => (dataType = this.integer(child))],
      [TensorField.floatData]: [FLOATS, child => addTyped('float_data', child)],
      [TensorField.int32Data]: [INTS, child => addTyped('int32_data', child)],
      [TensorField.stringData]: [BYTES, child => addTyped('string_data', child)],
      [TensorField.int64Data]: [INTS, child => addTyped('int64_data', child)],
      [TensorField.name]: [BYTES, child => (name = this.text(child))],
      [TensorField.rawData]: [BYTES, child => raw.push(payload(child))],
      [TensorField.doubleData]: [DOUBLES, child => addTyped('double_data', child)],
      [TensorField.uint64Data]: [INTS, child => addTyped('uint64_data', child)],
      [TensorField.externalData]: [BYTES, child => this.addEntry(external, child)],
      [TensorField.dataLocation]: [INT, child => (location = this.integer(child))],
    });
    if (dims.some(dim => dim < 0)) throw new WireError(`tensor '${name}' has a negative size`, range.start);
    const storage =
      location === EXTERNAL_LOCATION
        ? externalStorage(name, external, range)
        : ownStorage(name, raw, runs, range);
    return { name, dims, dataType, storage, range };
  }

  private sparseTensor(range: FieldRange): SparseTensorInfo {
    const values: TensorInfo[] = [];
    const indices: TensorInfo[] = [];
    const dims: number[] = [];
    this.message(payload(range), {
      [SparseTensorField.dims]: [INTS, child => dims.push(...this.integers(child))],
      [SparseTensorField.values]: [BYTES, child => values.push(this.tensor(child))],
      [SparseTensorField.indices]: [BYTES, child => indices.push(this.tensor(child))],
    });
    return {
      dims,
      values: only(values, 'tensor of values in a sparse tensor', range),
      indices: only(indices, 'tensor of indices in a sparse tensor', range),
      range,
    };
  }

  private value(range: FieldRange): ValueInfo {
    let name = '';
    let type: TypeInfo = UNTYPED;
    this.message(payload(range), {
      [ValueInfoField.name]: [BYTES, child => (name = this.text(child))],
      [ValueInfoField.type]: [BYTES, child => (type = this.type(child))],
    });
    return { name, ...type, range };
  }

  private type(range: FieldRange): TypeInfo {
    let type: TypeInfo = UNTYPED;
    const set = (kind: TypeInfo['kind']) => () => (type = { ...UNTYPED, kind });
    this.message(payload(range), {
      [TypeField.tensor]: [BYTES, child => (type = this.tensorType('tensor', child))],
      [TypeField.sequence]: [BYTES, set('sequence')],
      [TypeField.map]: [BYTES, set('map')],
      [TypeField.sparseTensor]: [BYTES, child => (type = this.tensorType('sparse-tensor', child))],
      [TypeField.optional]: [BYTES, set('optional')],
    });
    return type;
  }

  private tensorType(kind: TypeInfo['kind'], range: FieldRange): TypeInfo {
    let dataType: DataType = DataType.UNDEFINED;
    let dims: (number | string | null)[] | null = null;
    this.message(payload(range), {
      [TensorTypeField.elemType]: [INT, child => (dataType = this.integer(child))],
      [TensorTypeField.shape]: [BYTES, child => (dims = this.shape(child))],
    });
    return { kind, dataType, dims };
  }

  private shape(range: FieldRange): (number | string | null)[] {
    const dims: (number | string | null)[] = [];
    this.message(payload(range), {
      [ShapeField.dim]: [BYTES, child => dims.push(this.dimension(child))],
    });
    return dims;
  }

  /** Some exporters write -1 for a size they do not know. */
  private dimension(range: FieldRange): number | string | null {
    let size = -1;
    let symbol = '';
    this.message(payload(range), {
      [DimensionField.value]: [INT, child => (size = this.integer(child))],
      [DimensionField.symbol]: [BYTES, child => (symbol = this.text(child))],
    });
    if (symbol !== '') return symbol;
    return size < 0 ? null : size;
  }

  private opsetImport(range: FieldRange): [domain: string, version: number] {
    let domain = '';
    let version = 0;
    this.message(payload(range), {
      [OpsetField.domain]: [BYTES, child => (domain = this.text(child))],
      [OpsetField.version]: [INT, child => (version = this.integer(child))],
    });
    return [domain, version];
  }

  private addEntry(map: Map<string, string>, range: FieldRange): void {
    let key = '';
    let value = '';
    this.message(payload(range), {
      [EntryField.key]: [BYTES, child => (key = this.text(child))],
      [EntryField.value]: [BYTES, child => (value = this.text(child))],
    });
    map.set(key, value);
  }

  private text(field: FieldRange): string {
    return UTF8.decode(this.bytes(payload(field)));
  }

  private integer(field: FieldRange): number {
    return this.integers(field)[0]!;
  }

  /** Integers of a field, one or packed, as the nearest doubles. */
  private integers(field: FieldRange): number[] {
    return decodeVarints(this.bytes(payload(field)), field.body).map(Number);
  }

  /** Numbers of a field, one or packed. */
  private floats(field: FieldRange): number[] {
    const { buffer, byteOffset, byteLength } = this.bytes(payload(field));
    if (byteLength % 4 > 0) throw new WireError('the bytes end inside a number', field.end);
    const view = new DataView(buffer, byteOffset, byteLength);
    return Array.from({ length: byteLength / 4 }, (_, n) => view.getFloat32(4 * n, true));
  }

  private bytes(range: ByteRange): Uint8Array {
    return this.source.bytes(range.start, range.end);
  }

  /** Sends the listed fields of a message to their visitors. */
  private message(range: ByteRange, visitors: Visitors): void {
    for (const field of fields(this.source, range)) {
      const [types, visit] = visitors[field.number] ?? [];
      if (types?.includes(field.wireType)) visit?.(field);
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

/** ONNX lets the default domain be spelled both ways. */
function domainName(domain: string): string {
  return domain === 'ai.onnx' ? '' : domain;
}

function opsets(imports: OpsetImports, range: ByteRange): Map<string, number> {
  const versions = new Map<string, number>();
  for (const [domain, version] of imports) {
    const name = domainName(domain);
    if ((versions.get(name) ?? version) !== version) {
      throw new WireError(`it imports domain '${name}' in two versions`, range.start);
    }
    versions.set(name, version);
  }
  return versions;
}

function externalStorage(
  name: string,
  external: ReadonlyMap<string, string>,
  range: ByteRange,
): TensorStorage {
  const location = external.get('location');
  if (location === undefined)
    throw new WireError(`tensor '${name}' has external data without a location`, range.start);
  const count = (key: string): number | null => {
    const text = external.get(key);
    if (text === undefined) return null;
    if (!/^\d{1,15}$/.test(text)) throw new WireError(`tensor '${name}' has ${key} '${text}'`, range.start);
    return Number(text);
  };
  return { kind: 'external', location, offset: count('offset') ?? 0, length: count('length') };
}

function ownStorage(
  name: string,
  raw: readonly ByteRange[],
  runs: ReadonlyMap<TypedField, readonly ByteRange[]>,
  range: ByteRange,
): TensorStorage {
  if (raw.length > 0) return { kind: 'raw', range: only(raw, `raw_data in tensor '${name}'`, range) };
  const [typed] = runs;
  return typed ? { kind: 'typed', field: typed[0], runs: typed[1] } : { kind: 'empty' };
}
