import { type Command, InvalidArgumentError, Option } from 'commander';

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
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError('Expected a positive integer.');
  return value;
}

/** Parser of an option value that may be zero. */
export function nonNegativeInteger(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError('Expected an integer, 0 or more.');
  return value;
}

/** Parser of an error budget. */
export function errorBudget(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !(value >= 0)) throw new InvalidArgumentError('Expected a number, 0 or more.');
  return value;
}

/** Parser of `--length`, which takes several numbers: `--length 512 4096`, `--length 512,4096`, or repeated. */
export function lengths(text: string, previous: readonly number[] = []): readonly number[] {
  return [...previous, ...text.split(',').map(positiveInteger)];
}
