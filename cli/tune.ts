import { writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import { TUNING_SPACES } from '../custom-ops/tuning-spaces.js';
import { InputError } from '../rewriter/errors.js';
import { FileTransaction } from '../rewriter/onnx/file-transaction.js';
import { findTokenizer } from './data/tokenizer.js';
import { commandLine, describeEnvironment } from './environment.js';
import {
  type CommonOptions,
  errorBudget,
  INPUT_FILES,
  nonNegativeInteger,
  positiveInteger,
  tokenizerOption,
  tokens,
  withCommonOptions,
} from './options.js';
import { ReportForms } from './report-forms.js';
import { runJob } from './runtime/run-job.js';
import { print, printJson } from './terminal.js';
import { renderTuning } from './tune/render-tuning.js';
import type { Budget, TuningReport } from './tune/tuning.js';
import { DEFAULT_SEED, DEFAULT_WINDOWS, type MaskedSpans } from './tune/tuning-data.js';
import { renderTuningPage } from './tune/tuning-page.js';
import { VERSION } from './version.js';

interface TuneOptions extends CommonOptions {
  readonly data: readonly string[];
  readonly maxLossIncrease?: number;
  readonly maxError?: number;
  readonly tokenizer?: string;
  readonly length?: number;
  readonly output?: string;
  readonly windows: number;
  readonly seed: number;
  readonly maskId?: number;
  readonly maskSpan?: number;
  readonly metric?: string;
  readonly cache?: string;
  readonly report?: string;
  readonly op?: string;
  readonly sites: string;
  readonly threads?: number;
  readonly stock?: true;
}

const REPORTS = new ReportForms<TuningReport>({
  '.html': renderTuningPage,
  '.json': report => `${JSON.stringify(report, null, 2)}\n`,
});

export function tuneCommand(): Command {
  return withCommonOptions(
    new Command('tune')
      .description('Find the fastest plan within a budget of accuracy, on your data and this machine.')
      .argument('<model>', 'model file')
      .requiredOption('--data <files...>', `data to calibrate and to check on: ${INPUT_FILES}`)
      .addOption(tokenizerOption())
      .option('--max-loss-increase <p>', 'budget: growth of the loss, such as 0.5%', share)
      .option('--max-error <e>', 'budget: relative squared error of the outputs', errorBudget)
      .option('--length <n>', 'tokens of a window: what the plan is tuned for', tokens)
      .option('-o, --output <file>', 'plan to write, for rewrite --plan')
      .option(
        '--windows <n>',
        'windows to calibrate on, and as many held out',
        positiveInteger,
        DEFAULT_WINDOWS,
      )
      .option(
        '--seed <s>',
        'which windows are held out, and what is hidden',
        nonNegativeInteger,
        DEFAULT_SEED,
      )
      .option(
        '--mask-id <id>',
        'hide tokens behind this id, for the loss of a masked model',
        nonNegativeInteger,
      )
      .option('--mask-span <n>', 'neighboring tokens hidden together (default: 1)', positiveInteger)
      .option('--metric <module>', 'JavaScript module with a loss of your own')
      .option(
        '--cache <file>',
        'keep measurements: go on after an interruption, reuse them for another budget',
      )
      .option('--report <file>', 'write a report: .html or .json', REPORTS.parse)
      .option(
        '--op <name>',
        `only this operator: ${TUNING_SPACES.map(({ operator }) => operator.id).join(', ')}`,
      )
      .option('--sites <glob>', 'tune only sites whose id matches', '*')
      .option('--threads <n>', 'threads of one operator', positiveInteger)
      .addOption(new Option('--stock', 'tune for function bodies in onnxruntime-node alone')),
  ).action(async (model: string, options: TuneOptions) => {
    const { output } = options;
    checkPaths(model, options);
    const tuning = await runJob('tune', {
      model,
      data: {
        files: options.data,
        tokenizer: findTokenizer(model, options.tokenizer),
        length: options.length ?? null,
        windows: options.windows,
        seed: options.seed,
        hide: maskedSpans(options),
      },
      budget: budgetOf(options),
      metricModule: options.metric ?? null,
      engine: { threads: options.threads ?? null, stock: options.stock === true },
      operator: options.op ?? null,
      sites: options.sites,
      cache: options.cache ?? null,
    });
    const report: TuningReport = {
      tool: { name: 'onnx-rewrite', version: VERSION },
      created: new Date().toISOString(),
      command: commandLine(),
      ...tuning,
      machine: describeEnvironment(),
    };
    if (options.report !== undefined) REPORTS.write(report, options.report);
    if (output !== undefined) writePlan(output, tuning.plan);
    if (options.json) printJson(report);
    else print(renderTuning(report, output ?? null));
  });
}

/** Shares above this are more likely percents without their sign. */
const LARGEST_PLAIN_SHARE = 0.1;

/** Parser of a share: `0.5%`, or 0.005 for the same. */
function share(text: string): number {
  const match = /^(\d*\.?\d+(?:e-?\d+)?)(%?)$/i.exec(text.trim());
  if (match === null) throw new InvalidArgumentError('Expected a percentage, such as 0.5%.');
  const value = Number(match[1]);
  if (match[2] === '%') return value / 100;
  if (value <= LARGEST_PLAIN_SHARE) return value;
  throw new InvalidArgumentError(`Write ${value}% or, for so large a share, ${100 * value}%.`);
}

function budgetOf({ maxLossIncrease, maxError, metric }: TuneOptions): Budget {
  if ((maxLossIncrease === undefined) === (maxError === undefined)) {
    throw new InputError(
      maxError === undefined
        ? 'no budget: how much accuracy may a plan cost?'
        : '--max-loss-increase and --max-error are two budgets',
      { remedy: 'Give one of --max-loss-increase, such as 0.5%, and --max-error.' },
    );
  }
  if (maxLossIncrease !== undefined) return { kind: 'loss', limit: maxLossIncrease };
  if (metric !== undefined) {
    throw new InputError('--metric measures a loss, and --max-error limits the error of the outputs', {
      remedy: 'Give --max-loss-increase with --metric.',
    });
  }
  return { kind: 'error', limit: maxError! };
}

function maskedSpans({ maskId, maskSpan, maxError, metric }: TuneOptions): MaskedSpans | null {
  if (maskId === undefined) {
    if (maskSpan === undefined) return null;
    throw new InputError('--mask-span says how much is hidden at a time, and nothing is', {
      remedy: 'Give --mask-id too.',
    });
  }
  if (maxError !== undefined || metric !== undefined) {
    throw new InputError('--mask-id makes a loss, and another metric is asked for', {
      remedy: 'Use it with --max-loss-increase and without --metric.',
    });
  }
  return { id: maskId, span: maskSpan ?? 1 };
}

function checkPaths(model: string, { output, cache, report, data }: TuneOptions): void {
  const read = [model, ...data].map(file => resolve(file));
  const written = [output, cache, report].filter(file => file !== undefined);
  for (const [i, file] of written.entries()) {
    const others = [...read, ...written.slice(0, i).map(other => resolve(other))];
    if (!others.includes(resolve(file))) continue;
    throw new InputError(`${file}: this would overwrite another file of this tuning`, {
      file,
      remedy: 'Choose another name.',
    });
  }
}

function writePlan(file: string, plan: unknown): void {
  const transaction = new FileTransaction();
  try {
    writeFileSync(transaction.stage(file), `${JSON.stringify(plan, null, 2)}\n`);
    transaction.commit();
  } catch (error) {
    transaction.rollback();
    throw error;
  }
}
