/**
 * New graph elements, as plain data: what operators, patterns and tests write, and what `encode.ts` turns
 * into protobuf bytes. Names follow onnx.proto; an empty string among `inputs` or `outputs` is an absent
 * optional one.
 */

/** TensorProto.DataType of ONNX (numbers are the wire values). */
export enum DataType {
  UNDEFINED = 0,
  FLOAT = 1,
  UINT8 = 2,
  INT8 = 3,
  UINT16 = 4,
  INT16 = 5,
  INT32 = 6,
  INT64 = 7,
  STRING = 8,
  BOOL = 9,
  FLOAT16 = 10,
  DOUBLE = 11,
  UINT32 = 12,
  UINT64 = 13,
  COMPLEX64 = 14,
  COMPLEX128 = 15,
  BFLOAT16 = 16,
  FLOAT8E4M3FN = 17,
  FLOAT8E4M3FNUZ = 18,
  FLOAT8E5M2 = 19,
  FLOAT8E5M2FNUZ = 20,
  UINT4 = 21,
  INT4 = 22,
  FLOAT4E2M1 = 23,
  FLOAT8E8M0 = 24,
  UINT2 = 25,
  INT2 = 26,
  FLOAT6E2M3 = 27,
  FLOAT6E3M2 = 28,
}

/** A tensor by value, or by its place in an external data file. */
export type TensorSpec = {
  readonly name?: string;
  readonly dataType: DataType;
  readonly dims: readonly number[];
} & (
  | {
      /** Little-endian elements, as TensorProto.raw_data holds them. */
      readonly data: Uint8Array;
    }
  | { readonly external: { readonly location: string; readonly offset: number; readonly length: number } }
);

export type AttributeSpec =
  | { readonly type: 'int'; readonly value: number | bigint }
  | { readonly type: 'float'; readonly value: number }
  | { readonly type: 'string'; readonly value: string }
  | { readonly type: 'ints'; readonly value: readonly (number | bigint)[] }
  | { readonly type: 'floats'; readonly value: readonly number[] }
  | { readonly type: 'strings'; readonly value: readonly string[] }
  | { readonly type: 'tensor'; readonly value: TensorSpec }
  | { readonly type: 'graph'; readonly value: GraphSpec };

export interface NodeSpec {
  readonly opType: string;
  readonly domain?: string;
  readonly overload?: string;
  readonly name?: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes?: Readonly<Record<string, AttributeSpec>>;
  /** NodeProto.metadata_props (IR 10). */
  readonly metadata?: Readonly<Record<string, string>>;
}

/** A typed value; a dim is a number, a symbol, or null when unknown; `dims` absent means unknown rank. */
export interface ValueSpec {
  readonly name: string;
  readonly dataType: DataType;
  readonly dims?: readonly (number | string | null)[];
}

export interface GraphSpec {
  readonly name: string;
  readonly nodes: readonly NodeSpec[];
  readonly inputs: readonly ValueSpec[];
  readonly outputs: readonly ValueSpec[];
  readonly initializers?: readonly TensorSpec[];
  /** Types of inner values. */
  readonly values?: readonly ValueSpec[];
}

/** A model-local function: the portable body of an operator. */
export interface FunctionSpec {
  readonly domain: string;
  readonly name: string;
  readonly overload?: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** Attribute names that nodes of the body may reference. */
  readonly attributes?: readonly string[];
  readonly opsetImports: Readonly<Record<string, number>>;
  readonly nodes: readonly NodeSpec[];
}

export interface ModelSpec {
  readonly irVersion: number;
  /** Domain to version; the default domain is the empty string. */
  readonly opsetImports: Readonly<Record<string, number>>;
  readonly graph: GraphSpec;
  readonly functions?: readonly FunctionSpec[];
  readonly producerName?: string;
  readonly metadata?: Readonly<Record<string, string>>;
}
