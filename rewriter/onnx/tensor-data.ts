import { elementBits, tensorBytes } from './element-size.js';
import { openExternalTensor } from './external-data.js';
import { modelError } from './model-error.js';
import type { ModelInfo, TensorInfo, TensorStorage } from './model-info.js';
import { decodeVarints, fields, MAX_VARINT, WireError } from './wire.js';

const DEFAULT_LIMIT = 1024 * 1024;

/**
 * The elements of a small tensor in the form of `raw_data`: little-endian, row-major, types narrower than a
 * byte packed. The result has a buffer of its own, so a typed array of any width can view it.
 * @param limit most bytes to read; weights are longer than anything that a rewrite has to look at
 * @returns null when the tensor is longer than `limit`, holds strings, or has a type unknown here
 * @throws InputError when the data does not fit the shape, or is in a file that cannot be read
 */
export function readTensorData(
  tensor: TensorInfo,
  model: ModelInfo,
  limit: number = DEFAULT_LIMIT,
): Uint8Array<ArrayBuffer> | null {
  const expected = tensorBytes(tensor);
  const bits = elementBits(tensor.dataType);
  if (expected === null || bits === null || expected > limit) return null;
  const damaged = (why: string, cause?: unknown) =>
    modelError(model, `tensor '${tensor.name}' ${why}`, 'Export or download the model again.', cause);
  try {
    const bytes = read(tensor, model, expected, bits);
    if (bytes.length === expected) return bytes;
    throw damaged(`holds ${bytes.length} bytes where its shape [${tensor.dims}] needs ${expected}`);
  } catch (error) {
    throw error instanceof WireError ? damaged(`is malformed: ${error.message}`, error) : error;
  }
}

function read(tensor: TensorInfo, model: ModelInfo, expected: number, bits: number): Uint8Array<ArrayBuffer> {
  const { storage } = tensor;
  switch (storage.kind) {
    case 'empty':
      return new Uint8Array(0);
    case 'raw': {
      // One byte more than expected is enough to see that there are too many.
      const end = Math.min(storage.range.end, storage.range.start + expected + 1);
      return Uint8Array.from(model.source.bytes(storage.range.start, end));
    }
    case 'typed':
      return readTyped(storage, model, expected, bits);
    case 'external': {
      const { source, range } = openExternalTensor(model, { ...tensor, storage });
      return Uint8Array.from(source.bytes(range.start, range.end));
    }
  }
}

/** Typed fields hold fixed-size numbers as they are in `raw_data`, and integers as varints. */
function readTyped(
  storage: TensorStorage & { kind: 'typed' },
  model: ModelInfo,
  expected: number,
  bits: number,
): Uint8Array<ArrayBuffer> {
  const integers = storage.field !== 'float_data' && storage.field !== 'double_data';
  // An integer narrower than a byte is packed by the writer: each varint is one byte of the packed form.
  const width = Math.max(1, bits / 8);
  const excess = (at: number) => new WireError('more elements than its shape has', at);
  const bytes = new Uint8Array(expected);
  let count = 0;
  for (const run of storage.runs) {
    for (const field of fields(model.source, run)) {
      const longest = (integers ? MAX_VARINT : 1) * (expected - count);
      if (field.end - field.body > longest) throw excess(field.start);
      const payload = model.source.bytes(field.body, field.end);
      if (!integers) {
        bytes.set(payload, count);
        count += payload.length;
        continue;
      }
      for (const value of decodeVarints(payload, field.body)) {
        if (count === expected) throw excess(field.start);
        for (let i = 0; i < width; i++) bytes[count++] = Number((value >> BigInt(8 * i)) & 0xffn);
      }
    }
  }
  return bytes.slice(0, count);
}
