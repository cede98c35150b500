import { Command } from 'commander';
import { formatBytes, formatDuration } from '../rewriter/format.js';
import type { Environment } from '../rewriter/report.js';
import type { RuntimeDescription } from '../rewriter/validation.js';
import type { BenchRequest, Contender } from './bench-models.js';
import { describeEnvironment } from './environment.js';
import { type CommonOptions, lengths, positiveInteger, withCommonOptions } from './options.js';
import { describeRuntime } from './runtime/describe-runtime.js';
import { runJob } from './runtime/run-job.js';
import { print, printJson, table } from './terminal.js';

interface BenchOptions extends CommonOptions {
  readonly inputs?: string;
  readonly length?: readonly number[];
  readonly batch: number;
  readonly threads?: number;
  readonly runs: number;
  readonly stock?: true;
  readonly memory: boolean;
}

/** What `bench --json` prints. */
export interface BenchReport {
  readonly machine: Environment;
  readonly runs: readonly BenchRun[];
  /** For every model after the first: where it becomes faster than the first. */
  readonly crossover: readonly Crossover[];
}

export interface BenchRun {
  readonly model: string;
  readonly provider: string;
  readonly runtime: RuntimeDescription;
  /** Threads of one operator; null = as many as the runtime chooses. */
  readonly threads: number | null;
  /** Tokens; null for inputs taken as they are. */
  readonly length: number | null;
  readonly batch: number;
  readonly median_ms: number;
  readonly min_ms: number;
  readonly max_ms: number;
  /** Peak resident memory of a process that runs this model alone; null when not measured. */
  readonly peak_bytes: number | null;
}

export interface Crossover {
  readonly model: string;
  readonly runtime: RuntimeDescription;
  /** Shortest measured length from which on its median is below the first model's; null when there is none. */
  readonly length: number | null;
}

const DEFAULT_LENGTHS: readonly number[] = [512, 2048, 8192];

export function benchCommand(): Command {
  return withCommonOptions(
    new Command('bench')
      .description('Time models against each other: in one process, taking turns, by median.')
      .argument('<models...>', 'model files; the others are compared with the first')
      .option('--inputs <file>', 'inputs: .npz or .json by input name, or text for byte-level models')
      .option('--length <n...>', 'lengths of generated inputs, or of the text to take', lengths)
      .option('--batch <n>', 'batch rows', positiveInteger, 1)
      .option('--threads <n>', 'threads of one operator', positiveInteger)
      .option('--runs <n>', 'timed runs at each length', positiveInteger, 5)
      .option('--stock', 'also run function bodies in onnxruntime-node alone')
      .option('--no-memory', 'leave out peak memory, which takes a process for each model and length'),
  ).action(async (models: readonly string[], options: BenchOptions) => {
    const report = await measure(models, options);
    if (options.json) printJson(report);
    else print(render(report));
  });
}

async function measure(models: readonly string[], options: BenchOptions): Promise<BenchReport> {
  const { inputs = null, batch, threads = null, runs } = options;
  const asTheyAre = inputs !== null && /\.(npz|json)$/i.test(inputs);
  const request: BenchRequest = {
    contenders: models.flatMap((model): Contender[] => [
      ...(options.stock ? [{ model, stock: true }] : []),
      { model, stock: false },
    ]),
    inputs,
    lengths: options.length ?? (asTheyAre ? [null] : DEFAULT_LENGTHS),
    batch,
    threads,
    runs,
  };
  const timing = await runJob('bench', request);
  const measured: BenchRun[] = [];
  for (const [n, contender] of request.contenders.entries()) {
    for (const [l, length] of request.lengths.entries()) {
      const sorted = [...timing.ms[n]![l]!].sort((a, b) => a - b);
      const alone = { ...request, contenders: [contender], lengths: [length], runs: 1 };
      measured.push({
        model: contender.model,
        provider: timing.runtimes[n]!.execution_provider,
        runtime: timing.runtimes[n]!,
        threads,
        length,
        batch,
        median_ms: median(sorted),
        min_ms: sorted[0]!,
        max_ms: sorted.at(-1)!,
        peak_bytes: options.memory ? (await runJob('bench', alone)).peak_bytes : null,
      });
    }
  }
  const perContender = request.lengths.length;
  const first = measured.slice(0, perContender);
  const crossover = timing.runtimes.slice(1).map((runtime, n) => {
    const others = measured.slice((n + 1) * perContender, (n + 2) * perContender);
    return { model: others[0]!.model, runtime, length: crossoverOf(first, others) };
  });
  return { machine: describeEnvironment(), runs: measured, crossover };
}

function median(sorted: readonly number[]): number {
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

function crossoverOf(first: readonly BenchRun[], others: readonly BenchRun[]): number | null {
  const byLength = others
    .map((run, l) => ({ length: run.length, faster: run.median_ms < first[l]!.median_ms }))
    .filter((run): run is { length: number; faster: boolean } => run.length !== null)
    .sort((a, b) => b.length - a.length);
  let shortest: number | null = null;
  for (const { length, faster } of byLength) {
    if (!faster) break;
    shortest = length;
  }
  return shortest;
}

function render({ machine, runs, crossover }: BenchReport): string {
  const base = new Map(
    runs.slice(0, new Set(runs.map(run => run.length)).size).map(run => [run.length, run]),
  );
  const rows = runs.map(run => [
    run.model,
    describeRuntime(run.runtime),
    run.length === null ? '–' : String(run.length),
    formatDuration(run.median_ms),
    formatDuration(run.min_ms),
    formatDuration(run.max_ms),
    `${(base.get(run.length)!.median_ms / run.median_ms).toFixed(2)}x`,
    run.peak_bytes === null ? '–' : formatBytes(run.peak_bytes),
  ]);
  return [
    `${machine.cpu}, ${machine.cores} cores, ${machine.platform}, Node ${machine.node}`,
    '',
    table(
      [
        { title: 'model' },
        { title: 'runtime' },
        { title: 'tokens', align: 'right' },
        { title: 'median', align: 'right' },
        { title: 'min', align: 'right' },
        { title: 'max', align: 'right' },
        { title: 'speed', align: 'right' },
        { title: 'peak memory', align: 'right' },
      ],
      rows,
    ),
    ...crossover.map(({ model, runtime, length }) =>
      length === null
        ? `${model} (${describeRuntime(runtime)}) is not faster at the longest length`
        : `${model} (${describeRuntime(runtime)}) is faster from ${length} tokens on`,
    ),
  ].join('\n');
}
