/**
 * Random access to bytes that may not fit in memory. Offsets are plain numbers: exact to 2^53.
 */
export interface ByteSource {
  readonly length: number;
  /**
   * The bytes `[start, end)`, possibly a view of a larger buffer: not to be written to.
   * @throws RangeError when the range leaves the source
   */
  bytes(start: number, end: number): Uint8Array;
}

/** A source over bytes in memory; ranges are views, never copies. */
export class MemorySource implements ByteSource {
  constructor(private readonly data: Uint8Array) {}

  get length(): number {
    return this.data.length;
  }

  bytes(start: number, end: number): Uint8Array {
    checkRange(this, start, end);
    return this.data.subarray(start, end);
  }
}

/** @throws RangeError when `[start, end)` is not inside `source` */
export function checkRange(source: ByteSource, start: number, end: number): void {
  if (!(start >= 0 && start <= end && end <= source.length)) {
    throw new RangeError(`bytes ${start} to ${end} lie outside a source of ${source.length} bytes`);
  }
}
