import type { InferenceSession as Session } from 'onnxruntime-common';
import { InferenceSession as OnnxRuntimeSession } from 'onnxruntime-node';
import { median } from '../../cli/statistics.js';
import {
  coefficients,
  type ElementwiseParameters,
} from '../../custom-ops/elementwise-attention/parameters.js';
import {
  type ElementwiseInputs,
  elementwiseAttention,
} from '../../custom-ops/elementwise-attention/reference.js';
import { GraphBuilder, type Value } from '../../custom-ops/graph-builder.js';
import type { Tensor as Numbers } from '../../custom-ops/operator.js';
import { InferenceSession, Tensor } from '../../custom-ops/runtime/node/index.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { buildModel } from '../../rewriter/onnx/encode.js';
import { DataType } from '../../rewriter/onnx/spec.js';
import { connectedInputs, feeds, nodeModel } from '../custom-ops/elementwise-attention/node-model.js';
import type { TrainedHeads } from './byte-model.js';
import { commandLine, printReport } from './command.js';
import {
  type Contender,
  groupQueryAttention,
  multiHeadAttention,
  spread,
  timeInTurns,
} from './contenders.js';

/**
 * ElementwiseAttention on the CPU against the plain operators that exporters write for it, against its own
 * function body, and against ONNX Runtime's fused softmax attention of the same width
 * (com.microsoft.MultiHeadAttention, causal also GroupQueryAttention); and its decoding step after contexts of
 * 1024 and 65536 tokens:
 *
 *   node dist/test/bench/elementwise-attention.js --help
 *
 * One process, taking turns of two runs of which the second counts, medians; prints one JSON document. Softmax
 * attention has heads of 64 channels. Outputs of element-wise attention go to memory that has been used before, as
 * inside a model: with `--new-outputs` the runtime allocates them, now and then from pages that the system has to
 * clear first.
 */
const USAGE =
  '[--length N] [--channels N] [--threads N] [--runs N] [--order N]... [--causal] [--no-softmax] [--no-decoding] [--new-outputs]';
const { values: options } = commandLine(USAGE, {
  length: { type: 'string', default: '16384' },
  channels: { type: 'string', default: '256' },
  threads: { type: 'string', default: '2' },
  runs: { type: 'string', default: '3' },
  order: { type: 'string', multiple: true, default: ['2', '6'] },
  causal: { type: 'boolean', default: false },
  'no-softmax': { type: 'boolean', default: false },
  'no-decoding': { type: 'boolean', default: false },
  'new-outputs': { type: 'boolean', default: false },
});
const threads = Number(options.threads);
const sessionOptions: Session.SessionOptions = { executionProviders: ['cpu'], intraOpNumThreads: threads };
const HEAD = 64;
const CONTEXTS = [1024, 65536] as const;
const STEPS = 2000;

function randomInputs(seed: number, length: number, channels: number): ElementwiseInputs {
  const random = new SeededRandom(seed);
  const tensor = (): Numbers => ({ dims: [1, length, channels], data: random.normals(length * channels) });
  return { query: tensor(), key: tensor(), value: tensor() };
}

/** The series as exporters write it: running products, and one sum for each power. */
function plainModel({ order, causal }: ElementwiseParameters): Uint8Array {
  const b = new GraphBuilder(18);
  const input = (name: string): Value => ({ name, type: DataType.FLOAT });
  const [query, key, value] = [input('query'), input('key'), input('value')];
  const sum = (x: Value) => (causal ? b.cumSum(x, 1) : b.reduceSum(x, 1));
  let term = b.exp(b.mul(b.mul(key, -1), key));
  let numerator = sum(b.mul(term, value));
  let denominator = sum(term);
  let factor = query;
  for (let n = 1; n <= order; n++) {
    term = b.mul(term, key);
    const power = b.mul(factor, coefficients(order)[n]!);
    numerator = b.add(numerator, b.mul(power, sum(b.mul(term, value))));
    denominator = b.add(denominator, b.mul(power, sum(term)));
    if (n < order) factor = b.mul(factor, query);
  }
  b.output(b.div(numerator, denominator), 'output');
  const inputs = ['query', 'key', 'value'].map(name => ({
    name,
    dataType: DataType.FLOAT,
    dims: ['batch', 'length', 'channels'],
  }));
  const outputs = [{ name: 'output', dataType: DataType.FLOAT }];
  return buildModel({
    irVersion: 8,
    opsetImports: { '': 18 },
    graph: { name: 'elementwise', nodes: b.nodes, inputs, outputs },
  });
}

async function native(parameters: ElementwiseParameters, connected: readonly string[]) {
  const session = await InferenceSession.create(nodeModel(parameters, connected), sessionOptions);
  const placement = session.onnxRewrite.placement[0]!;
  if (placement.executedBy !== 'native-kernel')
    throw new Error(`needs the native build: ${placement.reason}`);
  return session;
}

async function contender(
  name: string,
  session: Pick<InferenceSession, 'run' | 'release'>,
  inputs: ElementwiseInputs,
): Promise<Contender> {
  const given = feeds(inputs);
  const { dims, data } = inputs.query;
  const output = options['new-outputs'] ? null : new Tensor('float32', new Float32Array(data.length), dims);
  return {
    name,
    run: async () => (await session.run(given, { output })).output!.data as Float32Array,
    release: () => session.release(),
  };
}

async function fullPass(length: number, channels: number, causal: boolean) {
  const inputs = randomInputs(length, length, channels);
  const heads: TrainedHeads = {
    site: 'random',
    heads: channels / HEAD,
    length,
    size: HEAD,
    causal: false,
    scale: HEAD ** -0.5,
    query: inputs.query.data,
    key: inputs.key.data,
    value: inputs.value.data,
  };
  const contenders: Contender[] = [];
  if (!options['no-softmax']) {
    contenders.push(await multiHeadAttention(heads, sessionOptions));
    if (causal) contenders.push(await groupQueryAttention({ ...heads, causal }, sessionOptions));
  }
  for (const order of options.order.map(Number)) {
    const parameters = { order, causal };
    const connected = connectedInputs(inputs);
    const plain = await OnnxRuntimeSession.create(plainModel(parameters), sessionOptions);
    const body = await OnnxRuntimeSession.create(nodeModel(parameters, connected), sessionOptions);
    contenders.push(
      await contender(`order ${order}, plain operators`, plain, inputs),
      await contender(`order ${order}, function body`, body, inputs),
      await contender(`order ${order}, kernel`, await native(parameters, connected), inputs),
    );
  }
  const times = await timeInTurns(contenders, Number(options.runs), { warm: true });
  for (const each of contenders) await each.release();
  return times.map(({ ms }, n) => ({ name: contenders[n]!.name, ...spread(ms) }));
}

/** Steps after both contexts take turns, one by one. */
async function decoding(channels: number) {
  const results = [];
  for (const order of options.order.map(Number)) {
    const parameters = { order, causal: true };
    const states = CONTEXTS.map(context => {
      const { present } = elementwiseAttention(randomInputs(context, context, channels), {
        order,
        causal: false,
      });
      return feeds({ ...randomInputs(1, 1, channels), past: present! });
    });
    const session = await native(parameters, Object.keys(states[0]!));
    const times = CONTEXTS.map(() => [] as number[]);
    for (let step = -STEPS / 10; step < STEPS; step++) {
      for (const [n, given] of states.entries()) {
        const start = performance.now();
        session.runSync(given);
        if (step >= 0) times[n]!.push(1e3 * (performance.now() - start));
      }
    }
    await session.release();
    const [short, long] = times.map(median) as [number, number];
    const state_bytes = 4 * channels * (2 * (order + 1) + 1);
    results.push({ order, step_us: { 1024: short, 65536: long }, ratio: long / short, state_bytes });
  }
  return results;
}

const [length, channels] = [Number(options.length), Number(options.channels)];
printReport({
  threads,
  length,
  channels,
  causal: options.causal,
  full_pass: await fullPass(length, channels, options.causal),
  decoding: options['no-decoding'] ? [] : await decoding(channels),
});
