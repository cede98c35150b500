import { parseArgs } from 'node:util';
import { describeEnvironment } from '../../cli/environment.js';
import {
  defaultParameters,
  type MultipoleParameters,
} from '../../custom-ops/multipole-attention/parameters.js';
import { ByteModel, type TrainedHeads } from './byte-model.js';
import { maskedWindow, nextByteWindow } from './byte-windows.js';
import {
  matrixProduct,
  median,
  multiHeadAttention,
  multipole,
  pack,
  relativeSquaredError,
  timeInTurns,
} from './contenders.js';

/**
 * The CPU kernel of MultipoleAttention against ONNX Runtime's own fused attention
 * (com.microsoft.MultiHeadAttention) and a matrix product of as many operations, on the queries, keys and
 * values of a trained model:
 *
 *   node dist/test/bench/attention.js [--model FILE] [--text FILE] [--length N]... [--threads N] [--runs N]
 *                                     [--sites I,J]
 *
 * One process, taking turns, medians; prints one JSON document. Errors are relative squared errors against
 * exact attention.
 */
const { values: options } = parseArgs({
  options: {
    model: { type: 'string', default: 'models/byte-lm/encoder.onnx' },
    text: { type: 'string', default: 'models/byte-lm/mansfield-park.txt' },
    length: { type: 'string', multiple: true, default: ['8192'] },
    threads: { type: 'string', default: '2' },
    runs: { type: 'string', default: '5' },
    sites: { type: 'string', default: '' },
  },
});
const threads = Number(options.threads);
const sessionOptions = { executionProviders: ['cpu'], intraOpNumThreads: threads };

/** Settings that are measured, by name. */
function settings(causal: boolean): Record<string, MultipoleParameters> {
  const base = defaultParameters(causal);
  const fast = {
    ...base,
    segment: 128,
    window: 0,
    queryClusters: 32,
    iterations: 2,
    retrieve: [24],
    group: 16,
  };
  const far = { ...base, queryClusters: 32, iterations: 2, retrieve: [0], hierarchy: 'dyadic' as const };
  return {
    default: base,
    fast,
    'no retrieval': { ...base, retrieve: [0] },
    'dyadic, no retrieval': far,
    exact: { ...base, retrieve: [-1] },
  };
}

async function measure(heads: TrainedHeads): Promise<unknown> {
  const product = await matrixProduct(sessionOptions);
  const contenders = [await multiHeadAttention(heads, sessionOptions)];
  for (const [name, parameters] of Object.entries(settings(heads.causal))) {
    contenders.push(await multipole(name, parameters, heads, sessionOptions));
  }
  const all = [product, ...contenders];
  const results = new Map((await timeInTurns(all, Number(options.runs))).map((r, n) => [all[n]!.name, r]));
  await Promise.all(all.map(contender => contender.release()));
  const theirs = contenders[0]!.name;
  const exact = results.get('exact')!.output;
  const flops = 4 * heads.size * heads.length ** 2 * heads.heads;
  return {
    site: heads.site,
    length: heads.length,
    heads: heads.heads,
    head_size: heads.size,
    causal: heads.causal,
    matmul_gflops: product.flops / median(results.get(product.name)!.ms) / 1e6,
    exact_gflop: flops / 1e9,
    results: contenders.map(({ name }) => {
      const { ms, output } = results.get(name)!;
      return {
        name,
        median_ms: median(ms),
        min_ms: Math.min(...ms),
        speed: median(results.get(theirs)!.ms) / median(ms),
        exact_gflops: flops / median(ms) / 1e6,
        error: relativeSquaredError(output, name === theirs ? pack(exact, heads) : exact),
      };
    }),
  };
}

const measurements = [];
const chosen = options.sites ? options.sites.split(',').map(Number) : null;
const model = new ByteModel(options.model, sessionOptions);
const exact = model.sites.map(() => ({ ...defaultParameters(model.causal), retrieve: [-1] }));
for (const length of options.length.map(Number)) {
  const window = model.causal
    ? nextByteWindow(options.text, 0, length)
    : maskedWindow(options.text, 0, length, null);
  const sites = await model.record(window.ids, exact);
  for (const [n, heads] of sites.entries())
    if (chosen?.includes(n) ?? true) measurements.push(await measure(heads));
}
process.stdout.write(
  `${JSON.stringify({ machine: describeEnvironment(), threads, model: options.model, text: options.text, measurements }, null, 1)}\n`,
);
