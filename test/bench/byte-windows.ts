import { readFileSync } from 'node:fs';
import { SeededRandom } from '../../custom-ops/seeded-random.js';

const MASK_ID = 256;
const VOCABULARY = 256;
const SPAN = 6;
const SPAN_PROBABILITY = 0.035;

/** What a byte-level model is fed, and the bytes that it has to predict: -1 where there is nothing to predict. */
export interface ByteWindow {
  readonly ids: BigInt64Array;
  readonly targets: Int16Array;
}

/** Starts of the masked spans of each window: `{ length, span, starts }`. */
export interface MaskStarts {
  readonly length: number;
  readonly span: number;
  readonly starts: readonly (readonly number[])[];
}

/** A window for a model that predicts the next byte. */
export function nextByteWindow(text: string, start: number, length: number): ByteWindow {
  const bytes = bytesOf(text, start, length + 1);
  return {
    ids: BigInt64Array.from(bytes.subarray(0, length), BigInt),
    targets: Int16Array.from(bytes.subarray(1)),
  };
}

/**
 * A window for a model that predicts masked bytes.
 * @param masked positions where a span starts; null draws them as in training
 */
export function maskedWindow(
  text: string,
  start: number,
  length: number,
  masked: { readonly starts: readonly number[]; readonly span: number } | null,
): ByteWindow {
  const bytes = bytesOf(text, start, length);
  const ids = BigInt64Array.from(bytes, BigInt);
  const targets = new Int16Array(length).fill(-1);
  const { starts, span } = masked ?? { starts: randomStarts(start, length), span: SPAN };
  for (const first of starts) {
    for (let n = first; n < first + span; n++) {
      ids[n % length] = BigInt(MASK_ID);
      targets[n % length] = bytes[n % length]!;
    }
  }
  return { ids, targets };
}

function randomStarts(seed: number, length: number): number[] {
  const random = new SeededRandom(seed);
  return Array.from({ length }, (_, n) => n).filter(() => random.uniform() < SPAN_PROBABILITY);
}

function bytesOf(text: string, start: number, length: number): Uint8Array {
  const bytes = readFileSync(text).subarray(start, start + length);
  if (bytes.length < length) throw new Error(`${text} has no ${length} bytes from byte ${start} on`);
  return bytes;
}

/** Mean of -log2 of the probability of the targets. */
export function bitsPerByte(logits: Float32Array, { targets }: ByteWindow): number {
  let total = 0;
  let count = 0;
  targets.forEach((target, n) => {
    if (target < 0) return;
    total += surprisal(logits.subarray(n * VOCABULARY, (n + 1) * VOCABULARY), target);
    count++;
  });
  return total / count;
}

/** -log2 of the probability that `logits` give to a byte. */
export function surprisal(logits: Float32Array, byte: number): number {
  const max = logits.reduce((a, b) => Math.max(a, b));
  const sum = logits.reduce((total, logit) => total + Math.exp(logit - max), 0);
  return (Math.log(sum) + max - logits[byte]!) / Math.LN2;
}
