import { readFileSync } from 'node:fs';
import {
  type ByteTask,
  drawHiddenSpans,
  type HiddenSpans,
  hiddenByteTask,
} from '../../cli/data/byte-task.js';

/** A stretch of text as a byte-level model is fed it, and the bytes to be predicted (see ByteTask). */
export interface ByteWindow {
  readonly ids: BigInt64Array;
  readonly targets: ByteTask['targets'];
}

/** A window for a model that predicts the next byte; the one after the window is the last of those. */
export function nextByteWindow(text: string, start: number, length: number): ByteWindow {
  const bytes = bytesOf(text, start, length + 1);
  return {
    ids: BigInt64Array.from(bytes.subarray(0, length), BigInt),
    targets: Int16Array.from(bytes.subarray(1)),
  };
}

/**
 * A window for a model that predicts masked bytes.
 * @param masked null draws the spans as in training
 */
export function maskedWindow(
  text: string,
  start: number,
  length: number,
  masked: HiddenSpans | null,
): ByteWindow {
  const spans = masked ?? drawHiddenSpans(length, start);
  const { ids, targets } = hiddenByteTask(bytesOf(text, start, length), spans);
  return { ids: BigInt64Array.from(ids, BigInt), targets };
}

function bytesOf(text: string, start: number, length: number): Uint8Array {
  const bytes = readFileSync(text).subarray(start, start + length);
  if (bytes.length < length) throw new Error(`${text} has no ${length} bytes from byte ${start} on`);
  return bytes;
}
