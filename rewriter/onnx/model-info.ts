import type { ByteSource } from './byte-source.js';
import type { DataType } from './spec.js';

/**
 * The decoded, weight-free view of a model file. Every message knows where its bytes are, so that the writer
 * can replace one message and copy the rest unread. Nothing here is ever encoded again: fields that this view
 * leaves out survive because their bytes do.
 */
export interface ModelInfo {
  readonly source: ByteSource;
  /** Path or label for messages; null for bytes without a name. */
  readonly file: string | null;
  /** Opens the external data files of the model by location; null where there is no folder to look in. */
  readonly sidecars: Sidecars | null;
  readonly irVersion: number;
  /** Domain to version; the default domain is always the empty string, however the file spells it. */
  readonly opsetImports: ReadonlyMap<string, number>;
  readonly producerName: string;
  readonly producerVersion: string;
  readonly metadata: ReadonlyMap<string, string>;
  readonly graph: GraphInfo;
  readonly functions: readonly FunctionInfo[];
  /** Field `ir_version`. */
  readonly irVersionRange: FieldRange;
}

/** Half-open range of bytes of the model's source. */
export interface ByteRange {
  readonly start: number;
  readonly end: number;
}

/** One protobuf field: tag (and length) in `[start, body)`, payload in `[body, end)`. */
export interface FieldRange extends ByteRange {
  readonly body: number;
}

/** Access to external data files, already checked against leaving the model's folder. */
export interface Sidecars {
  /** @throws InputError for a forbidden, missing or unreadable location */
  open(location: string): ByteSource;
}

/** A list of nodes with its place in the file: what graphs and functions have in common. */
export interface NodeListInfo {
  readonly kind: 'graph' | 'function';
  readonly name: string;
  readonly nodes: readonly NodeInfo[];
  readonly valueInfos: readonly ValueInfo[];
  readonly range: FieldRange;
  /** The fields around and including this one, outermost first: their lengths change when it changes. */
  readonly enclosing: readonly FieldRange[];
}

export interface GraphInfo extends NodeListInfo {
  readonly kind: 'graph';
  readonly inputs: readonly ValueInfo[];
  readonly outputs: readonly ValueInfo[];
  readonly initializers: readonly TensorInfo[];
  readonly sparseInitializers: readonly SparseTensorInfo[];
}

export interface FunctionInfo extends NodeListInfo {
  readonly kind: 'function';
  readonly domain: string;
  readonly overload: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** Names of attributes without a default. */
  readonly attributes: readonly string[];
  /** Attributes with their defaults. */
  readonly attributeDefaults: ReadonlyMap<string, AttributeInfo>;
  readonly opsetImports: ReadonlyMap<string, number>;
  readonly metadata: ReadonlyMap<string, string>;
}

export interface NodeInfo {
  readonly name: string;
  readonly opType: string;
  /** The default domain is the empty string. */
  readonly domain: string;
  readonly overload: string;
  /** An absent optional input or output is the empty string. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: ReadonlyMap<string, AttributeInfo>;
  readonly docString: string;
  readonly metadata: ReadonlyMap<string, string>;
  readonly range: FieldRange;
}

/**
 * An attribute by type. Integers are given as the nearest double: exact to 2^53, and far enough out to mean
 * "to the end" beyond. Strings are read when asked for, since they may hold megabytes of compiled code.
 */
export type AttributeInfo = {
  readonly name: string;
  readonly range: FieldRange;
} & (
  | { readonly type: 'float'; readonly value: number }
  | { readonly type: 'int'; readonly value: number }
  | { readonly type: 'string'; readonly value: string }
  | { readonly type: 'tensor'; readonly value: TensorInfo }
  | { readonly type: 'graph'; readonly value: GraphInfo }
  | { readonly type: 'sparse_tensor'; readonly value: SparseTensorInfo }
  | { readonly type: 'type_proto'; readonly value: TypeInfo }
  | { readonly type: 'floats'; readonly value: readonly number[] }
  | { readonly type: 'ints'; readonly value: readonly number[] }
  | { readonly type: 'strings'; readonly value: readonly string[] }
  | { readonly type: 'tensors'; readonly value: readonly TensorInfo[] }
  | { readonly type: 'graphs'; readonly value: readonly GraphInfo[] }
  | { readonly type: 'sparse_tensors'; readonly value: readonly SparseTensorInfo[] }
  | { readonly type: 'type_protos'; readonly value: readonly TypeInfo[] }
  /** In a function body: the value of the named attribute of the calling node. */
  | { readonly type: 'reference'; readonly value: string }
  /** Of a type that ONNX added later. */
  | { readonly type: 'unknown'; readonly value: null }
);

/** A type; `dataType` and `dims` describe the elements of a tensor and are UNDEFINED and null for the rest. */
export interface TypeInfo {
  readonly kind: 'tensor' | 'sparse-tensor' | 'sequence' | 'map' | 'optional' | 'opaque' | 'unknown';
  readonly dataType: DataType;
  /** Number, symbol, or null where unknown; null for unknown rank. */
  readonly dims: readonly (number | string | null)[] | null;
}

export interface ValueInfo extends TypeInfo {
  readonly name: string;
  readonly range: FieldRange;
}

/** A tensor whose elements stay where they are; `tensor-data.ts` reads small ones. */
export interface TensorInfo {
  readonly name: string;
  readonly dims: readonly number[];
  readonly dataType: DataType;
  readonly storage: TensorStorage;
  readonly range: FieldRange;
}

export type TensorStorage =
  /** `raw_data`: little-endian elements. */
  | { readonly kind: 'raw'; readonly range: ByteRange }
  /** One of the typed fields, as runs of whole fields (tags included), packed or not. */
  | { readonly kind: 'typed'; readonly field: TypedField; readonly runs: readonly ByteRange[] }
  /** A range of another file; a null length reaches as far as the shape needs. */
  | {
      readonly kind: 'external';
      readonly location: string;
      readonly offset: number;
      readonly length: number | null;
    }
  /** No data at all: a tensor without elements. */
  | { readonly kind: 'empty' };

export type TypedField =
  | 'float_data'
  | 'int32_data'
  | 'string_data'
  | 'int64_data'
  | 'double_data'
  | 'uint64_data';

/** A sparse tensor; its name is the name of `values`. */
export interface SparseTensorInfo {
  readonly dims: readonly number[];
  readonly values: TensorInfo;
  readonly indices: TensorInfo;
  readonly range: FieldRange;
}
