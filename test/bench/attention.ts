import { parseArgs } from 'node:util';
import { InferenceSession as OnnxRuntimeSession } from 'onnxruntime-node';
import { describeEnvironment } from '../../cli/environment.js';
import {
  defaultParameters,
  type MultipoleParameters,
} from '../../custom-ops/multipole-attention/parameters.js';
import { DOMAIN, DOMAIN_VERSION } from '../../custom-ops/operator.js';
import { InferenceSession, Tensor } from '../../custom-ops/runtime/node/index.js';
import { buildModel } from '../../rewriter/onnx/encode.js';
import { type AttributeSpec, DataType, type NodeSpec } from '../../rewriter/onnx/spec.js';
import { nodeAttributes } from '../custom-ops/multipole-attention/body-model.js';
import { type TrainedHeads, trainedHeads } from './trained-heads.js';

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

/** Idle threads of a session spin for a moment: long enough to be in the next one's way. */
const PAUSE_MS = 30;

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

interface Contender {
  readonly name: string;
  run(): Promise<Float32Array>;
  release(): Promise<void>;
}

function model(node: NodeSpec, ranks: readonly number[]): Uint8Array {
  return buildModel({
    irVersion: 10,
    opsetImports: { '': 18, [DOMAIN]: DOMAIN_VERSION, 'com.microsoft': 1 },
    graph: {
      name: 'attention',
      nodes: [node],
      inputs: node.inputs.map((name, n) => ({
        name,
        dataType: DataType.FLOAT,
        dims: Array.from({ length: ranks[n]! }, (_, axis) => `${name}_${axis}`),
      })),
      outputs: node.outputs.map(name => ({ name, dataType: DataType.FLOAT })),
    },
  });
}

/** ONNX Runtime's attention; it takes its fused, flash-like path when nothing is masked. */
async function multiHeadAttention(heads: TrainedHeads): Promise<Contender> {
  const attributes: Record<string, AttributeSpec> = {
    num_heads: { type: 'int', value: heads.heads },
    scale: { type: 'float', value: heads.scale },
    unidirectional: { type: 'int', value: Number(heads.causal) },
  };
  const node: NodeSpec = {
    opType: 'MultiHeadAttention',
    domain: 'com.microsoft',
    inputs: ['query', 'key', 'value'],
    outputs: ['output'],
    attributes,
  };
  const session = await OnnxRuntimeSession.create(model(node, [3, 3, 3]), sessionOptions);
  const packed = (data: Float32Array) =>
    new Tensor('float32', pack(data, heads), [1, heads.length, heads.heads * heads.size]);
  const feeds = { query: packed(heads.query), key: packed(heads.key), value: packed(heads.value) };
  return {
    name: 'com.microsoft.MultiHeadAttention',
    run: async () => (await session.run(feeds)).output!.data as Float32Array,
    release: () => session.release(),
  };
}

async function multipole(
  name: string,
  parameters: MultipoleParameters,
  heads: TrainedHeads,
): Promise<Contender> {
  const node: NodeSpec = {
    opType: 'MultipoleAttention',
    domain: DOMAIN,
    inputs: ['query', 'key', 'value'],
    outputs: ['output'],
    attributes: nodeAttributes({ ...parameters, scale: heads.scale }),
  };
  const session = await InferenceSession.create(model(node, [4, 4, 4]), sessionOptions);
  const tensor = (data: Float32Array) =>
    new Tensor('float32', data, [1, heads.heads, heads.length, heads.size]);
  const feeds = { query: tensor(heads.query), key: tensor(heads.key), value: tensor(heads.value) };
  return {
    name,
    run: async () => (await session.run(feeds)).output!.data as Float32Array,
    release: () => session.release(),
  };
}

/** Two matrix products of the size of one head's exact attention, cut where ONNX Runtime is at its best. */
async function matrixProduct(): Promise<Contender & { readonly flops: number }> {
  const size = 2048;
  const node: NodeSpec = { opType: 'MatMul', inputs: ['a', 'b'], outputs: ['c'] };
  const session = await OnnxRuntimeSession.create(model(node, [2, 2]), sessionOptions);
  const tensor = () => new Tensor('float32', new Float32Array(size * size).fill(1e-3), [size, size]);
  const feeds = { a: tensor(), b: tensor() };
  return {
    name: `MatMul ${size}^3`,
    flops: 2 * size ** 3,
    run: async () => (await session.run(feeds)).c!.data as Float32Array,
    release: () => session.release(),
  };
}

/** [1,H,N,D] as [1,N,H*D]. */
function pack(data: Float32Array, { heads, length, size }: TrainedHeads): Float32Array {
  const packed = new Float32Array(data.length);
  for (let head = 0; head < heads; head++) {
    for (let n = 0; n < length; n++) {
      const from = (head * length + n) * size;
      packed.set(data.subarray(from, from + size), (n * heads + head) * size);
    }
  }
  return packed;
}

function relativeSquaredError(actual: Float32Array, exact: Float32Array): number {
  let difference = 0;
  let norm = 0;
  for (let n = 0; n < exact.length; n++) {
    difference += (actual[n]! - exact[n]!) ** 2;
    norm += exact[n]! ** 2;
  }
  return difference / norm;
}

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!;

async function measure(heads: TrainedHeads): Promise<unknown> {
  const product = await matrixProduct();
  const contenders: Contender[] = [await multiHeadAttention(heads)];
  for (const [name, parameters] of Object.entries(settings(heads.causal))) {
    contenders.push(await multipole(name, parameters, heads));
  }
  const all = [product, ...contenders];
  const times = new Map<string, number[]>(all.map(({ name }) => [name, []]));
  const outputs = new Map<string, Float32Array>();
  for (let run = -1; run < Number(options.runs); run++) {
    for (const contender of all) {
      await new Promise(resolve => setTimeout(resolve, PAUSE_MS));
      const start = performance.now();
      const output = await contender.run();
      if (run >= 0) times.get(contender.name)!.push(performance.now() - start);
      else outputs.set(contender.name, output);
    }
  }
  await Promise.all(all.map(contender => contender.release()));
  const theirs = contenders[0]!.name;
  const exact = outputs.get('exact')!;
  const flops = 4 * heads.size * heads.length ** 2 * heads.heads;
  return {
    site: heads.site,
    length: heads.length,
    heads: heads.heads,
    head_size: heads.size,
    causal: heads.causal,
    matmul_gflops: product.flops / median(times.get(product.name)!) / 1e6,
    exact_gflop: flops / 1e9,
    results: contenders.map(({ name }) => {
      const ms = times.get(name)!;
      const output = outputs.get(name)!;
      return {
        name,
        median_ms: median(ms),
        min_ms: Math.min(...ms),
        speed: median(times.get(theirs)!) / median(ms),
        exact_gflops: flops / median(ms) / 1e6,
        error: relativeSquaredError(output, name === theirs ? pack(exact, heads) : exact),
      };
    }),
  };
}

const measurements = [];
const chosen = options.sites ? options.sites.split(',').map(Number) : null;
for (const length of options.length.map(Number)) {
  const sites = await trainedHeads(options.model, options.text, length);
  for (const [n, heads] of sites.entries())
    if (chosen?.includes(n) ?? true) measurements.push(await measure(heads));
}
process.stdout.write(
  `${JSON.stringify({ machine: describeEnvironment(), threads, model: options.model, text: options.text, measurements }, null, 1)}\n`,
);
