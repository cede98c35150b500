import { existsSync, readFileSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers';
import { InputError } from '../../rewriter/errors.js';
import { isRecord } from '../../rewriter/is-record.js';

/** Turns text into the ids that a model was trained on. */
export interface Tokenizer {
  /** @returns the ids of `text` alone, without the special tokens around it */
  encode(text: string): readonly number[];
  /** Special tokens that stand in front of a text, such as `[CLS]` or the beginning of a sequence. */
  readonly before: readonly number[];
  /** Special tokens behind it, such as `[SEP]`. */
  readonly after: readonly number[];
}

const FILE = 'tokenizer.json';
/** Settings that some tokenizers leave out of their main file. */
const CONFIG = 'tokenizer_config.json';

/**
 * The tokenizer file of a model: the one given (or in the folder given), or `tokenizer.json` beside the model or one
 * folder up, where Optimum and transformers.js put it.
 * @returns null when none is given and none is there
 * @throws InputError when what is given is not there
 */
export function findTokenizer(model: string, given: string | undefined): string | null {
  if (given === undefined) {
    const folder = dirname(model);
    return (
      [folder, join(folder, '..')].map(place => join(place, FILE)).find(file => existsSync(file)) ?? null
    );
  }
  const isFolder = statSync(given, { throwIfNoEntry: false })?.isDirectory() === true;
  const file = isFolder ? join(given, FILE) : given;
  if (existsSync(file)) return file;
  throw new InputError(`--tokenizer: ${file}: no such file`, {
    file,
    remedy: 'Give the tokenizer.json of the model, or the folder that it is in.',
  });
}

/**
 * A tokenizer in the format of Hugging Face's `tokenizer.json`.
 * @throws InputError when the file is not one
 */
export function readTokenizer(file: string): Tokenizer {
  try {
    const config = join(dirname(file), CONFIG);
    const tokenizer = new HuggingFaceTokenizer(
      readObject(file),
      existsSync(config) ? readObject(config) : {},
    );
    const encode = (text: string): readonly number[] =>
      tokenizer.encode(text, { add_special_tokens: false }).ids;
    const [before, after] = around(encode(SAMPLE), tokenizer.encode(SAMPLE).ids);
    return { encode, before, after };
  } catch (error) {
    throw new InputError(
      `${file}: not a tokenizer that can be used: ${(error as Error).message}`,
      { file, remedy: 'Give another with --tokenizer, or inputs by name in a .npz or .json file.' },
      { cause: error },
    );
  }
}

const SAMPLE = 'a';

function readObject(file: string): object {
  const document: unknown = JSON.parse(readFileSync(file, 'utf8'));
  if (!isRecord(document)) throw new Error('no JSON object');
  return document;
}

/** What `whole` has in front of `part` and behind it. */
function around(part: readonly number[], whole: readonly number[]): [number[], number[]] {
  const places = whole.length - part.length + 1;
  for (let start = 0; start < places; start++) {
    if (part.every((id, i) => whole[start + i] === id)) {
      return [whole.slice(0, start), whole.slice(start + part.length)];
    }
  }
  throw new Error('special tokens change the text between them');
}
