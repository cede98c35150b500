#!/usr/bin/env node
import { Command, CommanderError } from 'commander';
import { rollbackAll } from '../rewriter/onnx/file-transaction.js';
import { benchCommand } from './bench.js';
import { handleSignals, onInterrupt } from './cleanup.js';
import { describeFailure } from './errors.js';
import { ExitCode } from './exit-codes.js';
import { exportCommand } from './export.js';
import { inspectCommand } from './inspect.js';
import { rewriteCommand } from './rewrite.js';
import { runCommand } from './run.js';
import { serveCommand } from './serve.js';
import { note } from './terminal.js';
import { tuneCommand } from './tune.js';
import { validateCommand } from './validate.js';
import { VERSION } from './version.js';

const program = new Command('onnx-rewrite')
  .description('Swap the attention of exported ONNX transformers for sub-quadratic operators.')
  .version(VERSION)
  .exitOverride()
  .configureHelp({ sortSubcommands: false })
  .addHelpText(
    'after',
    '\nExit codes: 0 done, 1 a budget or check failed, 2 bad usage or bad input, 3 internal error.',
  );

const commands = [
  inspectCommand(),
  rewriteCommand(),
  validateCommand(),
  tuneCommand(),
  runCommand(),
  benchCommand(),
  serveCommand(),
  exportCommand(),
];
for (const command of commands) {
  program.addCommand(command.copyInheritedSettings(program));
}

handleSignals();
onInterrupt(rollbackAll);
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  // A reader that has seen enough, such as `head`, is no failure.
  if (error.code === 'EPIPE') return;
  fail(error);
  process.exit();
});

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    // Commander has printed its message; help and version are no errors.
    process.exitCode = error.exitCode === 0 ? ExitCode.Done : ExitCode.BadInput;
  } else fail(error);
}

function fail(error: unknown): void {
  const failure = describeFailure(error);
  note(`error: ${failure.message}`);
  if (failure.remedy !== null) note(`  ${failure.remedy}`);
  if (process.argv.includes('--verbose') && failure.stack !== null) note(failure.stack);
  process.exitCode = failure.exitCode;
}
