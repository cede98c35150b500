import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { parseArgs } from 'node:util';
import type { InferenceSession as Session } from 'onnxruntime-common';
import { InferenceSession as OnnxRuntimeSession, Tensor } from 'onnxruntime-node';
import { describeEnvironment } from '../../cli/environment.js';
import { OPERATORS } from '../../custom-ops/index.js';
import { multipoleAttention } from '../../custom-ops/multipole-attention/operator.js';
import { InferenceSession } from '../../custom-ops/runtime/node/index.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { decideUniformly } from '../../rewriter/plan.js';
import { rewriteModel } from '../../rewriter/rewrite-model.js';
import { type Contender, median, timeInTurns } from './contenders.js';

/**
 * Exported models of one layer of bilinear attention, as they are and after the rewrite, by the function body
 * and by the CPU kernel of BilinearAttention:
 *
 *   node dist/test/bench/bilinear-attention.js MODEL... [--length N]... [--width N] [--threads N] [--runs N]
 *
 * Models take x [batch, sequence, width] and give y; test/zoo/bilinear/generate.py FOLDER writes some. One
 * process, taking turns, medians; prints one JSON document.
 */
const { values: options, positionals: files } = parseArgs({
  allowPositionals: true,
  options: {
    length: { type: 'string', multiple: true, default: ['1024', '4096'] },
    width: { type: 'string', default: '256' },
    threads: { type: 'string', default: '2' },
    runs: { type: 'string', default: '5' },
  },
});
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
  const before = await contenders[0]!.run();
  const after = await contenders[2]!.run();
  const times = (await timeInTurns(contenders, Number(options.runs))).map(({ ms }) => ms);
  for (const each of contenders) await each.release();
  const norm = (data: Float32Array) => Math.sqrt(data.reduce((sum, y) => sum + y * y, 0));
  const exportedMs = median(times[0]!);
  return {
    model: basename(file),
    length,
    relative_error: norm(before.map((y, n) => y - after[n]!)) / norm(before),
    results: contenders.map(({ name }, n) => ({
      name,
      median_ms: median(times[n]!),
      min_ms: Math.min(...times[n]!),
      speed: exportedMs / median(times[n]!),
    })),
  };
}

const measurements = [];
for (const file of files) {
  for (const length of options.length.map(Number)) measurements.push(await measure(file, length));
}
process.stdout.write(
  `${JSON.stringify({ machine: describeEnvironment(), threads, width, measurements }, null, 1)}\n`,
);
