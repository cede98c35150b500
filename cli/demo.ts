import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { OPERATORS } from '../custom-ops/index.js';
import { formatBytes, formatDuration, formatError } from '../rewriter/format.js';
import { rollbackAll } from '../rewriter/onnx/file-transaction.js';
import { decideUniformly } from '../rewriter/plan.js';
import { type Metric, type RewriteReport, ratio, type Timing } from '../rewriter/report.js';
import { DEFAULT_BUDGETS, type LengthValidation } from '../rewriter/validation.js';
import { handleSignals, onInterrupt } from './cleanup.js';
import { type ByteTask, bitsPerByte, drawHiddenSpans, hiddenByteTask } from './data/byte-task.js';
import { decodeNpz, encodeNpz } from './data/npz.js';
import { tensorFrom, toNumbers } from './data/tensor.js';
import { describeFailure } from './errors.js';
import { writeReport } from './report-file.js';
import { rewriteFile } from './rewrite-file.js';
import { describeRuntime } from './runtime/describe-runtime.js';
import { runJob } from './runtime/run-job.js';
import { mean, median } from './statistics.js';
import { colors, note, print, table } from './terminal.js';

/**
 * `npm run demo`: rewrites a trained byte-level encoder, validates it on an English novel at 8192 tokens, and
 * measures what that costs in accuracy and gains in time and memory.
 */

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const MODEL = join(ROOT, 'models/byte-lm/encoder.onnx');
const TEXT = join(ROOT, 'models/byte-lm/mansfield-park.txt');
const OUTPUT = join(ROOT, 'demo-output');

const LENGTH = 8192;
const WINDOWS = 3;
/** A stretch of the text with spans of bytes hidden, and the file that holds it as inputs of the model. */
interface Window {
  readonly task: ByteTask;
  readonly file: string;
}

handleSignals();
onInterrupt(rollbackAll);
try {
  await demo();
} catch (error) {
  const { message, remedy, exitCode, stack } = describeFailure(error);
  note(`error: ${message}${remedy === null ? '' : `\n  ${remedy}`}`);
  if (process.argv.includes('--verbose') && stack !== null) note(stack);
  process.exitCode = exitCode;
}

async function demo(): Promise<void> {
  mkdirSync(OUTPUT, { recursive: true });
  const scratch = mkdtempSync(join(tmpdir(), 'onnx-rewrite-demo-'));
  const remove = () => rmSync(scratch, { recursive: true, force: true });
  onInterrupt(remove);
  try {
    await rewriteAndMeasure(scratch);
  } finally {
    remove();
  }
}

async function rewriteAndMeasure(scratch: string): Promise<void> {
  const rewritten = join(OUTPUT, 'encoder.onnx');
  const windows = textWindows(scratch);
  print(`Rewriting ${shown(MODEL)}: all attention sites, validated on ${LENGTH} bytes of ${shown(TEXT)}`);
  const { report } = await rewriteFile({
    model: MODEL,
    output: rewritten,
    decide: sites =>
      decideUniformly(sites, { operator: OPERATORS[0]!, settings: {}, selects: () => true }, null),
    calibration: null,
    externalData: 'reference',
    stripMetadata: false,
    validation: {
      inputs: windows[0]!.file,
      tokenizer: null,
      lengths: null,
      provider: 'cpu',
      budgets: DEFAULT_BUDGETS,
    },
    keep: true,
    reportFile: null,
    command: 'npm run demo',
  });
  const [length] = report.validation!.lengths;
  print(`\n${renderSites(length!)}\n`);

  print(`Timing both models on ${WINDOWS} stretches of the text, in turns`);
  const models = [MODEL, rewritten];
  const outputs = models.map((_, m) => windows.map((_, w) => join(scratch, `logits-${m}-${w}.npz`)));
  const timing = await runJob('time', { models, inputs: windows.map(({ file }) => file), outputs });
  const losses = outputs.map(files =>
    mean(
      files.map((file, w) =>
        bitsPerByte(toNumbers(decodeNpz(readFileSync(file)).get('logits')!), windows[w]!.task),
      ),
    ),
  );
  const peaks: number[] = [];
  for (const model of models) {
    const request = {
      model,
      inputs: windows[0]!.file,
      tokenizer: null,
      length: null,
      provider: 'cpu' as const,
      threads: null,
      repeat: 1,
      save: null,
    };
    peaks.push((await runJob('run', request)).peak_bytes);
  }

  const [before, after] = timing.ms.map(median) as [number, number];
  const measured: Timing = {
    length: LENGTH,
    runs: WINDOWS,
    original_ms: before,
    rewritten_ms: after,
    original_peak_bytes: peaks[0]!,
    rewritten_peak_bytes: peaks[1]!,
  };
  const metric: Metric = {
    name: 'Loss, bits per masked byte',
    original: losses[0]!,
    rewritten: losses[1]!,
  };
  const full: RewriteReport = { ...report, timings: [measured], metrics: [metric] };
  print(`\n${renderMeasurements(measured, metric, length!)}\n`);
  print(`Original:  ${describeRuntime(timing.runtimes[0]!)}`);
  print(`Rewritten: ${describeRuntime(timing.runtimes[1]!)}`);
  const page = join(OUTPUT, 'report.html');
  writeReport(full, page);
  print(`Report:    ${shown(page)}`);
  if (!report.validation!.passed) throw new Error('the rewritten model is over an error budget');
}

/** Evenly spaced stretches of the text, each stored as model inputs with its spans masked. */
function textWindows(folder: string): Window[] {
  const text = readFileSync(TEXT);
  const stride = Math.floor(text.length / WINDOWS);
  return Array.from({ length: WINDOWS }, (_, w) => {
    const bytes = text.subarray(w * stride, w * stride + LENGTH);
    const task = hiddenByteTask(bytes, drawHiddenSpans(LENGTH, w));
    const file = join(folder, `inputs-${w}.npz`);
    writeFileSync(file, encodeNpz(new Map([['input_ids', tensorFrom('int64', [1, LENGTH], task.ids)]])));
    return { task, file };
  });
}

function renderSites({ sites }: LengthValidation): string {
  return table(
    [
      { title: 'site' },
      { title: 'isolated error', align: 'right' },
      { title: 'propagated error', align: 'right' },
    ],
    sites.map(({ id, isolated, propagated }) => [id, formatError(isolated), formatError(propagated)]),
  );
}

function renderMeasurements(timing: Timing, metric: Metric, { outputs }: LengthValidation): string {
  const change = metric.rewritten / metric.original - 1;
  return table(
    [
      { title: `${LENGTH} tokens` },
      { title: 'original', align: 'right' },
      { title: 'rewritten', align: 'right' },
      { title: '' },
    ],
    [
      [
        'time, median',
        formatDuration(timing.original_ms),
        formatDuration(timing.rewritten_ms),
        colors.bold(ratio(timing.original_ms, timing.rewritten_ms)),
      ],
      [
        'peak memory',
        formatBytes(timing.original_peak_bytes!),
        formatBytes(timing.rewritten_peak_bytes!),
        ratio(timing.original_peak_bytes!, timing.rewritten_peak_bytes!, 'less', 'more'),
      ],
      [
        'loss, bits per masked byte',
        metric.original.toFixed(4),
        metric.rewritten.toFixed(4),
        `${change < 0 ? '' : '+'}${(100 * change).toFixed(2)}%`,
      ],
      ...outputs.map(output => [
        `error of ${output.name}`,
        '',
        formatError(output.relative_squared_error),
        '',
      ]),
    ],
  );
}

function shown(file: string): string {
  return relative(process.cwd(), file);
}
