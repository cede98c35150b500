import type { ByteSource } from './byte-source.js';
import type { ByteRange, FieldRange } from './model-info.js';

/** How protobuf encodes the payload of a field (the low three bits of its tag). */
export const WireType = { varint: 0, fixed64: 1, bytes: 2, groupStart: 3, groupEnd: 4, fixed32: 5 } as const;
export type WireType = (typeof WireType)[keyof typeof WireType];

export interface Field extends FieldRange {
  readonly number: number;
  readonly wireType: WireType;
}

/** Bytes that are not protobuf, or not the message they should be. */
export class WireError extends Error {
  override readonly name = 'WireError';

  constructor(
    message: string,
    /** Where in the source. */
    readonly offset: number,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** Most bytes that a 64-bit varint takes. */
export const MAX_VARINT = 10;
const MAX_FIELD_NUMBER = 2 ** 29 - 1;

/**
 * The fields of the message in `range`, in order, reading tags and lengths only: payloads are passed over, so
 * the cost does not depend on their size.
 * @throws WireError when the bytes are not a sequence of whole fields
 */
export function* fields(source: ByteSource, range: ByteRange): Generator<Field> {
  for (let at = range.start; at < range.end; ) {
    const field = readField(source, at, range.end);
    yield field;
    at = field.end;
  }
}

function readField(source: ByteSource, start: number, limit: number): Field {
  const tag = readTag(source, start, limit);
  const field = { start, number: tag.number, wireType: tag.wireType };
  const fits = (body: number, length: number): Field => {
    if (length > limit - body) {
      throw new WireError(
        `field ${tag.number} claims ${length} bytes where ${limit - body} are left: truncated or not ONNX`,
        start,
      );
    }
    return { ...field, body, end: body + length };
  };
  switch (tag.wireType) {
    case WireType.varint:
      return { ...field, body: tag.end, end: readVarint(source, tag.end, limit).end };
    case WireType.fixed64:
      return fits(tag.end, 8);
    case WireType.fixed32:
      return fits(tag.end, 4);
    case WireType.bytes: {
      const length = readVarint(source, tag.end, limit);
      return fits(length.end, length.value);
    }
    case WireType.groupStart:
      return { ...field, body: tag.end, end: endOfGroup(source, tag, limit) };
    default:
      throw new WireError(`field ${tag.number} ends a group that never started`, start);
  }
}

/** Groups are obsolete and ONNX has none, but an unknown field may be one. */
function endOfGroup(source: ByteSource, opening: Tag, limit: number): number {
  const open = [opening.number];
  let at = opening.end;
  while (open.length > 0) {
    const tag = readTag(source, at, limit);
    if (tag.wireType === WireType.groupStart) {
      open.push(tag.number);
      at = tag.end;
    } else if (tag.wireType === WireType.groupEnd) {
      if (open.pop() !== tag.number) throw new WireError(`group ${tag.number} is not the innermost`, at);
      at = tag.end;
    } else {
      at = readField(source, at, limit).end;
    }
  }
  return at;
}

interface Tag {
  readonly number: number;
  readonly wireType: WireType;
  readonly end: number;
}

function readTag(source: ByteSource, start: number, limit: number): Tag {
  const { value, end } = readVarint(source, start, limit);
  const number = Math.floor(value / 8);
  const wireType = value % 8;
  if (number < 1 || number > MAX_FIELD_NUMBER || wireType > WireType.fixed32) {
    throw new WireError(`${value} is not a protobuf field tag`, start);
  }
  return { number, wireType: wireType as WireType, end };
}

/** An unsigned varint as the nearest double: exact to 2^53, which no length or tag exceeds. */
function readVarint(source: ByteSource, start: number, limit: number): { value: number; end: number } {
  const bytes = source.bytes(start, Math.min(start + MAX_VARINT, limit));
  let value = 0;
  let unit = 1;
  for (const [index, byte] of bytes.entries()) {
    value += (byte & 0x7f) * unit;
    if (byte < 0x80) return { value, end: start + index + 1 };
    unit *= 128;
  }
  throw new WireError(
    bytes.length === MAX_VARINT ? 'a varint is longer than 10 bytes' : 'the bytes end inside a varint',
    start,
  );
}

/**
 * The signed 64-bit varints of a packed field's payload.
 * @throws WireError when the last one is cut off or one is too long
 */
export function decodeVarints(bytes: Uint8Array, offset: number): bigint[] {
  const values: bigint[] = [];
  let value = 0n;
  let shift = 0n;
  for (const [index, byte] of bytes.entries()) {
    if (shift >= 7n * BigInt(MAX_VARINT))
      throw new WireError('a varint is longer than 10 bytes', offset + index);
    value |= BigInt(byte & 0x7f) << shift;
    shift += 7n;
    if (byte < 0x80) {
      values.push(BigInt.asIntN(64, value));
      value = 0n;
      shift = 0n;
    }
  }
  if (shift > 0n) throw new WireError('the bytes end inside a varint', offset + bytes.length);
  return values;
}

/** A base-128 varint of a nonnegative number below 2^53. */
export function encodeVarint(value: number): Uint8Array {
  const bytes: number[] = [];
  let rest = value;
  while (rest >= 128) {
    bytes.push((rest % 128) | 0x80);
    rest = Math.floor(rest / 128);
  }
  bytes.push(rest);
  return Uint8Array.from(bytes);
}
