import { readFileSync } from 'node:fs';
import { extname } from 'node:path';
import { InputError } from '../../rewriter/errors.js';
import { generateInputs, isConventional, takesPadding } from './generate-inputs.js';
import { decodeJsonTensors } from './json-tensors.js';
import type { ModelInput } from './model-inputs.js';
import { decodeNpz } from './npz.js';
import { type TensorValue, tensorFrom } from './tensor.js';

/** Inputs for the models to run on, at one or more lengths. */
export interface InputSource {
  /** For people: `generated (seed 1)`, `novel.txt, as bytes`. */
  readonly description: string;
  /** Whether inputs of any length can be had; otherwise `at` takes null only. */
  readonly anyLength: boolean;
  /** Longest length that `at` can give, where there is one. */
  readonly longest: number | null;
  /**
   * Inputs of `length` tokens; null for the only length there is.
   * @throws InputError when the source cannot give that length
   */
  at(length: number | null): Map<string, TensorValue>;
}

const SEED = 1;

/**
 * Random inputs that respect the model's types and conventions; `padded` adds a second batch row that ends in
 * padding where a mask can say so.
 */
export function generatedSource(inputs: readonly ModelInput[], rows: 'padded' | 'single'): InputSource {
  const padded = rows === 'padded' && takesPadding(inputs);
  const anyLength = hasDynamicSequence(inputs);
  return {
    description: `generated (seed ${SEED})`,
    anyLength,
    longest: null,
    at: length => generateInputs(inputs, { length: length ?? 1, batch: padded ? 2 : 1, padded, seed: SEED }),
  };
}

/**
 * Inputs from a file: a NumPy archive (.npz) or a JSON document (.json) by input name, or any other file as
 * bytes for a byte-level model. Masks, positions and segment ids that the file lacks follow the conventions.
 * @throws InputError when the file cannot be read or does not fit the model
 */
export function fileSource(file: string, inputs: readonly ModelInput[]): InputSource {
  const content = readTensors(file, inputs);
  if (content.kind === 'arrays') {
    const tensors = completeInputs(file, content.tensors, inputs);
    return { description: file, anyLength: false, longest: null, at: () => tensors };
  }
  const { ids, bytes } = content;
  return {
    description: `${file}, as bytes`,
    anyLength: true,
    longest: bytes.length,
    at: length => {
      const count = length ?? bytes.length;
      if (count > bytes.length) {
        throw new InputError(`${file}: only ${bytes.length} bytes, not ${count}`, {
          file,
          remedy: 'Give a longer text or a shorter --length.',
        });
      }
      const text = tensorFrom(ids.type, [1, count], bytes.subarray(0, count));
      return completeInputs(file, new Map([[ids.name, text]]), inputs);
    },
  };
}

/** What a file of inputs holds: arrays by name, or a text whose bytes are the ids of one input. */
export type FileContent =
  | { readonly kind: 'arrays'; readonly tensors: ReadonlyMap<string, TensorValue> }
  | { readonly kind: 'text'; readonly bytes: Uint8Array; readonly ids: ModelInput };

/**
 * Reads a NumPy archive (.npz) or a JSON document (.json), or any other file as bytes for a byte-level model.
 * @throws InputError when the file cannot be read, or is a text and the model takes none
 */
export function readTensors(file: string, inputs: readonly ModelInput[]): FileContent {
  const bytes = read(file);
  const extension = extname(file).toLowerCase();
  return extension === '.npz' || extension === '.json'
    ? { kind: 'arrays', tensors: decode(file, extension, bytes, inputs) }
    : { kind: 'text', bytes, ids: byteInput(file, inputs) };
}

/** Length of the inputs: the size of the second axis of the first input that has one. */
export function sequenceLength(tensors: ReadonlyMap<string, TensorValue>): number | null {
  for (const { dims } of tensors.values()) if (dims.length === 2) return dims[1]!;
  return null;
}

function hasDynamicSequence(inputs: readonly ModelInput[]): boolean {
  const at = (length: number) =>
    [...generateInputs(inputs, { length, batch: 1, padded: false, seed: SEED }).values()].map(tensor =>
      tensor.dims.join(),
    );
  return at(2).join(';') !== at(3).join(';');
}

function read(file: string): Uint8Array {
  try {
    return readFileSync(file);
  } catch (error) {
    throw new InputError(
      `${file}: ${(error as NodeJS.ErrnoException).code === 'ENOENT' ? 'no such file' : (error as Error).message}`,
      { file, remedy: 'Give --inputs a .npz, .json or text file.' },
      { cause: error },
    );
  }
}

function decode(
  file: string,
  extension: '.npz' | '.json',
  bytes: Uint8Array,
  inputs: readonly ModelInput[],
): Map<string, TensorValue> {
  try {
    if (extension === '.npz') return decodeNpz(bytes);
    const types = new Map(inputs.map(input => [input.name, input.type]));
    return decodeJsonTensors(new TextDecoder().decode(bytes), name => types.get(name));
  } catch (error) {
    throw new InputError(
      `${file}: ${(error as Error).message}`,
      {
        file,
        remedy:
          extension === '.npz'
            ? 'Write it with numpy.savez(file, input_name=array, ...).'
            : 'Write {"input_name": [[1, 2, 3]], ...}.',
      },
      { cause: error },
    );
  }
}

/** The inputs that take ids: `[batch, sequence]` of integers, and no mask or the like. */
export function idInputs(inputs: readonly ModelInput[]): ModelInput[] {
  return inputs.filter(
    input => input.dims.length === 2 && /^u?int/.test(input.type) && !isConventional(input),
  );
}

/** The input that takes the bytes of a text: the only one of ids. */
function byteInput(file: string, inputs: readonly ModelInput[]): ModelInput {
  const candidates = idInputs(inputs);
  const [ids] = candidates;
  if (ids === undefined || candidates.length > 1) {
    const why = ids === undefined ? 'none of its inputs' : 'more than one of its inputs';
    throw new InputError(
      `${file}: text as bytes fits a byte-level model, but ${why} takes ids [batch, sequence]`,
      {
        file,
        remedy: 'Give the inputs by name in a .npz or .json file.',
      },
    );
  }
  if (ids.vocabulary !== null && ids.vocabulary < 256) {
    throw new InputError(`${file}: bytes go up to 255, but input "${ids.name}" has ${ids.vocabulary} ids`, {
      file,
      remedy: 'Tokenize the text and give the ids in a .npz or .json file.',
    });
  }
  return ids;
}

/**
 * Adds the inputs that follow from the others by convention, and checks the rest against the model.
 * @throws InputError when an input is missing, unknown, or of another type or shape
 */
export function completeInputs(
  file: string,
  given: ReadonlyMap<string, TensorValue>,
  inputs: readonly ModelInput[],
): Map<string, TensorValue> {
  const fail = (message: string, remedy: string) => new InputError(`${file}: ${message}`, { file, remedy });
  const names = inputs.map(input => input.name);
  for (const name of given.keys()) {
    if (!names.includes(name)) {
      throw fail(`the model has no input "${name}"`, `Its inputs are ${names.join(', ')}.`);
    }
  }
  const [batch, length] = [...given.values()].find(tensor => tensor.dims.length === 2)?.dims ?? [1, 1];
  const generated = generateInputs(inputs, { batch: batch!, length: length!, padded: false, seed: SEED });
  return new Map(
    inputs.map(input => {
      const tensor = given.get(input.name);
      if (tensor === undefined) {
        if (isConventional(input)) return [input.name, generated.get(input.name)!];
        throw fail(`input "${input.name}" is missing`, `Give all inputs of the model: ${names.join(', ')}.`);
      }
      if (tensor.type !== input.type) {
        throw fail(
          `input "${input.name}" is ${tensor.type}, the model takes ${input.type}`,
          `Convert it, in NumPy with .astype("${input.type}").`,
        );
      }
      if (!fits(tensor.dims, input.dims)) {
        throw fail(
          `input "${input.name}" has shape [${tensor.dims.join(', ')}], the model takes [${input.dims.map(dim => dim ?? '?').join(', ')}]`,
          'Give it in the shape of the model.',
        );
      }
      return [input.name, tensor];
    }),
  );
}

function fits(dims: readonly number[], declared: ModelInput['dims']): boolean {
  return (
    dims.length === declared.length &&
    dims.every((dim, axis) => typeof declared[axis] !== 'number' || dim === declared[axis])
  );
}
