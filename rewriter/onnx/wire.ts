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
  const head = new Head(source, start, limit);
  const { number, wireType } = head.tag();
  const length = payloadLength(head, wireType);
  const body = head.offset;
  if (length === null) return { start, body, end: endOfGroup(source, number, body, limit), number, wireType };
  if (length > limit - body) {
    throw new WireError(
      `field ${number} claims ${length} bytes where ${limit - body} are left: truncated or not ONNX`,
      start,
    );
  }
  return { start, body, end: body + length, number, wireType };
}

/** Null for a group, whose length is only known from its end. A length of bytes is read, a varint is not. */
function payloadLength(head: Head, wireType: WireType): number | null {
  switch (wireType) {
    case WireType.varint:
      return head.varintLength();
    case WireType.fixed64:
      return 8;
    case WireType.fixed32:
      return 4;
    case WireType.bytes:
      return head.varint();
    case WireType.groupStart:
      return null;
    case WireType.groupEnd:
      throw new WireError('a group ends that never started', head.offset);
  }
}

/** Groups are obsolete and ONNX has none, but an unknown field may be one. */
function endOfGroup(source: ByteSource, group: number, start: number, limit: number): number {
  const open = [group];
  let at = start;
  while (open.length > 0) {
    const head = new Head(source, at, limit);
    const { number, wireType } = head.tag();
    if (wireType === WireType.groupEnd && open.pop() !== number) {
      throw new WireError(`group ${number} ends inside another one`, at);
    }
    if (wireType === WireType.groupStart) open.push(number);
    const bounds = wireType === WireType.groupStart || wireType === WireType.groupEnd;
    at = bounds ? head.offset : readField(source, at, limit).end;
  }
  return at;
}

/** The first bytes of a field: its tag, and its length or value. */
class Head {
  private readonly bytes: Uint8Array;
  private at = 0;

  constructor(
    source: ByteSource,
    private readonly start: number,
    limit: number,
  ) {
    this.bytes = source.bytes(start, Math.min(start + 2 * MAX_VARINT, limit));
  }

  /** Where in the source the next byte is. */
  get offset(): number {
    return this.start + this.at;
  }

  tag(): { readonly number: number; readonly wireType: WireType } {
    const value = this.varint();
    const number = Math.floor(value / 8);
    const wireType = value % 8;
    if (number < 1 || number > MAX_FIELD_NUMBER || wireType > WireType.fixed32) {
      throw new WireError(`${value} is not a protobuf field tag`, this.start);
    }
    return { number, wireType: wireType as WireType };
  }

  /** An unsigned varint as the nearest double: exact to 2^53, which no length or tag exceeds. */
  varint(): number {
    const end = this.at + this.varintLength();
    let value = 0;
    for (let unit = 1; this.at < end; unit *= 128) value += (this.bytes[this.at++]! & 0x7f) * unit;
    return value;
  }

  /** Bytes of the varint that comes next. */
  varintLength(): number {
    for (let length = 1; length <= MAX_VARINT; length++) {
      const byte = this.bytes[this.at + length - 1];
      if (byte === undefined) throw new WireError('the bytes end inside a varint', this.offset);
      if (byte < 0x80) return length;
    }
    throw new WireError(`a varint is longer than ${MAX_VARINT} bytes`, this.offset);
  }
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
      throw new WireError(`a varint is longer than ${MAX_VARINT} bytes`, offset + index);
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

/**
 * A base-128 varint of a 64-bit integer; negative ones take ten bytes.
 * @throws RangeError when a number is not an integer
 */
export function encodeVarint(value: number | bigint): Uint8Array {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, BigInt(value));
  while (rest >= 128n) {
    bytes.push(Number(rest & 0x7fn) | 0x80);
    rest >>= 7n;
  }
  bytes.push(Number(rest));
  return Uint8Array.from(bytes);
}
