import { type ParseArgsConfig, parseArgs } from 'node:util';
import { describeEnvironment } from '../../cli/environment.js';
import { print } from '../../cli/terminal.js';

type Options = NonNullable<ParseArgsConfig['options']>;
type Parsed<T extends Options> = ReturnType<typeof parseArgs<{ allowPositionals: true; options: T }>>;

/**
 * The command line of a benchmark: with --help prints how it is called and ends the process.
 * @param usage what comes after the program's name
 */
export function commandLine<const T extends Options>(usage: string, options: T): Parsed<T> {
  const parsed = parseArgs({
    allowPositionals: true,
    options: { ...options, help: { type: 'boolean', default: false } },
  });
  if ((parsed.values as { readonly help?: boolean }).help) {
    print(`node ${process.argv[1]} ${usage}`);
    process.exit();
  }
  return parsed as unknown as Parsed<T>;
}

/** Prints what a benchmark has found, with the machine it ran on, as one JSON document. */
export function printReport(report: Readonly<Record<string, unknown>>): void {
  print(JSON.stringify({ machine: describeEnvironment(), ...report }, null, 1));
}
