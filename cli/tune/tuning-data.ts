import { createHash } from 'node:crypto';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { InputError } from '../../rewriter/errors.js';
import { completeInputs, idInputs, readTensors, sequenceLength, windowOf } from '../data/input-source.js';
import type { ModelInput } from '../data/model-inputs.js';
import { sliceTensor } from '../data/slice-tensor.js';
import { type TensorValue, tensorFrom, toNumbers } from '../data/tensor.js';

/** One run of the model on the user's data. */
export interface DataWindow {
  /** Where it comes from, for people and as a stable name: `novel.txt at 8192`. */
  readonly name: string;
  readonly feeds: ReadonlyMap<string, TensorValue>;
  /** Arrays of the file that are no inputs of the model: labels, and whatever else a metric wants. */
  readonly extras: ReadonlyMap<string, TensorValue>;
}

/** Windows of one length, half of them to calibrate on. */
export interface TuningData {
  /** Tokens; null for inputs without a sequence. */
  readonly length: number | null;
  readonly calibration: readonly DataWindow[];
  /** Never looked at before a plan is checked. */
  readonly heldOut: readonly DataWindow[];
  /** Of everything in the windows. */
  readonly hash: string;
}

export interface DataRequest {
  readonly files: readonly string[];
  /** Tokenizer of texts; null where their bytes are the ids. */
  readonly tokenizer: string | null;
  /** Tokens of a window; null takes arrays at the length they have. */
  readonly length: number | null;
  /** Windows to calibrate on, and as many held out, where there are that many. */
  readonly windows: number;
  readonly seed: number;
  /** Hides spans of ids for the model to predict; null leaves the ids as they are. */
  readonly hide: MaskedSpans | null;
}

export const DEFAULT_WINDOWS = 16;
export const DEFAULT_SEED = 1;
/** BERT's. */
export const DEFAULT_HIDDEN_SHARE = 0.15;

export interface MaskedSpans {
  /** The id that stands for a hidden one. */
  readonly id: number;
  /** Neighboring ids hidden together. */
  readonly span: number;
  /** Share of the ids that is hidden, where spans do not overlap. */
  readonly share: number;
}

/** The array of a file that says what the model should predict, as transformers names it. */
export const LABELS = 'labels';
/** A label that does not count. */
export const IGNORED_LABEL = -100;

/**
 * Cuts the user's files into windows, picks some evenly over all of them, and deals them by `seed` into
 * windows to calibrate on and windows held out.
 * @throws InputError when a file is bad, the lengths differ, or there are fewer than two windows
 */
export function readTuningData(request: DataRequest, inputs: readonly ModelInput[]): TuningData {
  const { windows, length } = pickWindows(request, inputs);
  if (windows.length < 2) {
    throw tooShort(request, windows.length, ', and tuning takes two, one to calibrate on and one held out');
  }
  const half = windows.length / 2;
  return {
    length,
    calibration: windows.slice(0, half),
    heldOut: windows.slice(half),
    hash: hashOf(windows),
  };
}

/**
 * The windows that {@link readTuningData} calibrates on; the only window there is, where there is one.
 * @throws InputError when a file is bad, the lengths differ, or there is no window
 */
export function readCalibrationWindows(
  request: DataRequest,
  inputs: readonly ModelInput[],
): { readonly length: number | null; readonly windows: readonly DataWindow[] } {
  const { windows, length } = pickWindows(request, inputs);
  if (windows.length === 0) throw tooShort(request, 0, '');
  return { length, windows: windows.slice(0, Math.ceil(windows.length / 2)) };
}

/** Up to two times `request.windows`, in an order that depends on the seed: an even number, or the only one. */
function pickWindows(
  request: DataRequest,
  inputs: readonly ModelInput[],
): { readonly length: number | null; readonly windows: readonly DataWindow[] } {
  const { files, seed, windows, hide } = request;
  const places = files.flatMap(file => placesIn(file, request, inputs));
  const lengths = [...new Set(places.map(({ length }) => length))];
  if (lengths.length > 1) {
    throw new InputError(`--data: the files hold sequences of different lengths (${lengths.join(', ')})`, {
      remedy: 'Cut them to one with --length.',
    });
  }
  const random = new SeededRandom(seed);
  const even = places.length - (places.length % 2);
  const count = Math.min(2 * windows, even || places.length);
  const picked = Array.from({ length: count }, (_, i) => Math.floor(((i + 0.5) * places.length) / count));
  for (let i = picked.length - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [picked[i], picked[j]] = [picked[j]!, picked[i]!];
  }
  const read = picked.map(index => {
    const window = withNumbers(places[index]!.read());
    return hide === null ? window : hideSpans(window, hide, new SeededRandom(seed + index), inputs);
  });
  return { length: lengths[0] ?? null, windows: read };
}

/** @throws InputError when the window has elements that are no numbers: nothing that a model makes of them is one */
function withNumbers(window: DataWindow): DataWindow {
  for (const [name, tensor] of window.feeds) {
    if (!tensor.type.startsWith('float')) continue;
    const values = toNumbers(tensor);
    for (let i = 0; i < values.length; i++) {
      if (!Number.isNaN(values[i])) continue;
      throw new InputError(`${window.name}: input "${name}" has NaN among its elements`, {
        remedy: 'Leave this window out of the data, or repair it.',
      });
    }
  }
  return window;
}

function tooShort({ files, length }: DataRequest, windows: number, needed: string): InputError {
  const at = length === null ? '' : ` of ${length} tokens`;
  return new InputError(
    `${files.join(', ')}: the data is too short: ${windows === 0 ? 'no window' : 'one window'}${at}${needed}`,
    { file: files[0]!, remedy: 'Give more data or a shorter --length.' },
  );
}

/** A window that has not been read out of its file. */
interface Place {
  readonly length: number | null;
  read(): DataWindow;
}

function placesIn(file: string, { tokenizer, length }: DataRequest, inputs: readonly ModelInput[]): Place[] {
  const content = readTensors(file, tokenizer, inputs);
  if (content.kind === 'text') {
    if (length === null) {
      throw new InputError(`${file}: a text has no length of its own`, {
        file,
        remedy: 'Give --length, the tokens of a window of it.',
      });
    }
    const { text } = content;
    return Array.from({ length: text.count(length) }, (_, n) => ({
      length,
      read: () => ({
        name: `${file} at ${text.startOf(n, length)}`,
        feeds: completeInputs(file, windowOf(text, n, length), inputs),
        extras: new Map(),
      }),
    }));
  }
  const { tensors } = content;
  const whole = sequenceLength(tensors);
  if (length !== null && (whole === null || whole < length)) {
    throw new InputError(
      `${file}: ${whole === null ? 'the arrays have no sequence axis to cut' : `the sequences have ${whole} tokens, not ${length}`}`,
      {
        file,
        remedy: whole === null ? 'Leave --length out.' : 'Give longer sequences or a shorter --length.',
      },
    );
  }
  const rows = rowsToSplit(tensors, inputs);
  const parts = whole === null || length === null ? 1 : Math.floor(whole / length);
  return Array.from({ length: rows * parts }, (_, n) => ({
    length: length ?? whole,
    read: () => {
      const row = Math.floor(n / parts);
      const start = (n % parts) * (length ?? 0);
      const cut = (tensor: TensorValue): TensorValue => {
        const one = rows > 1 ? sliceTensor(tensor, 0, row, row + 1) : tensor;
        const long = length !== null && one.dims[1] === whole;
        return long ? sliceTensor(one, 1, start, start + length) : one;
      };
      const names = new Set(inputs.map(({ name }) => name));
      const all = [...tensors].map(([name, tensor]) => [name, cut(tensor)] as const);
      return {
        name: `${file}, row ${row} at ${start}`,
        feeds: completeInputs(file, new Map(all.filter(([name]) => names.has(name))), inputs),
        extras: new Map(all.filter(([name]) => !names.has(name))),
      };
    },
  }));
}

/** Batch rows that can stand alone: all of them where every array has them and no input fixes their number. */
function rowsToSplit(tensors: ReadonlyMap<string, TensorValue>, inputs: readonly ModelInput[]): number {
  const counts = new Set([...tensors.values()].map(({ dims }) => dims[0] ?? 1));
  const fixed = inputs.some(({ dims }) => typeof dims[0] === 'number' && dims[0] !== 1);
  const [rows] = counts;
  return counts.size === 1 && !fixed ? rows! : 1;
}

/** Hides runs of ids and makes labels of them: a masked language model's task. */
function hideSpans(
  window: DataWindow,
  { id, span, share }: MaskedSpans,
  random: SeededRandom,
  inputs: readonly ModelInput[],
): DataWindow {
  const [input] = idInputs(inputs);
  if (input === undefined) {
    throw new InputError('--mask-id: the model has no input of ids to hide', { remedy: 'Leave it out.' });
  }
  const ids = window.feeds.get(input.name)!;
  if (input.vocabulary !== null && id >= input.vocabulary) {
    throw new InputError(`--mask-id ${id}: input "${input.name}" has ids up to ${input.vocabulary - 1}`, {
      remedy: 'Give the id that the model was trained with for hidden tokens.',
    });
  }
  const original = toNumbers(ids);
  const labels = new Float64Array(original.length).fill(IGNORED_LABEL);
  const hidden = Float64Array.from(original);
  for (let start = 0; start < original.length; start++) {
    if (random.uniform() >= share / span) continue;
    for (let i = start; i < Math.min(start + span, original.length); i++) {
      labels[i] = original[i]!;
      hidden[i] = id;
    }
  }
  return {
    ...window,
    feeds: new Map([...window.feeds, [input.name, tensorFrom(ids.type, ids.dims, hidden)]]),
    extras: new Map([...window.extras, [LABELS, tensorFrom('int64', ids.dims, labels)]]),
  };
}

function hashOf(windows: readonly DataWindow[]): string {
  const hash = createHash('sha256');
  for (const { feeds, extras } of windows) {
    for (const [name, { type, dims, data }] of [...feeds, ...extras]) {
      hash.update(`${name} ${type} ${dims.join()}\n`);
      hash.update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    }
  }
  return hash.digest('hex');
}
