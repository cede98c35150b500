import { Command, InvalidArgumentError, Option } from 'commander';
import { customNodes } from '../custom-ops/runtime/node/placement.js';
import { openModelFile } from '../rewriter/onnx/model-file.js';
import { takesAnyLength } from './bench-inputs.js';
import { measure } from './bench-measure.js';
import type { Contender } from './bench-models.js';
import { renderBenchPage } from './bench-page.js';
import type { BenchReport } from './bench-report.js';
import { holdsArrays } from './data/input-source.js';
import { findTokenizer } from './data/tokenizer.js';
import {
  type CommonOptions,
  INPUT_FILES,
  lengthsOption,
  positiveInteger,
  threadCount,
  tokenizerOption,
  withCommonOptions,
} from './options.js';
import { renderBench } from './render-bench.js';
import { ReportForms } from './report-forms.js';
import { PROVIDERS, type Provider } from './runtime/providers.js';
import { print, printJson } from './terminal.js';

interface BenchOptions extends CommonOptions {
  readonly inputs?: string;
  readonly tokenizer?: string;
  readonly length?: readonly number[];
  readonly batch: number;
  readonly provider: readonly Provider[];
  readonly threads?: readonly number[];
  readonly runs: number;
  readonly maxSeconds?: number;
  readonly stock?: true;
  readonly memory: boolean;
  readonly report?: string;
}

const FORMS = new ReportForms<BenchReport>({
  '.html': renderBenchPage,
  '.json': report => `${JSON.stringify(report, null, 2)}\n`,
});

const DEFAULT_LENGTHS: readonly number[] = [512, 2048, 8192];

export function benchCommand(): Command {
  return withCommonOptions(
    new Command('bench')
      .description('Time models against each other: in one process, taking turns, by median.')
      .argument('<models...>', 'model files; the others are compared with the first')
      .addOption(lengthsOption('lengths of generated inputs, or of the text to take (default: 512, 2k, 8k)'))
      .option('--inputs <file>', `inputs: ${INPUT_FILES}`)
      .addOption(tokenizerOption())
      .option('--batch <n>', 'batch rows', positiveInteger, 1)
      .addOption(
        new Option('--provider <name...>', 'execution providers')
          .choices(Object.keys(PROVIDERS))
          .default(['cpu'], 'cpu'),
      )
      .option(
        '--threads <n...>',
        "threads of one operator (default: the runtime's choice)",
        severalThreadCounts,
      )
      .option('--runs <n>', 'timed runs at each length, after one to warm up', positiveInteger, 5)
      .option('--max-seconds <s>', 'give up on a model where one run takes longer', seconds)
      .option('--stock', 'also run function bodies in onnxruntime-node alone')
      .option('--no-memory', 'leave out peak memory, which takes a process for each model and length')
      .option('--report <file>', 'write a report: .html (with plots) or .json', FORMS.parse),
  ).action(async (models: readonly string[], options: BenchOptions) => {
    const pending = options.report === undefined ? null : FORMS.begin(options.report);
    try {
      const report = await bench(models, options);
      pending?.finish(report);
      if (options.json) printJson(report);
      else print(renderBench(report));
      if (!options.json && options.report !== undefined) print(`\nReport: ${options.report}`);
    } finally {
      pending?.discard();
    }
  });
}

function bench(models: readonly string[], options: BenchOptions): Promise<BenchReport> {
  // A name that is mistyped shows at once, not after the others were measured.
  for (const model of models) openModelFile(model).close();
  const { inputs = null, batch, runs, provider, threads, maxSeconds = null, memory } = options;
  return measure({
    contenders: [...new Set(models)].flatMap((model): Contender[] => [
      ...(options.stock && customNodes(model).length > 0 ? [{ model, stock: true }] : []),
      { model, stock: false },
    ]),
    providers: [...new Set(provider)],
    threads: threads ?? [null],
    lengths: options.length ?? (hasOneLength(models[0]!, inputs) ? [null] : DEFAULT_LENGTHS),
    inputs,
    tokenizer: findTokenizer(models[0]!, options.tokenizer),
    batch,
    runs,
    memory,
    maxSeconds,
  });
}

/** Whether the inputs are taken as they are: from a file by name, or generated for a model of one length. */
function hasOneLength(model: string, inputs: string | null): boolean {
  return inputs === null ? !takesAnyLength(model) : holdsArrays(inputs);
}

function severalThreadCounts(text: string, previous: readonly number[] = []): readonly number[] {
  return [...previous, ...text.split(',').map(threadCount)];
}

function seconds(text: string): number {
  const value = Number(text);
  if (!(value > 0 && value < 1e6)) throw new InvalidArgumentError('Expected a number of seconds above 0.');
  return value;
}
