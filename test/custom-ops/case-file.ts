import type { Attributes } from '../../custom-ops/operator.js';
import { DataType } from '../../rewriter/onnx/spec.js';

/**
 * Cases and expected results for test programs that are not JavaScript. Little-endian, nothing aligned;
 * `string` is a uint32 byte length and UTF-8 bytes:
 *
 *   file      "ORWC", uint32 version = 1, uint32 cases, case...
 *   case      string name, uint32 attributes, attribute..., uint32 tensors, tensor...
 *   attribute string name, uint32 kind, uint32 count, values
 *             kind 0: int64, 1: float64, 2: string; an integer list is kind 0 with its count
 *   tensor    string name, uint32 type (TensorProto.DataType), uint32 rank, int64 dims..., uint64 bytes, data
 */
export interface CaseRecord {
  readonly name: string;
  readonly attributes: Attributes;
  readonly tensors: readonly CaseTensor[];
}

export interface CaseTensor {
  readonly name: string;
  readonly dataType: DataType;
  readonly dims: readonly number[];
  readonly data: Uint8Array;
}

/** A tensor whose type follows from the typed array; a Uint8Array holds booleans. */
export function caseTensor(
  name: string,
  dims: readonly number[],
  values: Float32Array | Int32Array | Uint8Array,
): CaseTensor {
  const dataType =
    values instanceof Float32Array
      ? DataType.FLOAT
      : values instanceof Int32Array
        ? DataType.INT32
        : DataType.BOOL;
  return { name, dataType, dims, data: new Uint8Array(values.buffer, values.byteOffset, values.byteLength) };
}

const INT64 = 0;
const FLOAT64 = 1;
const STRING = 2;

class Writer {
  readonly #parts: Uint8Array[] = [];

  bytes(data: Uint8Array): void {
    this.#parts.push(data);
  }

  #number(size: number, write: (view: DataView) => void): void {
    const buffer = new Uint8Array(size);
    write(new DataView(buffer.buffer));
    this.bytes(buffer);
  }

  uint32(value: number): void {
    this.#number(4, view => view.setUint32(0, value, true));
  }

  int64(value: number): void {
    this.#number(8, view => view.setBigInt64(0, BigInt(value), true));
  }

  float64(value: number): void {
    this.#number(8, view => view.setFloat64(0, value, true));
  }

  string(text: string): void {
    const encoded = new TextEncoder().encode(text);
    this.uint32(encoded.length);
    this.bytes(encoded);
  }

  finish(): Uint8Array {
    return Buffer.concat(this.#parts);
  }
}

/** Encodes cases in the format above; `floats` names the attributes to write as float64 though whole. */
export function encodeCaseFile(cases: readonly CaseRecord[], floats: ReadonlySet<string>): Uint8Array {
  const writer = new Writer();
  writer.bytes(new TextEncoder().encode('ORWC'));
  writer.uint32(1);
  writer.uint32(cases.length);
  for (const { name, attributes, tensors } of cases) {
    writer.string(name);
    const entries = Object.entries(attributes);
    writer.uint32(entries.length);
    for (const [attribute, value] of entries) {
      writer.string(attribute);
      if (typeof value === 'string') {
        writer.uint32(STRING);
        writer.uint32(1);
        writer.string(value);
      } else {
        const values = typeof value === 'number' ? [value] : value;
        writer.uint32(floats.has(attribute) ? FLOAT64 : INT64);
        writer.uint32(values.length);
        for (const item of values) {
          if (floats.has(attribute)) writer.float64(item);
          else writer.int64(item);
        }
      }
    }
    writer.uint32(tensors.length);
    for (const tensor of tensors) {
      writer.string(tensor.name);
      writer.uint32(tensor.dataType);
      writer.uint32(tensor.dims.length);
      for (const dim of tensor.dims) writer.int64(dim);
      writer.int64(tensor.data.byteLength);
      writer.bytes(tensor.data);
    }
  }
  return writer.finish();
}

/** Reads what {@link encodeCaseFile} or a test program wrote. */
export function decodeCaseFile(file: Uint8Array): CaseRecord[] {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  let at = 0;
  const uint32 = () => {
    at += 4;
    return view.getUint32(at - 4, true);
  };
  const int64 = () => {
    at += 8;
    return Number(view.getBigInt64(at - 8, true));
  };
  const float64 = () => {
    at += 8;
    return view.getFloat64(at - 8, true);
  };
  const bytes = (length: number) => {
    at += length;
    return file.subarray(at - length, at);
  };
  const string = () => new TextDecoder().decode(bytes(uint32()));
  const list = <Item>(read: () => Item): Item[] => Array.from({ length: uint32() }, read);
  const attribute = (): [string, Attributes[string]] => {
    const name = string();
    const kind = uint32();
    if (kind === STRING) return [name, list(string).join()];
    const values = list(kind === FLOAT64 ? float64 : int64);
    return [name, values.length === 1 ? values[0]! : values];
  };
  if (new TextDecoder().decode(bytes(4)) !== 'ORWC' || uint32() !== 1) throw new Error('not a case file');
  return list(() => ({
    name: string(),
    attributes: Object.fromEntries(list(attribute)),
    tensors: list(() => ({
      name: string(),
      dataType: uint32() as DataType,
      dims: list(int64),
      data: bytes(int64()),
    })),
  }));
}
