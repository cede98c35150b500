import { readFileSync } from 'node:fs';
import { extname } from 'node:path';
import { InputError } from '../../rewriter/errors.js';
import { fitsDims } from '../../rewriter/onnx/element-size.js';
import { generateInputs, isConventional, takesPadding } from './generate-inputs.js';
import { decodeJsonTensors } from './json-tensors.js';
import type { ModelInput } from './model-inputs.js';
import { decodeNpy } from './npy.js';
import { decodeNpz } from './npz.js';
import { type TensorValue, tensorFrom, toNumbers } from './tensor.js';
import { TokenText } from './token-text.js';
import { readTokenizer } from './tokenizer.js';
import { checkVocabulary } from './vocabulary.js';

/** Inputs for the models to run on, at one or more lengths. */
export interface InputSource {
  /** For people: `generated (seed 1)`, `novel.txt, as bytes`, `novel.txt, as tokens of tokenizer.json`. */
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

/** What a user says of inputs. */
export interface InputChoice {
  /** Input file; null for generated inputs. */
  readonly inputs: string | null;
  /** Tokenizer of a text as input; null where its bytes are the ids. */
  readonly tokenizer: string | null;
}

/**
 * The chosen inputs, generated ones of a single batch row.
 * @throws InputError when the file cannot be read or does not fit the model
 */
export function chosenSource(
  { inputs: file, tokenizer }: InputChoice,
  inputs: readonly ModelInput[],
): InputSource {
  return file === null ? generatedSource(inputs, 'single') : fileSource(file, tokenizer, inputs);
}

/**
 * Inputs from a file: a NumPy archive (.npz) or a JSON document (.json) by input name, a NumPy array (.npy) for a
 * model that has one input to give, or any other file as a text.
 * Masks, positions and segment ids that the file lacks follow the conventions.
 * @param tokenizer the tokenizer's file; null where the ids are bytes
 * @throws InputError when the file cannot be read or does not fit the model
 */
export function fileSource(
  file: string,
  tokenizer: string | null,
  inputs: readonly ModelInput[],
): InputSource {
  const content = readTensors(file, tokenizer, inputs);
  if (content.kind === 'arrays') {
    const tensors = completeInputs(file, content.tensors, inputs);
    return { description: file, anyLength: false, longest: null, at: () => tensors };
  }
  const { text } = content;
  return {
    description: `${file}, as ${tokenizer === null ? 'bytes' : `tokens of ${tokenizer}`}`,
    anyLength: true,
    longest: text.longest,
    at: length => completeInputs(file, windowOf(text, 0, length ?? text.longest), inputs),
  };
}

/** What a file of inputs holds: arrays by name, or a text. */
export type FileContent =
  | { readonly kind: 'arrays'; readonly tensors: ReadonlyMap<string, TensorValue> }
  | { readonly kind: 'text'; readonly text: TokenText };

/**
 * Reads a NumPy archive (.npz), a JSON document (.json) or a NumPy array (.npy), or any other file as a text.
 * @param tokenizer the tokenizer's file; null where the ids are bytes
 * @throws InputError when a file cannot be read, or is a text and the model takes none
 */
export function readTensors(
  file: string,
  tokenizer: string | null,
  inputs: readonly ModelInput[],
): FileContent {
  const bytes = read(file);
  const format = formatOf(file);
  if (format !== undefined) return { kind: 'arrays', tensors: decode(file, format, bytes, inputs) };
  const input = textInput(file, inputs);
  const text =
    tokenizer === null
      ? TokenText.ofBytes(file, checkTakesBytes(file, input), bytes)
      : TokenText.tokenized(file, input, bytes, readTokenizer(tokenizer));
  return { kind: 'text', text };
}

/** A window of a text as the input that takes it. */
export function windowOf(text: TokenText, n: number, length: number): Map<string, TensorValue> {
  const { name, type } = text.input;
  return new Map([[name, tensorFrom(type, [1, length], text.window(n, length))]]);
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
      { file, remedy: 'Check the path; it takes a .npz, .npy, .json or text file.' },
      { cause: error },
    );
  }
}

/** A way to store arrays. */
interface ArrayFormat {
  /** How to write such a file. */
  readonly remedy: string;
  /** @throws Error with the reason when the bytes are no such file */
  decode(bytes: Uint8Array, inputs: readonly ModelInput[]): Map<string, TensorValue>;
}

const SAVEZ = 'Write it with numpy.savez(file, input_name=array, ...).';

const FORMATS: Readonly<Record<string, ArrayFormat>> = {
  '.npz': { remedy: SAVEZ, decode: decodeNpz },
  '.npy': {
    remedy: SAVEZ,
    decode: (bytes, inputs) => {
      const given = inputs.filter(input => !isConventional(input)).map(({ name }) => name);
      const [name] = given;
      if (given.length === 1) return new Map([[name!, decodeNpy(bytes)]]);
      throw new Error(`one array without a name, and the model takes ${given.join(', ') || 'none'}`);
    },
  },
  '.json': {
    remedy: 'Write {"input_name": [[1, 2, 3]], ...}.',
    decode: (bytes, inputs) => {
      const types = new Map(inputs.map(input => [input.name, input.type]));
      return decodeJsonTensors(new TextDecoder().decode(bytes), name => types.get(name));
    },
  },
};

/** Whether a file of inputs holds arrays, by its name; a text otherwise. */
export function holdsArrays(file: string): boolean {
  return formatOf(file) !== undefined;
}

function formatOf(file: string): ArrayFormat | undefined {
  return FORMATS[extname(file).toLowerCase()];
}

function decode(
  file: string,
  { remedy, decode: decodeArrays }: ArrayFormat,
  bytes: Uint8Array,
  inputs: readonly ModelInput[],
): Map<string, TensorValue> {
  try {
    return decodeArrays(bytes, inputs);
  } catch (error) {
    throw new InputError(`${file}: ${(error as Error).message}`, { file, remedy }, { cause: error });
  }
}

/** The inputs that take ids: `[batch, sequence]` of integers, and no mask or the like. */
export function idInputs(inputs: readonly ModelInput[]): ModelInput[] {
  return inputs.filter(
    input => input.dims.length === 2 && /^u?int/.test(input.type) && !isConventional(input),
  );
}

/** The input that takes the ids of a text: the only one of ids. */
function textInput(file: string, inputs: readonly ModelInput[]): ModelInput {
  const candidates = idInputs(inputs);
  const [ids] = candidates;
  if (ids !== undefined && candidates.length === 1) return ids;
  const why = ids === undefined ? 'none of its inputs' : 'more than one of its inputs';
  throw new InputError(`${file}: a text fits a model over tokens, but ${why} takes ids [batch, sequence]`, {
    file,
    remedy: 'Give the inputs by name in a .npz or .json file.',
  });
}

/** A model over bytes may have some more ids, for special tokens. */
const MOST_BYTE_IDS = 1024;

function checkTakesBytes(file: string, ids: ModelInput): ModelInput {
  const { name, vocabulary } = ids;
  if (vocabulary === null || (vocabulary >= 256 && vocabulary <= MOST_BYTE_IDS)) return ids;
  throw new InputError(
    `${file}: a text as bytes has 256 ids, but input "${name}" has ${vocabulary}, and there is no tokenizer.json beside the model`,
    {
      file,
      remedy: 'Give the tokenizer of the model with --tokenizer, or ids in a .npz or .json file.',
    },
  );
}

/**
 * Adds the inputs that follow from the others by convention, and checks the rest against the model.
 * @throws InputError when an input is missing, unknown, of another type or shape, or has ids that the model lacks
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
      if (!fitsDims(tensor.dims, input.dims)) {
        throw fail(
          `input "${input.name}" has shape [${tensor.dims.join(', ')}], the model takes [${input.dims.map(dim => dim ?? '?').join(', ')}]`,
          'Give it in the shape of the model.',
        );
      }
      const remedy = 'Give ids of the tokenizer that belongs to the model.';
      if (input.vocabulary !== null) checkVocabulary(file, input, toNumbers(tensor), remedy);
      return [input.name, tensor];
    }),
  );
}
