import { extname } from 'node:path';
import { Command, InvalidArgumentError } from 'commander';
import { formatBytes, formatDuration } from '../rewriter/format.js';
import { FileTransaction } from '../rewriter/onnx/file-transaction.js';
import { findTokenizer } from './data/tokenizer.js';
import {
  type CommonOptions,
  INPUT_FILES,
  positiveInteger,
  providerOption,
  threadCount,
  tokenizerOption,
  tokens,
  withCommonOptions,
} from './options.js';
import type { RunResult } from './run-model.js';
import { describeFallbacks, describeRuntime } from './runtime/describe-runtime.js';
import type { Provider } from './runtime/providers.js';
import { runJob } from './runtime/run-job.js';
import { print, printJson, table } from './terminal.js';

interface RunOptions extends CommonOptions {
  readonly inputs?: string;
  readonly tokenizer?: string;
  readonly length?: number;
  readonly output?: SaveTarget;
  readonly provider: Provider;
  readonly threads?: number;
  readonly repeat: number;
}

interface SaveTarget {
  readonly file: string;
  readonly format: 'npz' | 'json';
}

export function runCommand(): Command {
  return withCommonOptions(
    new Command('run')
      .description('Run a model, and show its outputs, time and peak memory.')
      .argument('<model>', 'model file')
      .option('--inputs <file>', `inputs: ${INPUT_FILES}`)
      .addOption(tokenizerOption())
      .option('--length <n>', 'length of generated inputs, or of the text to take', tokens)
      .option('-o, --output <file>', 'store the outputs as .npz or .json', saveTarget)
      .addOption(providerOption())
      .option('--threads <n>', 'threads of one operator', threadCount)
      .option('--repeat <n>', 'number of timed runs', positiveInteger, 1),
  ).action(async (model: string, options: RunOptions) => {
    const result = await runAndSave(model, options);
    if (options.json) printJson(result);
    else print(renderRun(result, options.output?.file));
  });
}

async function runAndSave(model: string, options: RunOptions): Promise<RunResult> {
  const { inputs = null, length = null, provider, threads = null, repeat, output } = options;
  const tokenizer = findTokenizer(model, options.tokenizer);
  const request = { model, inputs, tokenizer, length, provider, threads, repeat };
  if (output === undefined) return runJob('run', { ...request, save: null });
  const transaction = new FileTransaction();
  try {
    const result = await runJob('run', {
      ...request,
      save: { file: transaction.stage(output.file), format: output.format },
    });
    transaction.commit();
    return result;
  } catch (error) {
    transaction.rollback();
    throw error;
  }
}

function saveTarget(file: string): SaveTarget {
  const extension = extname(file).toLowerCase();
  if (extension === '.npz' || extension === '.json')
    return { file, format: extension === '.npz' ? 'npz' : 'json' };
  throw new InvalidArgumentError('Expected a file name that ends in .npz or .json.');
}

function renderRun(result: RunResult, saved: string | undefined): string {
  const [first, ...rest] = result.run_ms;
  const sorted = [...rest].sort((a, b) => a - b);
  const repeated =
    sorted.length === 0
      ? ''
      : `, then ${formatDuration(sorted[Math.floor(sorted.length / 2)]!)} (median of ${sorted.length})`;
  return [
    `${result.model} on ${describeRuntime(result.runtime)}`,
    ...describeFallbacks(result.runtime),
    `inputs: ${result.inputs}${result.length === null ? '' : `, ${result.length} tokens`}`,
    `loaded in ${formatDuration(result.load_ms)}, ran in ${formatDuration(first ?? 0)}${repeated}; ` +
      `peak memory ${formatBytes(result.peak_bytes)}`,
    '',
    table(
      [
        { title: 'output' },
        { title: 'type' },
        { title: 'shape' },
        { title: 'min', align: 'right' },
        { title: 'max', align: 'right' },
        { title: 'mean', align: 'right' },
        { title: 'not finite', align: 'right' },
      ],
      result.outputs.map(({ name, type, dims, min, max, mean, not_finite }) => [
        name,
        type,
        `[${dims.join(', ')}]`,
        ...[min, max, mean].map(value => value?.toPrecision(5) ?? '–'),
        String(not_finite),
      ]),
    ),
    ...(saved === undefined ? [] : ['', `Outputs stored in ${saved}`]),
  ].join('\n');
}
