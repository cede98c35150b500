import { SeededRandom } from '../../custom-ops/seeded-random.js';
import type { ModelInput } from '../data/model-inputs.js';

/** Masked spans as in training: six bytes, each position starting one with this probability. */
const SPAN = 6;
const SPAN_PROBABILITY = 0.035;
const BYTES = 256;
/** Id of a hidden byte, the one after all bytes. */
const HIDDEN = BYTES;

/** Bytes as a model reads them, and those it has to predict: -1 where there is nothing to predict. */
export interface ByteTask {
  readonly ids: readonly number[];
  readonly targets: Int16Array;
}

/** Whether the ids that a model takes are bytes. */
export function takesBytes(input: ModelInput): boolean {
  const { vocabulary, dims } = input;
  return dims.length === 2 && (vocabulary === BYTES || vocabulary === HIDDEN + 1);
}

/** Every byte is to be predicted from those before it. */
export function nextByteTask(bytes: Uint8Array): ByteTask {
  const targets = new Int16Array(bytes.length).fill(-1);
  targets.set(bytes.subarray(1));
  return { ids: [...bytes], targets };
}

/** Spans of bytes are hidden, and to be predicted from the others. */
export function hiddenByteTask(bytes: Uint8Array): ByteTask {
  const random = new SeededRandom(0);
  const ids = [...bytes];
  const targets = new Int16Array(bytes.length).fill(-1);
  for (let start = 0; start < bytes.length; start++) {
    if (random.uniform() >= SPAN_PROBABILITY) continue;
    for (let n = start; n < Math.min(start + SPAN, bytes.length); n++) {
      ids[n] = HIDDEN;
      targets[n] = bytes[n]!;
    }
  }
  return { ids, targets };
}

/**
 * Mean of -log2 of the probability of the bytes to be predicted.
 * @param logits [1, length, classes]
 */
export function bitsPerByte(logits: ArrayLike<number>, { targets }: ByteTask): number {
  const classes = logits.length / targets.length;
  let bits = 0;
  let count = 0;
  targets.forEach((target, n) => {
    if (target < 0) return;
    let largest = Number.NEGATIVE_INFINITY;
    for (let c = 0; c < classes; c++) largest = Math.max(largest, logits[n * classes + c]!);
    let sum = 0;
    for (let c = 0; c < classes; c++) sum += Math.exp(logits[n * classes + c]! - largest);
    bits += (Math.log(sum) + largest - logits[n * classes + target]!) / Math.LN2;
    count++;
  });
  return bits / count;
}
