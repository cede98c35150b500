import { isRecord } from '../../rewriter/is-record.js';
import { concatenate } from '../../rewriter/onnx/bytes.js';
import { elementCount, fitsDims } from '../../rewriter/onnx/element-size.js';
import type { ValueInfo } from '../../rewriter/onnx/model-info.js';
import type { ModelInput } from '../data/model-inputs.js';
import {
  ARRAY_TYPES,
  type ElementType,
  elementTypeOf,
  isElement,
  type TensorValue,
  tensorFrom,
  toNumbers,
} from '../data/tensor.js';

/**
 * Requests and responses of inference in the Open Inference Protocol, version 2, over REST, with its extension for
 * binary tensor data: a JSON document, behind it the elements of tensors in the order of the document, row-major and
 * little-endian. https://github.com/kserve/open-inference-protocol
 */

/** What the protocol calls element types. */
export const DATATYPES: Readonly<Record<ElementType, string>> = {
  float32: 'FP32',
  float64: 'FP64',
  float16: 'FP16',
  int8: 'INT8',
  int16: 'INT16',
  int32: 'INT32',
  int64: 'INT64',
  uint8: 'UINT8',
  uint16: 'UINT16',
  uint32: 'UINT32',
  uint64: 'UINT64',
  bool: 'BOOL',
};

/** Header with the length of the JSON document in front of binary data. */
export const HEADER_LENGTH = 'inference-header-content-length';

/** A request that cannot be answered, with the HTTP status that says why. */
export class RequestError extends Error {
  override readonly name = 'RequestError';

  constructor(
    readonly status: 400 | 404 | 405 | 411 | 413 | 429 | 500 | 503,
    message: string,
  ) {
    super(message);
  }
}

/** What the protocol calls a failure. */
export function errorDocument(message: string): string {
  return JSON.stringify({ error: message });
}

export interface InferenceRequest {
  /** What the client calls the request; echoed. */
  readonly id: string | null;
  readonly feeds: ReadonlyMap<string, TensorValue>;
  readonly outputs: readonly RequestedOutput[];
}

export interface RequestedOutput {
  readonly name: string;
  /** Whether the elements go behind the document. */
  readonly binary: boolean;
}

/**
 * The request in `body`.
 * @param headerLength length of the JSON document; null when it is the whole body
 * @param inputs what the model takes
 * @param outputs names of what it gives; a request that names none gets all
 * @throws RequestError of status 400 when the request does not fit the protocol or the model
 */
export function decodeRequest(
  body: Uint8Array,
  headerLength: number | null,
  inputs: readonly ModelInput[],
  outputs: readonly string[],
): InferenceRequest {
  const document = parseDocument(body.subarray(0, headerLength ?? body.length));
  if (headerLength !== null && headerLength > body.length) {
    throw new RequestError(400, `${HEADER_LENGTH} is ${headerLength}, the body has ${body.length} bytes`);
  }
  const { id = null, parameters = {}, inputs: given, outputs: wanted = [] } = document;
  if (id !== null && typeof id !== 'string') throw new RequestError(400, '"id" is not a string');
  if (!isRecord(parameters)) throw new RequestError(400, '"parameters" is not an object');
  const binary = new BinaryData(body.subarray(headerLength ?? body.length));
  const feeds = new Map<string, TensorValue>();
  for (const entry of records(given, 'inputs')) {
    const name = nameOf(entry, 'inputs');
    const input = inputs.find(candidate => candidate.name === name);
    if (input === undefined) {
      throw new RequestError(
        400,
        `the model has no input "${name}"; it takes ${inputs.map(i => i.name).join(', ')}`,
      );
    }
    if (feeds.has(name)) throw new RequestError(400, `input "${name}" is given twice`);
    feeds.set(name, decodeInput(input, entry, binary));
  }
  for (const { name } of inputs) {
    if (!feeds.has(name)) throw new RequestError(400, `input "${name}" is missing`);
  }
  binary.assertUsedUp();
  const byDefault = flag(parameters, 'binary_data_output', false);
  const requested = records(wanted, 'outputs').map(entry => {
    const name = nameOf(entry, 'outputs');
    if (!outputs.includes(name)) {
      throw new RequestError(400, `the model has no output "${name}"; it gives ${outputs.join(', ')}`);
    }
    return { name, binary: flag(parametersOf(entry, name), 'binary_data', byDefault) };
  });
  return {
    id,
    feeds,
    outputs: requested.length > 0 ? requested : outputs.map(name => ({ name, binary: byDefault })),
  };
}

/** An answer, ready to be sent. */
export interface EncodedResponse {
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array<ArrayBuffer>;
}

/**
 * The response to a request. Numbers that JSON lacks (NaN, infinities) become null; binary data keeps them.
 * @throws RequestError of status 400 for float16 outputs that were not requested as binary data
 */
export function encodeResponse(
  model: string,
  request: InferenceRequest,
  results: ReadonlyMap<string, TensorValue>,
): EncodedResponse {
  const binary: Uint8Array[] = [];
  const outputs = request.outputs.map(output => {
    const tensor = results.get(output.name)!;
    const head = { name: output.name, shape: tensor.dims, datatype: DATATYPES[tensor.type] };
    if (output.binary) {
      const { buffer, byteOffset, byteLength } = tensor.data;
      binary.push(new Uint8Array(buffer, byteOffset, byteLength));
      return { ...head, parameters: { binary_data_size: byteLength } };
    }
    if (tensor.type === 'float16') {
      throw new RequestError(
        400,
        `output "${output.name}" is FP16, which has no JSON form: request binary_data`,
      );
    }
    return { ...head, data: jsonElements(tensor) };
  });
  const document = {
    model_name: model,
    model_version: MODEL_VERSION,
    ...(request.id === null ? {} : { id: request.id }),
    outputs,
  };
  const json = Buffer.from(JSON.stringify(document));
  const body = concatenate([json, ...binary]);
  const headers =
    binary.length === 0
      ? { 'content-type': 'application/json' }
      : { 'content-type': 'application/octet-stream', [HEADER_LENGTH]: String(json.length) };
  return { headers, body };
}

/** A server has one version of its model. */
export const MODEL_VERSION = '1';

/** The elements behind the document, taken in turn. */
class BinaryData {
  private offset = 0;

  constructor(private readonly bytes: Uint8Array) {}

  take(size: number, name: string): Uint8Array<ArrayBuffer> {
    const end = this.offset + size;
    if (end > this.bytes.length) {
      throw new RequestError(400, `input "${name}": ${size} bytes of binary data announced, fewer sent`);
    }
    // A copy, since typed arrays start at multiples of their element size.
    const taken = this.bytes.slice(this.offset, end) as Uint8Array<ArrayBuffer>;
    this.offset = end;
    return taken;
  }

  assertUsedUp(): void {
    const left = this.bytes.length - this.offset;
    if (left > 0) throw new RequestError(400, `${left} bytes of binary data belong to no input`);
  }
}

function decodeInput(input: ModelInput, entry: Record<string, unknown>, binary: BinaryData): TensorValue {
  const { name, type } = input;
  const { datatype, shape, data } = entry;
  if (datatype !== DATATYPES[type]) {
    throw new RequestError(400, `input "${name}" takes ${DATATYPES[type]}, not ${JSON.stringify(datatype)}`);
  }
  if (!Array.isArray(shape) || !shape.every(dim => Number.isSafeInteger(dim) && dim >= 0)) {
    throw new RequestError(400, `input "${name}": "shape" is not an array of sizes`);
  }
  const dims = shape as number[];
  if (!fitsDims(dims, input.dims)) {
    const expected = input.dims.map(dim => dim ?? '?').join(', ');
    throw new RequestError(400, `input "${name}" takes shape [${expected}], not [${dims.join(', ')}]`);
  }
  const size = parametersOf(entry, name).binary_data_size;
  if (size !== undefined) {
    const expected = elementCount(dims) * ARRAY_TYPES[type].BYTES_PER_ELEMENT;
    if (size !== expected) {
      throw new RequestError(
        400,
        `input "${name}": shape [${dims.join(', ')}] takes ${expected} bytes, not ${size}`,
      );
    }
    const { buffer } = binary.take(expected, name);
    return { type, dims, data: new ARRAY_TYPES[type](buffer) } as TensorValue;
  }
  if (type === 'float16') {
    throw new RequestError(400, `input "${name}" is FP16, which has no JSON form: send binary data`);
  }
  return fromJson(input, dims, data);
}

/** Elements from flat or nested JSON arrays. */
function fromJson({ name, type }: ModelInput, dims: readonly number[], data: unknown): TensorValue {
  if (!Array.isArray(data)) throw new RequestError(400, `input "${name}" has neither "data" nor binary data`);
  const flat: unknown[] = data.flat(Number.POSITIVE_INFINITY);
  const numbers = flat.map(value => {
    if (typeof value === 'number' || (type === 'bool' && typeof value === 'boolean')) return Number(value);
    throw new RequestError(
      400,
      `input "${name}": ${JSON.stringify(value)} is not an element of ${DATATYPES[type]}`,
    );
  });
  const count = elementCount(dims);
  if (numbers.length !== count) {
    throw new RequestError(
      400,
      `input "${name}": shape [${dims.join(', ')}] takes ${count} elements, not ${flat.length}`,
    );
  }
  const wrong = numbers.find(number => !isElement(type, number));
  if (wrong !== undefined) {
    throw new RequestError(400, `input "${name}": ${wrong} is not an element of ${DATATYPES[type]}`);
  }
  return tensorFrom(type, dims, numbers);
}

function jsonElements(tensor: TensorValue): unknown[] {
  if (tensor.type === 'bool') return Array.from(tensor.data, value => value !== 0);
  return Array.from(toNumbers(tensor));
}

function parseDocument(bytes: Uint8Array): Record<string, unknown> {
  let document: unknown;
  try {
    document = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    throw new RequestError(400, `the request is not JSON: ${(error as Error).message}`);
  }
  if (!isRecord(document)) throw new RequestError(400, 'the request is not a JSON object');
  return document;
}

function records(value: unknown, field: string): Record<string, unknown>[] {
  if (!Array.isArray(value) || !value.every(isRecord)) {
    throw new RequestError(400, `"${field}" is not an array of objects`);
  }
  return value;
}

function nameOf(entry: Record<string, unknown>, field: string): string {
  if (typeof entry.name !== 'string') throw new RequestError(400, `one of "${field}" has no "name"`);
  return entry.name;
}

function parametersOf(entry: Record<string, unknown>, name: string): Record<string, unknown> {
  const { parameters = {} } = entry;
  if (!isRecord(parameters)) throw new RequestError(400, `"parameters" of "${name}" is not an object`);
  return parameters;
}

function flag(parameters: Record<string, unknown>, key: string, otherwise: boolean): boolean {
  const value = parameters[key] ?? otherwise;
  if (typeof value !== 'boolean') throw new RequestError(400, `"${key}" is neither true nor false`);
  return value;
}

/** A tensor in the protocol's metadata of a model; sizes that vary are -1, and so is what is no tensor of numbers. */
export function tensorMetadata({ name, dataType, dims }: ValueInfo): Record<string, unknown> {
  const type = elementTypeOf(dataType);
  return {
    name,
    datatype: type === null ? 'BYTES' : DATATYPES[type],
    shape: (dims ?? [-1]).map(dim => (typeof dim === 'number' ? dim : -1)),
  };
}
