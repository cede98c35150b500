import { type Command, InvalidArgumentError, Option } from 'commander';
import { PROVIDERS } from './runtime/providers.js';

/** Options that every verb has. */
export interface CommonOptions {
  readonly json?: true;
  readonly verbose?: true;
}

/** Adds `--json` and `--verbose`. */
export function withCommonOptions(command: Command): Command {
  return command
    .addOption(new Option('--json', 'print one JSON document on stdout and nothing else'))
    .addOption(new Option('--verbose', 'print stack traces of errors'));
}

/** Parser of an option value that counts something. */
export function positiveInteger(text: string): number {
  return integer(text, 1, 'Expected a positive integer.');
}

/** Parser of an option value that may be zero. */
export function nonNegativeInteger(text: string): number {
  return integer(text, 0, 'Expected an integer, 0 or more.');
}

/** More threads than any machine has use for; runtimes begin as many as they are told to. */
const MOST_THREADS = 1024;

/** Parser of a number of threads. */
export function threadCount(text: string): number {
  const expected = `Expected a number of threads, 1 to ${MOST_THREADS}.`;
  const value = integer(text, 1, expected);
  if (value > MOST_THREADS) throw new InvalidArgumentError(expected);
  return value;
}

function integer(text: string, least: number, expected: string): number {
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(value) || value < least) throw new InvalidArgumentError(expected);
  return value;
}

/** Parser of an error budget. */
export function errorBudget(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !(value >= 0)) throw new InvalidArgumentError('Expected a number, 0 or more.');
  return value;
}

/** Parser of a length in tokens: `4096`, or `4k` for the same. */
export function tokens(text: string): number {
  const match = /^(\d+)(k?)$/i.exec(text.trim());
  const value = match === null ? 0 : Number(match[1]) * (match[2] === '' ? 1 : 1024);
  if (!Number.isSafeInteger(value) || value < 1) {
    throw new InvalidArgumentError('Expected a number of tokens, such as 4096 or 4k.');
  }
  return value;
}

function severalTokens(text: string, previous: readonly number[] = []): readonly number[] {
  return [...previous, ...text.split(',').map(tokens)];
}

/** What `--inputs` and `--data` take. */
export const INPUT_FILES = '.npz or .json by input name, .npy for a single input, or a text';

/** The option of verbs that read texts. */
export function tokenizerOption(): Option {
  return new Option(
    '--tokenizer <path>',
    'tokenizer.json for texts, or its folder (default: beside the model or one folder up; none: texts are bytes)',
  );
}

/** The option of verbs that run models on one execution provider. */
export function providerOption(): Option {
  return new Option('--provider <name>', 'execution provider').choices(Object.keys(PROVIDERS)).default('cpu');
}

/** The option `length` of verbs that take several lengths: `--lengths 512,4k`, `--length 512 4k`, or repeated. */
export function lengthsOption(description: string): Option {
  return new Option('--lengths, --length <n...>', description).argParser(severalTokens);
}
