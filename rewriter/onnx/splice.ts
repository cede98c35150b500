import type { ByteSource } from './byte-source.js';
import { type Pieces, totalLength } from './bytes.js';
import type { ByteRange, FieldRange } from './model-info.js';
import { encodeVarint } from './wire.js';

/** New bytes in the place of old ones; an empty range inserts, no pieces delete. */
export interface Splice {
  readonly range: ByteRange;
  readonly pieces: Pieces;
  /** The fields whose payload contains `range`, outermost first. */
  readonly enclosing: readonly FieldRange[];
}

/** Output in order: ranges of the source to be copied, and new bytes. */
export type Segment = ByteRange | Uint8Array;

/**
 * Applies splices to a protobuf message, correcting the lengths of the fields around them. Everything else
 * is copied: without splices the result is the whole source. Insertions at one place keep their order.
 * @throws RangeError when splices overlap
 */
export function spliceMessage(source: ByteSource, splices: readonly Splice[]): Segment[] {
  const all = [...splices, ...correctedLengths(source, splices)].sort(inFileOrder);
  const segments: Segment[] = [];
  let at = 0;
  const copyTo = (end: number) => {
    if (end < at) throw new RangeError(`overlapping splices at byte ${end}`);
    if (end > at) segments.push({ start: at, end });
  };
  for (const { range, pieces } of all) {
    copyTo(range.start);
    segments.push(...pieces);
    at = range.end;
  }
  copyTo(source.length);
  return segments;
}

/** Bytes that the segments add up to. */
export function segmentsLength(segments: readonly Segment[]): number {
  return segments.reduce((sum, s) => sum + (s instanceof Uint8Array ? s.length : s.end - s.start), 0);
}

/**
 * At one offset an insertion comes before what follows it, and one at the end of an inner field belongs
 * before one at the end of the outer.
 */
function inFileOrder(a: Splice, b: Splice): number {
  const insertion = ({ range }: Splice) => (range.start === range.end ? 0 : 1);
  return (
    a.range.start - b.range.start || insertion(a) - insertion(b) || b.enclosing.length - a.enclosing.length
  );
}

/** Splices that give each enclosing field its new length; a longer length in turn lengthens the fields around. */
function correctedLengths(source: ByteSource, splices: readonly Splice[]): Splice[] {
  const changed = new Map<number, { field: FieldRange; around: readonly FieldRange[]; growth: number }>();
  const grow = (enclosing: readonly FieldRange[], growth: number) => {
    for (const [depth, field] of enclosing.entries()) {
      const entry = changed.get(field.start) ?? { field, around: enclosing.slice(0, depth), growth: 0 };
      entry.growth += growth;
      changed.set(field.start, entry);
    }
  };
  for (const { range, pieces, enclosing } of splices)
    grow(enclosing, totalLength(pieces) - (range.end - range.start));

  const innermostFirst = [...changed.values()].sort((a, b) => b.around.length - a.around.length);
  return innermostFirst.flatMap(entry => {
    if (entry.growth === 0) return [];
    const { field, around } = entry;
    const range = { start: tagEnd(source, field), end: field.body };
    const length = encodeVarint(field.end - field.body + entry.growth);
    grow(around, length.length - (range.end - range.start));
    return [{ range, pieces: [length], enclosing: around }];
  });
}

/** Where the tag of a length-delimited field ends and its length begins. */
function tagEnd(source: ByteSource, field: FieldRange): number {
  const head = source.bytes(field.start, field.body);
  return field.start + head.findIndex(byte => byte < 0x80) + 1;
}
