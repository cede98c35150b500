import { Command } from 'commander';
import { DEFAULT_BUDGETS } from '../rewriter/validation.js';
import { findTokenizer } from './data/tokenizer.js';
import { ExitCode } from './exit-codes.js';
import {
  type CommonOptions,
  errorBudget,
  INPUT_FILES,
  lengthsOption,
  providerOption,
  tokenizerOption,
  withCommonOptions,
} from './options.js';
import { renderValidation } from './render-validation.js';
import type { Provider } from './runtime/providers.js';
import { runJob } from './runtime/run-job.js';
import { print, printJson } from './terminal.js';

/** How models are to be compared, as `validate` and `rewrite` take it from the command line. */
export interface ValidationOptions {
  readonly length?: readonly number[];
  readonly inputs?: string;
  readonly tokenizer?: string;
  readonly provider: Provider;
  readonly maxError: number;
  readonly maxOutputError: number;
}

/** Adds the options that say how models are compared. */
export function withValidationOptions(command: Command): Command {
  return command
    .addOption(lengthsOption('validate at these lengths, in tokens'))
    .option('--inputs <file>', `inputs: ${INPUT_FILES}`)
    .addOption(tokenizerOption())
    .addOption(providerOption())
    .option(
      '--max-error <e>',
      'budget of the isolated error of a site',
      errorBudget,
      DEFAULT_BUDGETS.max_error,
    )
    .option(
      '--max-output-error <e>',
      'budget of the error of the outputs',
      errorBudget,
      DEFAULT_BUDGETS.max_output_error,
    );
}

export function validateCommand(): Command {
  return withCommonOptions(
    withValidationOptions(
      new Command('validate')
        .description('Compare a rewritten model with its original, output by output and site by site.')
        .argument('<original>', 'the model before')
        .argument('<rewritten>', 'the model after'),
    ),
  ).action(async (original: string, rewritten: string, options: ValidationOptions & CommonOptions) => {
    const validation = await runJob('validate', {
      original,
      rewritten,
      label: rewritten,
      staged: false,
      ...validationSettings(original, options),
    });
    if (options.json) printJson(validation);
    else print(renderValidation(validation));
    if (!validation.passed) process.exitCode = ExitCode.CheckFailed;
  });
}

/** The part of a validation request that the options determine. */
export function validationSettings(model: string, options: ValidationOptions) {
  return {
    inputs: options.inputs ?? null,
    tokenizer: findTokenizer(model, options.tokenizer),
    lengths: options.length ?? null,
    provider: options.provider,
    budgets: { max_error: options.maxError, max_output_error: options.maxOutputError },
  };
}
