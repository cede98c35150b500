import { InputError } from '../../rewriter/errors.js';
import type { ModelInput } from './model-inputs.js';
import type { Tokenizer } from './tokenizer.js';
import { checkVocabulary } from './vocabulary.js';

/** A text as the ids that one input of a model takes, to be cut into windows. */
export class TokenText {
  /** Tokens of a window that are not of the text. */
  private readonly special: number;

  private constructor(
    private readonly file: string,
    readonly input: ModelInput,
    /** What an id stands for: `bytes` or `tokens`. */
    readonly unit: 'bytes' | 'tokens',
    private readonly ids: ArrayLike<number>,
    private readonly before: readonly number[],
    private readonly after: readonly number[],
  ) {
    this.special = before.length + after.length;
  }

  /** Every byte is an id: for models over bytes. */
  static ofBytes(file: string, input: ModelInput, bytes: Uint8Array): TokenText {
    return new TokenText(file, input, 'bytes', bytes, [], []);
  }

  /**
   * The ids that a tokenizer makes of the text, within its special tokens in every window.
   * @throws InputError when there are ids that the model does not have, or the text is not UTF-8
   */
  static tokenized(file: string, input: ModelInput, bytes: Uint8Array, tokenizer: Tokenizer): TokenText {
    const { before, after } = tokenizer;
    const ids = tokenizer.encode(decode(file, bytes));
    const remedy = 'Give the tokenizer of this model with --tokenizer.';
    checkVocabulary(file, input, [...before, ...ids, ...after], remedy);
    return new TokenText(file, input, 'tokens', ids, before, after);
  }

  /** Tokens of the longest window. */
  get longest(): number {
    return this.ids.length + this.special;
  }

  /** Windows of `length` tokens that the text can be cut into. */
  count(length: number): number {
    return length > this.special ? Math.floor(this.ids.length / (length - this.special)) : 0;
  }

  /**
   * Window `n` of `length` tokens, special ones included.
   * @throws InputError when the text has no such window
   */
  window(n: number, length: number): number[] {
    const size = length - this.special;
    const start = n * size;
    if (size < 0 || start + size > this.ids.length) {
      throw new InputError(`${this.file}: only ${this.longest} ${this.unit}, not ${length}`, {
        file: this.file,
        remedy: 'Give a longer text or a shorter --length.',
      });
    }
    const ids = Array.from({ length: size }, (_, i) => this.ids[start + i]!);
    return [...this.before, ...ids, ...this.after];
  }

  /** Where window `n` of `length` tokens starts in the text, in its units. */
  startOf(n: number, length: number): number {
    return n * (length - this.special);
  }
}

function decode(file: string, bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (error) {
    throw new InputError(
      `${file}: not a text in UTF-8`,
      { file, remedy: 'Convert it, or give inputs by name in a .npz or .json file.' },
      { cause: error },
    );
  }
}
