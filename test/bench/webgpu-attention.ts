import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import type * as Ort from 'onnxruntime-common';
import { expose } from '../../cli/validation/replacement.js';
import { operationCount } from '../../custom-ops/multipole-attention/operation-count.js';
import { multipoleAttention as definition } from '../../custom-ops/multipole-attention/operator.js';
import {
  attributesOf,
  defaultParameters,
  type MultipoleParameters,
} from '../../custom-ops/multipole-attention/parameters.js';
import { DOMAIN } from '../../custom-ops/operator.js';
import { InferenceSession } from '../../custom-ops/runtime/web/index.js';
import { multipoleAttention, OperatorRunner, openDevice } from '../../custom-ops/runtime/web/node.js';
import type { GpuTensor } from '../../custom-ops/runtime/web/operator.js';
import type { HostTensor } from '../../custom-ops/runtime/web/operator-runner.js';
import { decodeModel } from '../../rewriter/onnx/decode.js';
import { buildModel } from '../../rewriter/onnx/encode.js';
import { DataType } from '../../rewriter/onnx/spec.js';
import { decideUniformly } from '../../rewriter/plan.js';
import { rewriteModel } from '../../rewriter/rewrite-model.js';
import { KernelTimes } from './kernel-times.js';
import { endProcess, openOnnxRuntime } from './onnxruntime-over-dawn.js';

/**
 * The WebGPU kernels of MultipoleAttention against exact attention, on the queries, keys and values of a trained
 * model: the project's own exact kernel, and com.microsoft.MultiHeadAttention of ONNX Runtime's WebGPU execution
 * provider. Then the whole model, original and rewritten.
 *
 *   node dist/test/bench/webgpu-attention.js [--model FILE] [--text FILE] [--length N]... [--windows N]
 *        [--site N] [--segment N] [--runs N] [--dawn OPTION]... [--models]
 *
 * Heads of `--windows` stretches of the text stand side by side. Prints one line of JSON per measurement, and
 * `done` at last: the process ends by a signal. Errors are relative squared errors against exact attention.
 */
const { values: options } = parseArgs({
  options: {
    model: { type: 'string', default: 'models/byte-lm/encoder.onnx' },
    text: { type: 'string', default: 'models/byte-lm/mansfield-park.txt' },
    length: { type: 'string', multiple: true, default: ['8192', '32768'] },
    windows: { type: 'string', default: '2' },
    site: { type: 'string', default: '1' },
    segment: { type: 'string', default: '256' },
    runs: { type: 'string', default: '10' },
    dawn: { type: 'string', multiple: true, default: [] },
    models: { type: 'boolean', default: false },
  },
});
const runs = Number(options.runs);
const TURNS = 5;
const print = (measured: object) => console.log(JSON.stringify(measured));
const original = new Uint8Array(readFileSync(options.model));
const text = readFileSync(options.text);

/** Query, key and value, [1, heads, length, size]. */
type Heads = readonly [query: HostTensor, key: HostTensor, value: HostTensor];

const settings = { segment: Number(options.segment), exact_below: 0 };

function rewritten(changes: Readonly<Record<string, number | readonly number[]>>): Uint8Array<ArrayBuffer> {
  const choice = { operator: definition, settings: { ...settings, ...changes }, selects: () => true };
  return rewriteModel(original, sites => decideUniformly(sites, choice, null)).model;
}

const feeds = (ort: typeof Ort, start: number, length: number) => ({
  input_ids: new ort.Tensor('int64', BigInt64Array.from(text.subarray(start, start + length), BigInt), [
    1,
    length,
  ]),
});

/** What one site of the model with exact attention sees, the heads of all windows side by side. */
async function trainedHeads(ort: typeof Ort, length: number): Promise<Heads> {
  const model = decodeModel(rewritten({ retrieve: [-1] }));
  const names = model.graph.nodes.filter(({ domain }) => domain === DOMAIN)[Number(options.site)]!.inputs;
  const session = await InferenceSession.create(new Uint8Array(expose(model, names)), { onnxruntime: ort });
  const found = names.map(() => [] as Ort.Tensor[]);
  for (let window = 0; window < Number(options.windows); window++) {
    const results = await session.run(feeds(ort, window * length, length), names);
    for (const [n, name] of names.entries()) found[n]!.push(results[name] as Ort.Tensor);
  }
  await session.release();
  const [query, key, value] = found.map(sideBySide);
  return [query!, key!, value!];
}

function sideBySide(tensors: readonly Ort.Tensor[]): HostTensor {
  const [, heads = 0, length = 0, size = 0] = tensors[0]!.dims;
  const part = heads * length * size;
  const data = new Float32Array(tensors.length * part);
  for (const [n, tensor] of tensors.entries()) data.set(tensor.data as Float32Array, n * part);
  return { type: 'float32', dims: [1, tensors.length * heads, length, size], data };
}

/** Milliseconds per run of runs that are queued without waiting in between: median of several turns, after one more. */
async function timeQueued(device: GPUDevice, run: () => unknown): Promise<number> {
  const times: number[] = [];
  for (let turn = 0; turn <= TURNS; turn++) {
    const start = performance.now();
    for (let n = 0; n < runs; n++) await run();
    await device.queue.onSubmittedWorkDone();
    if (turn > 0) times.push((performance.now() - start) / runs);
  }
  return times.sort((a, b) => a - b)[TURNS >> 1]!;
}

async function measureOperator(
  runner: OperatorRunner,
  name: string,
  parameters: MultipoleParameters,
  heads: Heads,
  exact: Float32Array | null,
): Promise<Float32Array> {
  const { device } = runner;
  const inputs = heads.map((tensor, n) => runner.upload(`input ${n}`, tensor));
  const output = runner.allocate('output', { type: 'float32', dims: heads[0].dims });
  const attributes = attributesOf(parameters);
  const run = (times: KernelTimes | null) => {
    const recorder = runner.recorder(times);
    multipoleAttention.record(recorder, attributes, inputs, [output]);
    recorder.submit();
  };
  const ms = await timeQueued(device, () => run(null));
  const times = new KernelTimes(device);
  run(times);
  const { kernels, spanMs } = await times.read();
  times.destroy();
  const result = (await runner.download(output)).data as Float32Array;
  for (const { range } of [...inputs, output] as GpuTensor[]) range.buffer.destroy();
  const [, count = 0, length = 0, size = 0] = heads[0].dims;
  const operations = operationCount(parameters, parameters.retrieve[0]!, length);
  const gflop = (2 * size * count * (operations.multipole ?? 0)) / 1e9;
  print({
    attention: name,
    length,
    heads: count,
    size,
    ms,
    gpu_span_ms: spanMs,
    gflop,
    tflops: gflop / ms,
    dispatches: kernels.reduce((sum, { dispatches }) => sum + dispatches, 0),
    scratch_bytes: runner.scratchBytes,
    error: exact && relativeSquaredError(result, exact),
    kernels: kernels.map(({ label, dispatches, ms: took }) => `${label} x${dispatches}: ${took.toFixed(3)}`),
  });
  return result;
}

/** ONNX Runtime's own attention; query, key and value are [1, length, heads * size]. */
async function measureOnnxRuntime(
  ort: typeof Ort,
  runner: OperatorRunner,
  heads: Heads,
  exact: Float32Array,
): Promise<void> {
  const [, count = 0, length = 0, size = 0] = heads[0].dims;
  const value = (name: string) => ({ name, dataType: DataType.FLOAT, dims: [1, 'n', count * size] });
  const model = buildModel({
    irVersion: 10,
    opsetImports: { '': 18, 'com.microsoft': 1 },
    graph: {
      name: 'attention',
      nodes: [
        {
          opType: 'MultiHeadAttention',
          domain: 'com.microsoft',
          inputs: ['query', 'key', 'value'],
          outputs: ['output'],
          attributes: { num_heads: { type: 'int', value: count } },
        },
      ],
      inputs: ['query', 'key', 'value'].map(value),
      outputs: [value('output')],
    },
  });
  const session = await ort.InferenceSession.create(model, {
    executionProviders: ['webgpu'],
    preferredOutputLocation: 'gpu-buffer',
  });
  const inputs = heads.map((tensor, n) =>
    runner.upload(`input ${n}`, { ...tensor, dims: [1, length, count * size], data: packed(tensor) }),
  );
  const [query, key, val] = inputs.map(({ range, dims }) =>
    ort.Tensor.fromGpuBuffer(range.buffer, { dataType: 'float32', dims }),
  );
  const given = { query: query!, key: key!, value: val! };
  const ms = await timeQueued(runner.device, async () => {
    const { output } = await session.run(given);
    output!.dispose();
  });
  const { output } = await session.run(given);
  const result = (await output!.getData()) as Float32Array;
  const expected = packed({ type: 'float32', dims: heads[0].dims, data: exact });
  const gflop = (4 * length ** 2 * size * count) / 1e9;
  const error = relativeSquaredError(result, expected);
  print({
    attention: 'com.microsoft.MultiHeadAttention',
    length,
    heads: count,
    size,
    ms,
    gflop,
    tflops: gflop / ms,
    error,
  });
  output!.dispose();
  for (const { range } of inputs) range.buffer.destroy();
  await session.release();
}

/** [1, heads, length, size] as [1, length, heads * size]. */
function packed({ dims, data }: HostTensor): Float32Array {
  const [, heads = 0, length = 0, size = 0] = dims;
  const result = new Float32Array(data.length);
  for (let head = 0; head < heads; head++) {
    for (let n = 0; n < length; n++) {
      const from = (head * length + n) * size;
      result.set(data.subarray(from, from + size), (n * heads + head) * size);
    }
  }
  return result;
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

/** Wall-clock time of a whole model, from bytes in main memory to logits there. */
async function measureModel(
  ort: typeof Ort,
  name: string,
  model: Uint8Array,
  length: number,
): Promise<Float32Array> {
  const session = await InferenceSession.create(model, { onnxruntime: ort });
  const times: number[] = [];
  let logits = new Float32Array();
  for (let run = 0; run <= 5; run++) {
    const start = performance.now();
    const results = await session.run(feeds(ort, 0, length));
    logits = (results.logits as Ort.Tensor).data as Float32Array<ArrayBuffer>;
    if (run > 0) times.push(performance.now() - start);
  }
  const { scratchBytes, execution } = session;
  await session.release();
  print({ model: name, length, median_ms: times.sort((a, b) => a - b)[2], scratchBytes, execution });
  return logits;
}

async function attempt(what: string, measure: () => Promise<unknown>): Promise<void> {
  try {
    await measure();
  } catch (error) {
    print({ failed: what, reason: error instanceof Error ? error.stack?.slice(0, 800) : String(error) });
  }
}

const { ort, device } = await openOnnxRuntime(options.dawn);
for (const length of options.length.map(Number)) {
  await attempt(`attention at ${length}`, async () => {
    const heads = await trainedHeads(ort, length);
    const runner = new OperatorRunner(device);
    const parameters = { ...defaultParameters(false), segment: settings.segment };
    const exact = await measureOperator(runner, 'exact', { ...parameters, retrieve: [-1] }, heads, null);
    await measureOperator(runner, 'multipole', parameters, heads, exact);
    await attempt(`MultiHeadAttention at ${length}`, () => measureOnnxRuntime(ort, runner, heads, exact));
    runner.destroy();
    await attempt(`attention within default limits at ${length}`, async () => {
      const small = new OperatorRunner((await openDevice(options.dawn, {}))!);
      const { maxStorageBufferBindingSize, maxBufferSize } = small.device.limits;
      print({ maxStorageBufferBindingSize, maxBufferSize });
      await measureOperator(small, 'multipole within default limits', parameters, heads, exact);
      small.destroy();
    });
  });
  if (!options.models) continue;
  await attempt(`models at ${length}`, async () => {
    const approximate = await measureModel(ort, 'rewritten', rewritten({}), length);
    const exact = await measureModel(ort, 'original', original, length);
    print({ length, error_of_logits: relativeSquaredError(approximate, exact) });
  });
}
console.log('done');
endProcess();
