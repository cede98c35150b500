import { resolve } from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import { TUNING_SPACES } from '../custom-ops/tuning-spaces.js';
import { InputError } from '../rewriter/errors.js';
import { findTokenizer } from './data/tokenizer.js';
import { commandLine, describeEnvironment } from './environment.js';
import {
  type CommonOptions,
  errorBudget,
  INPUT_FILES,
  nonNegativeInteger,
  positiveInteger,
  threadCount,
  tokenizerOption,
  tokens,
  withCommonOptions,
} from './options.js';
import { beginFile } from './pending-file.js';
import { ReportForms } from './report-forms.js';
import { runJob } from './runtime/run-job.js';
import { print, printJson } from './terminal.js';
import { checkCache } from './tune/measurement-cache.js';
import { renderTuning } from './tune/render-tuning.js';
import type { TuneRequest } from './tune/tune-model.js';
import type { Budget, TuningReport } from './tune/tuning.js';
import { DEFAULT_HIDDEN_SHARE, DEFAULT_SEED, DEFAULT_WINDOWS, type MaskedSpans } from './tune/tuning-data.js';
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
  readonly maskShare?: number;
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
      .option('--mask-share <p>', 'share of the tokens that is hidden (default: 15%)', maskShare)
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
      .option('--threads <n>', 'threads of one operator', threadCount)
      .addOption(new Option('--stock', 'tune for function bodies in onnxruntime-node alone')),
  ).action(async (model: string, options: TuneOptions) => {
    const { output = null, report: page = null, cache = null } = options;
    checkPaths(model, options);
    const request = requestOf(model, options);
    if (cache !== null) {
      beginFile(cache).discard();
      checkCache(cache);
    }
    const pendingPlan = output === null ? null : beginFile(output);
    const pendingReport = page === null ? null : REPORTS.begin(page);
    try {
      const tuning = await runJob('tune', request);
      const report: TuningReport = {
        tool: { name: 'onnx-rewrite', version: VERSION },
        created: new Date().toISOString(),
        command: commandLine(),
        ...tuning,
        machine: describeEnvironment(),
      };
      pendingReport?.finish(report);
      pendingPlan?.finish(`${JSON.stringify(tuning.plan, null, 2)}\n`);
      if (options.json) printJson(report);
      else print(renderTuning(report, output));
    } finally {
      pendingReport?.discard();
      pendingPlan?.discard();
    }
  });
}

function requestOf(model: string, options: TuneOptions): TuneRequest {
  const { data, length = null, windows, seed, metric = null, threads = null, op = null, sites } = options;
  return {
    model,
    data: {
      files: data,
      tokenizer: findTokenizer(model, options.tokenizer),
      length,
      windows,
      seed,
      hide: maskedSpans(options),
    },
    budget: budgetOf(options),
    metricModule: metric,
    engine: { threads, stock: options.stock === true },
    operator: op,
    sites,
    cache: options.cache ?? null,
  };
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

/** Parser of the share of tokens to hide: some, and not all. */
function maskShare(text: string): number {
  const value = share(text);
  if (value > 0 && value < 1) return value;
  throw new InvalidArgumentError('Expected a percentage between 0% and 100%.');
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

function maskedSpans({ maskId, maskSpan, maskShare, maxError, metric }: TuneOptions): MaskedSpans | null {
  if (maskId === undefined) {
    if (maskSpan === undefined && maskShare === undefined) return null;
    const [option, what] =
      maskSpan === undefined
        ? ['--mask-share', 'how much is hidden']
        : ['--mask-span', 'how much is hidden at a time'];
    throw new InputError(`${option} says ${what}, and nothing is`, { remedy: 'Give --mask-id too.' });
  }
  if (maxError !== undefined || metric !== undefined) {
    throw new InputError('--mask-id makes a loss, and another metric is asked for', {
      remedy: 'Use it with --max-loss-increase and without --metric.',
    });
  }
  return { id: maskId, span: maskSpan ?? 1, share: maskShare ?? DEFAULT_HIDDEN_SHARE };
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
