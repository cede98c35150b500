import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import type { InferenceSession as Session } from 'onnxruntime-common';
import { InferenceSession as OnnxRuntimeSession, Tensor } from 'onnxruntime-node';
import { median } from '../../cli/statistics.js';
import { note } from '../../cli/terminal.js';
import { OPERATORS } from '../../custom-ops/index.js';
import { multipoleAttention } from '../../custom-ops/multipole-attention/operator.js';
import { InferenceSession } from '../../custom-ops/runtime/node/index.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { decideUniformly } from '../../rewriter/plan.js';
import { rewriteModel } from '../../rewriter/rewrite-model.js';
import { commandLine, printReport } from './command.js';
import { type Contender, spread, timeInTurns } from './contenders.js';
import { relativeSquaredError } from './relative-squared-error.js';

/**
 * Exported models of one layer of bilinear attention, as they are and after the rewrite, by the function body
 * and by the CPU kernel of BilinearAttention:
 *
 *   node dist/test/bench/bilinear-attention.js --help
 *
 * Models take x [batch, sequence, width] and give y; test/zoo/bilinear/generate.py FOLDER [WIDTH] writes some. One
 * process, taking turns of two runs of which the second counts, medians; prints one JSON document.
 */
const { values: options, positionals: files } = commandLine(
  'MODEL... [--length N]... [--width N] [--threads N] [--runs N]',
  {
    length: { type: 'string', multiple: true, default: ['1024', '4096'] },
    width: { type: 'string', default: '256' },
    threads: { type: 'string', default: '2' },
    runs: { type: 'string', default: '5' },
  },
);
if (files.length === 0) throw new Error('no model is given, see --help');
const threads = Number(options.threads);
const width = Number(options.width);
const sessionOptions: Session.SessionOptions = { executionProviders: ['cpu'], intraOpNumThreads: threads };

function contender(name: string, session: Session | InferenceSession, x: Tensor): Contender {
  return {
    name,
    run: async () => (await session.run({ x })).y!.data as Float32Array,
    release: () => session.release(),
  };
}

async function measure(file: string, length: number): Promise<unknown> {
  const original = readFileSync(file);
  const { model } = rewriteModel(original, sites =>
    decideUniformly(
      sites,
      { operator: multipoleAttention, settings: {}, selects: () => true, fusions: OPERATORS },
      null,
    ),
  );
  const native = await InferenceSession.create(model, sessionOptions);
  const placement = native.onnxRewrite.placement[0];
  if (placement?.executedBy !== 'native-kernel') throw new Error('needs the native build and a site');
  const x = new Tensor('float32', new SeededRandom(length).normals(length * width), [1, length, width]);
  const contenders = [
    contender('exported', await OnnxRuntimeSession.create(original, sessionOptions), x),
    contender('function body', await OnnxRuntimeSession.create(model, sessionOptions), x),
    contender('kernel', native, x),
  ];
  const times = await timeInTurns(contenders, Number(options.runs), { warm: true });
  for (const each of contenders) await each.release();
  const [exported, , kernel] = times.map(({ output }) => output);
  const exportedMs = median(times[0]!.ms);
  note(`measured ${basename(file)}, ${length} tokens`);
  return {
    model: basename(file),
    length,
    relative_error: Math.sqrt(relativeSquaredError(kernel!, exported!)),
    results: contenders.map(({ name }, n) => ({
      name,
      ...spread(times[n]!.ms),
      speed: exportedMs / median(times[n]!.ms),
    })),
  };
}

const measurements = [];
for (const file of files) {
  for (const length of options.length.map(Number)) measurements.push(await measure(file, length));
}
printReport({ threads, width, measurements });
