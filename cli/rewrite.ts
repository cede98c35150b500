import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { Command, Option } from 'commander';
import { OPERATORS } from '../custom-ops/index.js';
import { InputError } from '../rewriter/errors.js';
import { formatError } from '../rewriter/format.js';
import type { ExternalDataMode } from '../rewriter/onnx/save-model.js';
import { type Decision, decideByPlan, decideUniformly, operatorById, parsePlan } from '../rewriter/plan.js';
import type { RewriteReport } from '../rewriter/report.js';
import type { Site } from '../rewriter/site.js';
import { findTokenizer } from './data/tokenizer.js';
import { commandLine } from './environment.js';
import { ExitCode } from './exit-codes.js';
import { type CommonOptions, INPUT_FILES, nonNegativeInteger, withCommonOptions } from './options.js';
import { renderValidation } from './render-validation.js';
import { reportFile } from './report-file.js';
import { type RewriteRequest, rewriteFile } from './rewrite-file.js';
import { settingsOf } from './settings.js';
import { siteGlob } from './site-glob.js';
import { colors, note, print, printJson, table } from './terminal.js';
import { type ValidationOptions, validationSettings, withValidationOptions } from './validate.js';

interface RewriteOptions extends CommonOptions, ValidationOptions {
  readonly output?: string;
  readonly op?: string;
  readonly preset: string;
  readonly set?: readonly string[];
  readonly sites: string;
  readonly plan?: string;
  readonly minLength?: number;
  readonly validate: boolean;
  readonly dryRun?: true;
  readonly keep?: true;
  readonly retrain?: true;
  readonly data?: readonly string[];
  readonly report?: string;
  readonly externalData: ExternalDataMode;
  readonly stripMetadata?: true;
}

export function rewriteCommand(): Command {
  return withCommonOptions(
    withValidationOptions(
      new Command('rewrite')
        .description('Replace attention by sub-quadratic operators, and validate the result.')
        .argument('<model>', 'model file')
        .option('-o, --output <file>', 'model to write')
        .option(
          '--op <name>',
          `operator: ${OPERATORS.map(({ id }) => id).join(', ')} (default: ${OPERATORS[0]!.id}, and where ` +
            'a site computes what an operator computes, that operator)',
        )
        .option('--preset <name>', 'named set of attributes of the operator', 'default')
        .option('--set <key=value...>', 'set attributes of the operator')
        .option('--sites <glob>', 'replace only sites whose id matches', '*')
        .addOption(
          new Option('--plan <file>', 'operator and attributes for each site, as JSON').conflicts([
            'op',
            'preset',
            'set',
            'sites',
          ]),
        )
        .option('--min-length <n>', 'keep exact attention at run time below n keys', nonNegativeInteger)
        .option('--retrain', 'take operators too that are right only once the model is retrained with them')
        .option('--data <files...>', `data to calibrate operators on that need it: ${INPUT_FILES}`)
        .option('--no-validate', 'do not compare the models')
        .option('--dry-run', 'decide, but write nothing')
        .option('--keep', 'write the output even when it fails validation (the exit code stays 1)')
        .option('--report <file>', 'write a report: .html, .md or .json', reportFile)
        .option(
          '--strip-metadata',
          'leave out doc strings and metadata of nodes, values and graphs, such as stack traces of the exporter',
        )
        .addOption(
          new Option(
            '--external-data <mode>',
            'what to do with external data files when the output is in another folder',
          )
            .choices(['reference', 'copy', 'link'])
            .default('reference'),
        ),
    ),
  ).action(async (model: string, options: RewriteOptions) => {
    checkOptions(model, options);
    if (options.inputs !== undefined && (options.dryRun || !options.validate)) {
      note(colors.yellow('note: --inputs was not used: nothing is validated.'));
    }
    const { report, document } = await rewriteFile({
      model,
      output: options.dryRun ? null : options.output!,
      decide: sites => decide(sites, options),
      calibration: calibrationData(model, options),
      externalData: options.externalData,
      stripMetadata: options.stripMetadata === true,
      validation: options.validate ? validationSettings(model, options) : null,
      keep: options.keep === true,
      reportFile: options.report ?? null,
      command: commandLine(),
    });
    if (options.json) printJson(document);
    else printRewrite(report, options);
    if (report.validation?.passed === false) process.exitCode = ExitCode.CheckFailed;
  });
}

/** Calibrated at the longest length of the validation, where lengths are given. */
function calibrationData(
  model: string,
  { data, length, tokenizer }: RewriteOptions,
): RewriteRequest['calibration'] {
  return data === undefined
    ? null
    : {
        files: data,
        tokenizer: findTokenizer(model, tokenizer),
        length: length === undefined ? null : Math.max(...length),
      };
}

function checkOptions(model: string, { output, dryRun, report, plan }: RewriteOptions): void {
  if (output === undefined && !dryRun) {
    throw new InputError('no output file', {
      remedy: 'Give one with -o FILE, or look first with --dry-run.',
    });
  }
  for (const other of [model, output, plan]) {
    if (report !== undefined && other !== undefined && resolve(report) === resolve(other)) {
      throw new InputError(`${report}: the report would overwrite another file of this rewrite`, {
        file: report,
        remedy: 'Choose another --report file.',
      });
    }
  }
}

function decide(sites: readonly Site[], options: RewriteOptions): Decision[] {
  const minLength = options.minLength ?? null;
  const retrained = options.retrain === true;
  if (options.plan !== undefined) {
    const plan = parsePlan(readText(options.plan), options.plan);
    return decideByPlan(sites, plan, OPERATORS, minLength, retrained);
  }
  const operator = options.op === undefined ? OPERATORS[0]! : operatorById(OPERATORS, options.op);
  const fusions = options.op === undefined ? OPERATORS : [];
  const selects = siteGlob(options.sites);
  if (sites.length > 0 && !sites.some(({ id }) => selects(id))) {
    throw new InputError(`--sites: no site matches "${options.sites}"`, {
      remedy: `The sites are ${sites.map(({ id }) => id).join(', ')}.`,
    });
  }
  const settings = settingsOf(operator, options.preset, options.set ?? []);
  return decideUniformly(sites, { operator, settings, fusions, retrained, selects }, minLength);
}

function printRewrite(report: RewriteReport, options: RewriteOptions): void {
  const { sites, near_misses, output, validation } = report;
  if (sites.length > 0) {
    print(
      table(
        [{ title: 'site' }, { title: 'decision' }, { title: 'error', align: 'right' }, { title: 'reason' }],
        sites.map(({ id, decision, operator, reason, error }) => [
          id,
          decision === 'replaced' ? colors.green(operator!) : colors.yellow('kept'),
          formatError(error),
          reason,
        ]),
      ),
    );
  }
  for (const { node, pattern, reason } of near_misses) print(`near miss at ${node} (${pattern}): ${reason}`);
  for (const notice of report.notices) note(colors.yellow(`note: ${notice}`));
  if (validation !== null) print(`\n${renderValidation(validation)}`);
  const count = sites.filter(({ decision }) => decision === 'replaced').length;
  const summary = `${count} of ${sites.length} attention sites`;
  if (options.dryRun) print(`\nDry run: ${summary} would be replaced.`);
  else if (output === null)
    print(
      '\nNothing was written: the error is over budget. `tune` finds settings for each site within a budget, ' +
        '--sites leaves some as they are, --keep writes it anyway.',
    );
  else
    print(
      `\nWrote ${options.output}: ${summary} replaced.${validation === null && count > 0 ? ' Not validated.' : ''}`,
    );
  if (options.report !== undefined) print(`Report: ${options.report}`);
}

function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new InputError(
      `${file}: cannot be read (${(error as NodeJS.ErrnoException).code ?? error})`,
      { file, remedy: 'Check the path.' },
      { cause: error },
    );
  }
}
