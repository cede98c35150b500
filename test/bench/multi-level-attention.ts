import type { InferenceSession as Session } from 'onnxruntime-common';
import { median } from '../../cli/statistics.js';
import { operationCount } from '../../custom-ops/multi-level-attention/operation-count.js';
import { blockLength, plainParameters } from '../../custom-ops/multi-level-attention/parameters.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import type { TrainedHeads } from './byte-model.js';
import { commandLine, printReport } from './command.js';
import {
  type Contender,
  groupQueryAttention,
  matrixProduct,
  multiHeadAttention,
  spread,
  timeInTurns,
} from './contenders.js';
import { multiLevel } from './multi-level-contender.js';

/**
 * The CPU kernel of MultiLevelAttention against ONNX Runtime's own fused attention
 * (com.microsoft.MultiHeadAttention), a matrix product, and itself with one level, which is standard attention:
 *
 *   node dist/test/bench/multi-level-attention.js --help
 *
 * One process, taking turns, medians; prints one JSON document. Where no levels are given, blocks are such that
 * the last level has length / 2^(levels - 1) tokens. Causal attention is timed as com.microsoft.GroupQueryAttention
 * too, which leaves out the hidden half. Times of these dense kernels do not depend on what the numbers are.
 */
const USAGE = '[--length N]... [--heads N] [--threads N] [--runs N] [--causal] [--levels R,R,...@BLOCK]...';
const { values: options } = commandLine(USAGE, {
  length: { type: 'string', multiple: true, default: ['8192'] },
  heads: { type: 'string', default: '2' },
  threads: { type: 'string', default: '2' },
  runs: { type: 'string', default: '5' },
  causal: { type: 'boolean', default: false },
  levels: { type: 'string', multiple: true, default: [] },
});
const threads = Number(options.threads);
const sessionOptions: Session.SessionOptions = { executionProviders: ['cpu'], intraOpNumThreads: threads };
const SIZE = 64;

/** Ranks that are measured: one level, eight equal ones, and those of the paper's experiments. */
const RANKS = [[64], [8, 8, 8, 8, 8, 8, 8, 8], [32, 8, 6, 4, 4, 4, 4, 2], [40, 16, 4, 4], [48, 16]] as const;

function shapes(length: number): { readonly ranks: readonly number[]; readonly block: number }[] {
  if (options.levels.length === 0) {
    return RANKS.map(ranks => ({ ranks, block: Math.max(1, Math.ceil(length / 2 ** (ranks.length - 1))) }));
  }
  return options.levels.map(text => {
    const [ranks = '', block] = text.split('@');
    return { ranks: ranks.split(',').map(Number), block: Number(block) };
  });
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
  const parameters = shapes(length).map(({ ranks, block }) =>
    plainParameters(ranks, block, { causal: options.causal }),
  );
  const product = await matrixProduct(sessionOptions);
  const fused = await multiHeadAttention(heads, sessionOptions);
  const causal = options.causal ? [await groupQueryAttention(heads, sessionOptions)] : [];
  const own: Contender[] = [];
  for (const each of parameters) own.push(await multiLevel(each, heads, sessionOptions));
  const contenders = [product, fused, ...causal, ...own];
  const times = (await timeInTurns(contenders, Number(options.runs))).map(({ ms }) => ms);
  const ownTimes = times.slice(-own.length);
  for (const contender of contenders) await contender.release();
  return {
    length,
    heads: count,
    head_size: SIZE,
    causal: options.causal,
    matmul_gflops: product.flops / median(times[0]!) / 1e6,
    fused: { name: fused.name, ...spread(times[1]!) },
    causal_fused: causal.map(({ name }) => ({ name, ...spread(times[2]!) })),
    results: parameters.map((each, n) => {
      const ms = ownTimes[n]!;
      const { scores, values, standard } = operationCount(each, length, SIZE);
      return {
        ranks: own[n]!.name,
        smallest_block: Math.min(length, blockLength(each, each.ranks.length - 1)),
        ...spread(ms),
        // Of neighbors in time, since the machine's speed changes.
        speed: median(ms.map((each, run) => times[1]![run]! / each)),
        causal_speed: causal.map(() => median(ms.map((each, run) => times[2]![run]! / each))),
        score_share: scores / (standard - values),
        most_by_operations: standard / (scores + values),
      };
    }),
  };
}

const measurements = [];
for (const length of options.length.map(Number)) measurements.push(await measure(length));
printReport({ threads, measurements });
