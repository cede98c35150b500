import { SeededRandom } from '../../custom-ops/seeded-random.js';
import type { ModelInput } from './model-inputs.js';

/** Id of a hidden byte in masked models over bytes: the one after all bytes. */
const HIDDEN_BYTE = 256;
/** Hidden spans as in training: six bytes, each position starting one with this probability. */
const SPAN = 6;
const SPAN_PROBABILITY = 0.035;

/** Bytes as a model reads them, and those it has to predict: -1 where there is nothing to predict. */
export interface ByteTask {
  readonly ids: readonly number[];
  readonly targets: Int16Array;
}

/** Positions where hidden spans start, and how many bytes each hides. */
export interface HiddenSpans {
  readonly starts: readonly number[];
  readonly span: number;
}

/** Whether the ids that a model takes are bytes. */
export function takesBytes({ vocabulary, dims }: ModelInput): boolean {
  return dims.length === 2 && (vocabulary === HIDDEN_BYTE || vocabulary === HIDDEN_BYTE + 1);
}

/** Every byte is to be predicted from those before it. */
export function nextByteTask(bytes: Uint8Array): ByteTask {
  const targets = new Int16Array(bytes.length).fill(-1);
  targets.set(bytes.subarray(1));
  return { ids: [...bytes], targets };
}

/** Spans of bytes are hidden, and to be predicted from the others. A span at the end goes on at the beginning. */
export function hiddenByteTask(bytes: Uint8Array, { starts, span }: HiddenSpans): ByteTask {
  const ids = [...bytes];
  const targets = new Int16Array(bytes.length).fill(-1);
  for (const start of starts) {
    for (let shift = 0; shift < span; shift++) {
      const position = (start + shift) % bytes.length;
      ids[position] = HIDDEN_BYTE;
      targets[position] = bytes[position]!;
    }
  }
  return { ids, targets };
}

/** Spans drawn as in training. */
export function drawHiddenSpans(length: number, seed: number): HiddenSpans {
  const random = new SeededRandom(seed);
  const positions = Array.from({ length }, (_, position) => position);
  return { starts: positions.filter(() => random.uniform() < SPAN_PROBABILITY), span: SPAN };
}

/**
 * Mean of -log2 of the probability of the bytes to be predicted.
 * @param logits [1, length, classes]
 */
export function bitsPerByte(logits: ArrayLike<number>, { targets }: Pick<ByteTask, 'targets'>): number {
  const classes = logits.length / targets.length;
  let bits = 0;
  let count = 0;
  targets.forEach((target, position) => {
    if (target < 0) return;
    bits += surprisal(logits, target, position * classes, classes);
    count++;
  });
  return bits / count;
}

/** -log2 of the probability of a class, by the `classes` logits that begin at `offset`. */
export function surprisal(
  logits: ArrayLike<number>,
  target: number,
  offset = 0,
  classes = logits.length,
): number {
  let largest = Number.NEGATIVE_INFINITY;
  for (let c = offset; c < offset + classes; c++) largest = Math.max(largest, logits[c]!);
  let sum = 0;
  for (let c = offset; c < offset + classes; c++) sum += Math.exp(logits[c]! - largest);
  return (Math.log(sum) + largest - logits[offset + target]!) / Math.LN2;
}
