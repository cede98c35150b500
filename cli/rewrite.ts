import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { Command, Option } from 'commander';
import { OPERATORS } from '../custom-ops/index.js';
import { applyRewrite, type Rewrite } from '../rewriter/apply.js';
import { InputError } from '../rewriter/errors.js';
import { findSites } from '../rewriter/find-sites.js';
import { formatError } from '../rewriter/format.js';
import { ModelGraph } from '../rewriter/graph/model-graph.js';
import {
  countOperators,
  describeModel,
  describeSite,
  type ModelHeader,
  operatorsAfter,
} from '../rewriter/inspection.js';
import { FileSource } from '../rewriter/onnx/byte-source-file.js';
import { decodeModel } from '../rewriter/onnx/decode.js';
import { editModel } from '../rewriter/onnx/edit.js';
import { type ModelFile, openModelFile } from '../rewriter/onnx/model-file.js';
import { type ExternalDataMode, type StagedModel, stageModel } from '../rewriter/onnx/save-model.js';
import {
  type Decision,
  type DecisionDocument,
  decideByPlan,
  decideUniformly,
  documentDecision,
  operatorById,
  PLAN_VERSION,
  parsePlan,
} from '../rewriter/plan.js';
import type { RewriteReport } from '../rewriter/report.js';
import type { AttentionSite, NearMiss } from '../rewriter/site.js';
import { type Validation, worstIsolated } from '../rewriter/validation.js';
import { commandLine, describeEnvironment } from './environment.js';
import { ExitCode } from './exit-codes.js';
import { type CommonOptions, nonNegativeInteger, withCommonOptions } from './options.js';
import { renderValidation } from './render-validation.js';
import { reportFile, writeReport } from './report-file.js';
import { runJob } from './runtime/run-job.js';
import { settingsOf } from './settings.js';
import { siteGlob } from './site-glob.js';
import { colors, note, ProgressBar, print, printJson, table } from './terminal.js';
import { type ValidationOptions, validationSettings, withValidationOptions } from './validate.js';
import { VERSION } from './version.js';

interface RewriteOptions extends CommonOptions, ValidationOptions {
  readonly output?: string;
  readonly op: string;
  readonly preset: string;
  readonly set?: readonly string[];
  readonly sites: string;
  readonly plan?: string;
  readonly minLength?: number;
  readonly validate: boolean;
  readonly dryRun?: true;
  readonly keep?: true;
  readonly report?: string;
  readonly externalData: ExternalDataMode;
}

const DEFAULT_OPERATOR = 'multipole-attention';

export function rewriteCommand(): Command {
  return withCommonOptions(
    withValidationOptions(
      new Command('rewrite')
        .description('Replace attention by sub-quadratic operators, and validate the result.')
        .argument('<model>', 'model file')
        .option('-o, --output <file>', 'model to write')
        .option('--op <name>', `operator: ${OPERATORS.map(({ id }) => id).join(', ')}`, DEFAULT_OPERATOR)
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
        .option('--no-validate', 'do not run the models')
        .option('--dry-run', 'decide, but write and run nothing')
        .option('--keep', 'write the output even when it fails validation (the exit code stays 1)')
        .option('--report <file>', 'write a report: .html, .md or .json', reportFile)
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
    const input = openModelFile(model);
    try {
      await rewriteModel(input, options);
    } finally {
      input.close();
    }
  });
}

/** What a rewrite is going to do to a model. */
interface Draft {
  readonly sites: readonly AttentionSite[];
  readonly nearMisses: readonly NearMiss[];
  readonly decisions: readonly Decision[];
  readonly rewrite: Rewrite;
  readonly notices: readonly string[];
}

async function rewriteModel(input: ModelFile, options: RewriteOptions): Promise<void> {
  checkOptions(input, options);
  const draft = draftRewrite(input, options);
  const staged = options.dryRun ? null : await stage(input, draft, options);
  try {
    const validation = staged && (await validateStaged(input, staged, draft, options));
    const written = staged !== null && (validation === null || validation.passed || options.keep === true);
    const header = staged && describeStaged(input, staged, options.output!);
    const notices = [...draft.notices, ...(staged?.notices ?? [])];
    const report = makeReport(input, draft, validation, written ? header : null, notices);
    if (options.report !== undefined) writeReport(report, options.report);
    if (written) staged.commit();
    else staged?.rollback();

    if (options.json) printJson(documentRewrite(input, draft, validation, header, written));
    else printRewrite(report, validation, options);
    if (validation?.passed === false) process.exitCode = ExitCode.CheckFailed;
  } catch (error) {
    staged?.rollback();
    throw error;
  }
}

function checkOptions(input: ModelFile, { output, dryRun, report, plan }: RewriteOptions): void {
  if (output === undefined && !dryRun) {
    throw new InputError('no output file', {
      remedy: 'Give one with -o FILE, or look first with --dry-run.',
    });
  }
  for (const other of [input.file, output, plan]) {
    if (report !== undefined && other !== undefined && resolve(report) === resolve(other)) {
      throw new InputError(`${report}: the report would overwrite another file of this rewrite`, {
        file: report,
        remedy: 'Choose another --report file.',
      });
    }
  }
}

function draftRewrite(input: ModelFile, options: RewriteOptions): Draft {
  const graph = new ModelGraph(input.model);
  const { sites, nearMisses } = findSites(graph);
  const decisions = decide(sites, options);
  const replacements = decisions.flatMap(({ replacement }) => (replacement === null ? [] : [replacement]));
  const notices = [...graph.warnings];
  if (sites.length === 0) notices.push('No attention was found in this model.');
  else if (replacements.length === 0) notices.push('No site was replaced: the output equals the input.');
  return { sites, nearMisses, decisions, rewrite: applyRewrite(graph, replacements), notices };
}

function decide(sites: readonly AttentionSite[], options: RewriteOptions): Decision[] {
  const minLength = options.minLength ?? null;
  if (options.plan !== undefined) {
    return decideByPlan(sites, parsePlan(readText(options.plan), options.plan), OPERATORS, minLength);
  }
  const operator = operatorById(OPERATORS, options.op);
  const selects = siteGlob(options.sites);
  if (sites.length > 0 && !sites.some(({ id }) => selects(id))) {
    throw new InputError(`--sites: no site matches "${options.sites}"`, {
      remedy: `The sites are ${sites.map(({ id }) => id).join(', ')}.`,
    });
  }
  const settings = settingsOf(operator, options.preset, options.set ?? []);
  return decideUniformly(sites, { operator, settings, selects }, minLength);
}

async function stage(input: ModelFile, draft: Draft, options: RewriteOptions): Promise<StagedModel> {
  const bar = new ProgressBar();
  try {
    return await stageModel(input, editModel(input.model, draft.rewrite.edits), options.output!, {
      externalData: options.externalData,
      onProgress: (written, total) => bar.update(written, total, 'bytes written'),
    });
  } finally {
    bar.clear();
  }
}

async function validateStaged(
  input: ModelFile,
  staged: StagedModel,
  draft: Draft,
  options: RewriteOptions,
): Promise<Validation | null> {
  if (!options.validate || draft.rewrite.edits.length === 0) return null;
  return runJob('validate', {
    original: input.file,
    rewritten: staged.file,
    label: options.output!,
    staged: true,
    ...validationSettings(options),
  });
}

function describeStaged(input: ModelFile, staged: StagedModel, output: string): ModelHeader {
  const source = new FileSource(staged.file);
  try {
    return describeModel(decodeModel(source, { file: output, sidecars: input.sidecars }));
  } finally {
    source.close();
  }
}

function documentDecisions(draft: Draft, validation: Validation | null): DecisionDocument[] {
  return draft.decisions.map(decision =>
    documentDecision(decision, validation && worstIsolated(validation, decision.site.id)),
  );
}

/** What `rewrite --json` prints; it can be used as a plan. */
function documentRewrite(
  input: ModelFile,
  draft: Draft,
  validation: Validation | null,
  header: ModelHeader | null,
  written: boolean,
) {
  return {
    version: PLAN_VERSION,
    sites: documentDecisions(draft, validation),
    model: {
      ...(header ?? describeModel(input.model)),
      original: input.file,
      file: written ? (header?.file ?? null) : null,
    },
    validation,
  };
}

function makeReport(
  input: ModelFile,
  draft: Draft,
  validation: Validation | null,
  output: ModelHeader | null,
  notices: readonly string[],
): RewriteReport {
  const decisions = documentDecisions(draft, validation);
  const before = countOperators(input.model);
  return {
    tool: { name: 'onnx-rewrite', version: VERSION },
    created: new Date().toISOString(),
    command: commandLine(),
    environment: describeEnvironment(),
    input: describeModel(input.model),
    output,
    operators: { before, after: operatorsAfter(before, draft.rewrite) },
    sites: draft.sites.map((site, i) => ({ ...describeSite(site, OPERATORS), ...decisions[i]! })),
    near_misses: draft.nearMisses,
    notices,
    validation,
    timings: [],
    metrics: [],
  };
}

function printRewrite(report: RewriteReport, validation: Validation | null, options: RewriteOptions): void {
  const { sites, near_misses, output } = report;
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
    print(`\nNothing was written: the error is over budget (--keep writes it anyway).`);
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
