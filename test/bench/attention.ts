import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { decodeNpz, encodeNpz } from '../../cli/data/npz.js';
import type { TensorValue } from '../../cli/data/tensor.js';
import { describeEnvironment } from '../../cli/environment.js';
import { multipoleAttention } from '../../custom-ops/multipole-attention/operator.js';
import {
  attributesOf,
  defaultParameters,
  type MultipoleParameters,
  parametersOf,
} from '../../custom-ops/multipole-attention/parameters.js';
import { ByteModel, type TrainedHeads } from './byte-model.js';
import { maskedWindow, nextByteWindow } from './byte-windows.js';
import {
  groupQueryAttention,
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
 * (com.microsoft.MultiHeadAttention, causal also GroupQueryAttention) and its matrix product, on the queries, keys
 * and values of a trained model:
 *
 *   node dist/test/bench/attention.js [--model FILE] [--text FILE] [--length N]... [--threads N] [--runs N]
 *                                     [--sites I,J] [--settings NAME,NAME] [--heads FILE]
 *
 * One process, taking turns, medians; prints one JSON document. Errors are relative squared errors against
 * exact attention. With --heads, queries, keys and values of one length are recorded in that file (.npz), and
 * once it is there read from it, so that a second call does nothing but measure.
 */
const { values: options } = parseArgs({
  options: {
    model: { type: 'string', default: 'models/byte-lm/encoder.onnx' },
    text: { type: 'string', default: 'models/byte-lm/mansfield-park.txt' },
    length: { type: 'string', multiple: true, default: ['8192'] },
    threads: { type: 'string', default: '2' },
    runs: { type: 'string', default: '5' },
    sites: { type: 'string', default: '' },
    settings: { type: 'string', default: '' },
    heads: { type: 'string' },
  },
});
const threads = Number(options.threads);
const sessionOptions = { executionProviders: ['cpu'], intraOpNumThreads: threads };

/** Settings that are measured, by name. */
function settings(causal: boolean): Record<string, MultipoleParameters> {
  const base = defaultParameters(causal);
  const fast = parametersOf({ ...attributesOf(base), ...multipoleAttention.presets.fast });
  const all: Record<string, MultipoleParameters> = {
    default: base,
    fast,
    'no retrieval': { ...base, retrieve: [0] },
    long: { ...fast, segment: 256, iterations: 2, retrieve: [12], group: causal ? 16 : 32 },
    dyadic: { ...fast, segment: 256, keyClusters: 16, iterations: 2, retrieve: [0], hierarchy: 'dyadic' },
  };
  const chosen = options.settings ? options.settings.split(',') : Object.keys(all);
  return {
    ...Object.fromEntries(Object.entries(all).filter(([name]) => chosen.includes(name))),
    exact: { ...base, retrieve: [-1] },
  };
}

async function measure(heads: TrainedHeads): Promise<unknown> {
  const product = await matrixProduct(sessionOptions);
  const contenders = [await multiHeadAttention(heads, sessionOptions)];
  if (heads.causal) contenders.push(await groupQueryAttention(heads, sessionOptions));
  const theirs = contenders.map(({ name }) => name);
  for (const [name, parameters] of Object.entries(settings(heads.causal))) {
    contenders.push(await multipole(name, parameters, heads, sessionOptions));
  }
  const all = [product, ...contenders];
  const results = new Map((await timeInTurns(all, Number(options.runs))).map((r, n) => [all[n]!.name, r]));
  await Promise.all(all.map(contender => contender.release()));
  const best = Math.min(...theirs.map(name => median(results.get(name)!.ms)));
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
        speed: best / median(ms),
        exact_gflops: flops / median(ms) / 1e6,
        error: relativeSquaredError(output, theirs.includes(name) ? pack(exact, heads) : exact),
      };
    }),
  };
}

/** What the chosen sites see on the first `length` bytes of the text. */
async function record(length: number): Promise<TrainedHeads[]> {
  const model = new ByteModel(options.model, sessionOptions);
  const exact = model.sites.map(() => ({ ...defaultParameters(model.causal), retrieve: [-1] }));
  const window = model.causal
    ? nextByteWindow(options.text, 0, length)
    : maskedWindow(options.text, 0, length, null);
  const chosen = options.sites ? options.sites.split(',').map(Number) : null;
  return (await model.record(window.ids, exact)).filter((_, n) => chosen?.includes(n) ?? true);
}

const PARTS = ['query', 'key', 'value'] as const;

function encodeHeads(sites: readonly TrainedHeads[]): Uint8Array {
  const entries = sites.flatMap(heads => {
    const dims = [1, heads.heads, heads.length, heads.size];
    const scalars = { causal: Number(heads.causal), scale: heads.scale };
    return [
      ...PARTS.map(part => [part, { type: 'float32', dims, data: heads[part] }] as const),
      ...Object.entries(scalars).map(
        ([name, value]) => [name, { type: 'float32', dims: [1], data: Float32Array.of(value) }] as const,
      ),
    ].map(([name, value]): [string, TensorValue] => [`${heads.site}/${name}`, value]);
  });
  return encodeNpz(new Map(entries));
}

function decodeHeads(bytes: Uint8Array): TrainedHeads[] {
  const tensors = decodeNpz(bytes);
  const sites = new Set([...tensors.keys()].map(name => name.slice(0, name.lastIndexOf('/'))));
  return [...sites].map(site => {
    const tensor = (name: string) => tensors.get(`${site}/${name}`)!;
    const data = (name: string) => tensor(name).data as Float32Array;
    const [, heads = 0, length = 0, size = 0] = tensor('query').dims;
    const scalars = { causal: data('causal')[0] === 1, scale: data('scale')[0]! };
    const [query, key, value] = [data('query'), data('key'), data('value')];
    return { site, heads, length, size, ...scalars, query, key, value };
  });
}

async function headsOf(length: number): Promise<TrainedHeads[]> {
  if (options.heads === undefined) return record(length);
  if (!existsSync(options.heads)) writeFileSync(options.heads, encodeHeads(await record(length)));
  return decodeHeads(readFileSync(options.heads));
}

const measurements = [];
for (const length of options.heads === undefined ? options.length : options.length.slice(0, 1)) {
  for (const heads of await headsOf(Number(length))) measurements.push(await measure(heads));
}
const { model, text } = options;
const report = { machine: describeEnvironment(), threads, model, text, measurements };
process.stdout.write(`${JSON.stringify(report, null, 1)}\n`);
