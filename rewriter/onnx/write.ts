import type { ByteSource } from './byte-source.js';
import { type Segment, segmentsLength } from './splice.js';

/** Longest piece of a file that is in memory at a time. */
const CHUNK = 1024 * 1024;

/** The bytes of the segments in order, ranges of the source in pieces of bounded size. */
export function* segmentBytes(source: ByteSource, segments: readonly Segment[]): Generator<Uint8Array> {
  for (const segment of segments) {
    if (segment instanceof Uint8Array) yield segment;
    else {
      for (let at = segment.start; at < segment.end; at += CHUNK) {
        yield source.bytes(at, Math.min(at + CHUNK, segment.end));
      }
    }
  }
}

/** The edited model in memory, for browsers and tests. */
export function writeToMemory(source: ByteSource, segments: readonly Segment[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(segmentsLength(segments));
  let at = 0;
  for (const bytes of segmentBytes(source, segments)) {
    whole.set(bytes, at);
    at += bytes.length;
  }
  return whole;
}
