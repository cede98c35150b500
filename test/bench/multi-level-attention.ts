import { parseArgs } from 'node:util';
import type { InferenceSession as Session } from 'onnxruntime-common';
import { describeEnvironment } from '../../cli/environment.js';
import { operationCount } from '../../custom-ops/multi-level-attention/operation-count.js';
import {
  blockLength,
  type MultiLevelParameters,
  plainParameters,
} from '../../custom-ops/multi-level-attention/parameters.js';
import { InferenceSession, Tensor } from '../../custom-ops/runtime/node/index.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { nodeModel } from '../custom-ops/multi-level-attention/node-session.js';
import type { TrainedHeads } from './byte-model.js';
import { type Contender, matrixProduct, median, multiHeadAttention, timeInTurns } from './contenders.js';

/**
 * The CPU kernel of MultiLevelAttention against ONNX Runtime's own fused attention
 * (com.microsoft.MultiHeadAttention), a matrix product, and itself with one level, which is standard attention:
 *
 *   node dist/test/bench/multi-level-attention.js [--length N]... [--heads N] [--threads N] [--runs N] [--causal]
 *
 * One process, taking turns, medians; prints one JSON document. Blocks are such that the last level has
 * length / 2^(levels - 1) tokens. Times of these dense kernels do not depend on what the numbers are.
 */
const { values: options } = parseArgs({
  options: {
    length: { type: 'string', multiple: true, default: ['8192'] },
    heads: { type: 'string', default: '2' },
    threads: { type: 'string', default: '2' },
    runs: { type: 'string', default: '5' },
    causal: { type: 'boolean', default: false },
  },
});
const threads = Number(options.threads);
const sessionOptions: Session.SessionOptions = { executionProviders: ['cpu'], intraOpNumThreads: threads };
const SIZE = 64;

/** Ranks that are measured: one level, eight equal ones, and those of the paper's experiments. */
const RANKS = [[64], [8, 8, 8, 8, 8, 8, 8, 8], [32, 8, 6, 4, 4, 4, 4, 2], [40, 16, 4, 4], [48, 16]] as const;

async function multiLevel(parameters: MultiLevelParameters, heads: TrainedHeads): Promise<Contender> {
  const model = nodeModel(parameters, ['query', 'key', 'value'], { bare: true, outputs: [] });
  const session = await InferenceSession.create(model, sessionOptions);
  const tensor = (data: Float32Array) =>
    new Tensor('float32', data, [1, heads.heads, heads.length, heads.size]);
  const feeds = { query: tensor(heads.query), key: tensor(heads.key), value: tensor(heads.value) };
  return {
    name: parameters.ranks.join('|'),
    run: async () => (await session.run(feeds)).output!.data as Float32Array,
    release: () => session.release(),
  };
}

async function measure(length: number): Promise<unknown> {
  const random = new SeededRandom(length);
  const count = Number(options.heads);
  const data = () => random.normals(count * length * SIZE);
  const heads: TrainedHeads = {
    site: 'random',
    heads: count,
    length,
    size: SIZE,
    causal: options.causal,
    scale: SIZE ** -0.5,
    query: data(),
    key: data(),
    value: data(),
  };
  const parameters = RANKS.map(ranks =>
    plainParameters(ranks, Math.max(1, Math.ceil(length / 2 ** (ranks.length - 1))), {
      causal: options.causal,
    }),
  );
  const product = await matrixProduct(sessionOptions);
  const fused = await multiHeadAttention(heads, sessionOptions);
  const contenders = [product, fused];
  for (const each of parameters) contenders.push(await multiLevel(each, heads));
  const times = (await timeInTurns(contenders, Number(options.runs))).map(({ ms }) => ms);
  for (const contender of contenders) await contender.release();
  const fusedMs = median(times[1]!);
  return {
    length,
    heads: count,
    head_size: SIZE,
    causal: options.causal,
    matmul_gflops: product.flops / median(times[0]!) / 1e6,
    fused: { name: fused.name, median_ms: fusedMs, min_ms: Math.min(...times[1]!) },
    results: parameters.map((each, n) => {
      const ms = times[n + 2]!;
      const { scores, values, standard } = operationCount(each, length, SIZE);
      return {
        ranks: each.ranks.join('|'),
        smallest_block: Math.min(length, blockLength(each, each.ranks.length - 1)),
        median_ms: median(ms),
        min_ms: Math.min(...ms),
        // Of neighbors in time, since the machine's speed changes.
        speed: median(ms.map((each, run) => times[1]![run]! / each)),
        score_share: scores / (standard - values),
        most_by_operations: standard / (scores + values),
      };
    }),
  };
}

const measurements = [];
for (const length of options.length.map(Number)) measurements.push(await measure(length));
process.stdout.write(
  `${JSON.stringify({ machine: describeEnvironment(), threads, measurements }, null, 1)}\n`,
);
