import { readFileSync } from 'node:fs';
import { median } from '../../cli/statistics.js';
import { multipoleAttention } from '../../custom-ops/multipole-attention/operator.js';
import {
  attributesOf,
  defaultParameters,
  type MultipoleParameters,
  parametersOf,
} from '../../custom-ops/multipole-attention/parameters.js';
import type { Attributes } from '../../custom-ops/operator.js';
import { parsePlan } from '../../rewriter/plan.js';
import { ByteModel, type TrainedHeads } from './byte-model.js';
import { maskedWindow, nextByteWindow } from './byte-windows.js';
import { commandLine, printReport } from './command.js';
import {
  groupQueryAttention,
  matrixProduct,
  multiHeadAttention,
  multipole,
  pack,
  timeInTurns,
} from './contenders.js';
import { recordedHeads } from './recorded-heads.js';
import { relativeSquaredError } from './relative-squared-error.js';

/**
 * The CPU kernel of MultipoleAttention against ONNX Runtime's own fused attention
 * (com.microsoft.MultiHeadAttention, causal also GroupQueryAttention) and its matrix product, on the queries, keys
 * and values of a trained model:
 *
 *   node dist/test/bench/attention.js --help
 *
 * With --plan, each site in the form that a plan for `rewrite --plan` gives it, in place of settings.
 *
 * One process, taking turns, medians; prints one JSON document. Errors are relative squared errors against
 * exact attention. With --heads, queries, keys and values of one length are recorded in that file (.npz), and
 * once it is there read from it, so that a second call does nothing but measure.
 */
const USAGE = `[--model FILE] [--text FILE] [--length N]... [--threads N] [--runs N] [--sites I,J]
    [--settings NAME,NAME] [--plan FILE]... [--heads FILE]`;
const { values: options } = commandLine(USAGE, {
  model: { type: 'string', default: 'models/byte-lm/encoder.onnx' },
  text: { type: 'string', default: 'models/byte-lm/mansfield-park.txt' },
  length: { type: 'string', multiple: true, default: ['8192'] },
  threads: { type: 'string', default: '2' },
  runs: { type: 'string', default: '5' },
  sites: { type: 'string', default: '' },
  settings: { type: 'string', default: '' },
  plan: { type: 'string', multiple: true, default: [] },
  heads: { type: 'string' },
});
const threads = Number(options.threads);
const sessionOptions = { executionProviders: ['cpu'], intraOpNumThreads: threads };

const plans = options.plan.map(file => ({ file, plan: parsePlan(readFileSync(file, 'utf8'), file) }));

/** Settings that are measured on a site, by name. */
function settings(causal: boolean, site: string): Record<string, MultipoleParameters> {
  const base = defaultParameters(causal);
  if (plans.length > 0) {
    const planned = plans.map(({ file, plan }): [string, MultipoleParameters] => {
      const { operator, attributes } = plan.sites.find(({ id }) => id === site)!;
      const retrieve = operator === null ? -1 : (attributes.retrieve ?? base.retrieve);
      const all = { ...attributesOf(base), ...attributes, retrieve: [retrieve].flat() } as Attributes;
      return [file, parametersOf(all)];
    });
    return { ...Object.fromEntries(planned), exact: { ...base, retrieve: [-1] } };
  }
  const fast = parametersOf({ ...attributesOf(base), ...multipoleAttention.presets.fast });
  const all: Record<string, MultipoleParameters> = {
    default: base,
    fast,
    'no retrieval': { ...base, retrieve: [0] },
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
  for (const [name, parameters] of Object.entries(settings(heads.causal, heads.site))) {
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

const measurements = [];
for (const length of options.heads === undefined ? options.length : options.length.slice(0, 1)) {
  for (const heads of await recordedHeads(options.heads, () => record(Number(length)))) {
    measurements.push(await measure(heads));
  }
}
const { model, text } = options;
printReport({ threads, model, text, measurements });
