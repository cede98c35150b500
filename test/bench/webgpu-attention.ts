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
  parametersOf,
} from '../../custom-ops/multipole-attention/parameters.js';
import { recordMultipoleAttention } from '../../custom-ops/multipole-attention/webgpu.js';
import { type Attributes, DOMAIN } from '../../custom-ops/operator.js';
import type { GpuRange } from '../../custom-ops/runtime/web/gpu-recorder.js';
import { readRange } from '../../custom-ops/runtime/web/gpu-transfer.js';
import { InferenceSession } from '../../custom-ops/runtime/web/index.js';
import { multipoleAttention, OperatorRunner, openDevice } from '../../custom-ops/runtime/web/node.js';
import type { HostTensor } from '../../custom-ops/runtime/web/operator-runner.js';
import { decodeModel } from '../../rewriter/onnx/decode.js';
import { decideUniformly } from '../../rewriter/plan.js';
import { rewriteModel } from '../../rewriter/rewrite-model.js';
import { endProcess, openOnnxRuntime } from './onnxruntime-over-dawn.js';
import { relativeSquaredError } from './relative-squared-error.js';
import {
  attempt,
  kernelLines,
  OnnxRuntimeContender,
  OperatorContender,
  printLine as print,
  type RunTime,
  timeInTurns,
  tokensFirst,
} from './webgpu-contenders.js';

/**
 * The WebGPU kernels of MultipoleAttention against exact attention, on the queries, keys and values of a trained
 * model, with the defaults, with the preset `fast`, and with a fixed number of clusters of largest mass: the project's
 * own exact kernel, and com.microsoft.MultiHeadAttention of ONNX Runtime's WebGPU execution provider. Then the whole
 * model, original and rewritten.
 *
 *   node dist/test/bench/webgpu-attention.js [--model FILE] [--text FILE] [--length N]... [--windows N]
 *        [--site N] [--dawn OPTION]... [--models]
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
    dawn: { type: 'string', multiple: true, default: [] },
    models: { type: 'boolean', default: false },
  },
});
const original = new Uint8Array(readFileSync(options.model));
const text = readFileSync(options.text);

/** Query, key and value, [1, heads, length, size]. */
type Heads = readonly [query: HostTensor, key: HostTensor, value: HostTensor];

/** What is compared, by name. */
const variants: Readonly<Record<string, Attributes>> = {
  default: {},
  fast: definition.presets.fast!,
  'by mass': { segment: 256, key_clusters: 8, query_clusters: 64, retrieve: [16], retrieve_error: 0 },
};

const parametersWith = (settings: Attributes): MultipoleParameters =>
  parametersOf({ ...attributesOf(defaultParameters(false)), ...settings });

function rewritten(settings: Attributes): Uint8Array<ArrayBuffer> {
  const choice = { operator: definition, settings: { ...settings, exact_below: 0 }, selects: () => true };
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

/** The operator and both forms of exact attention, in turns. */
async function measureAttention(ort: typeof Ort, length: number): Promise<void> {
  const runners: OperatorRunner[] = [];
  const runnerOn = (given: GPUDevice) => {
    const runner = new OperatorRunner(given);
    runners.push(runner);
    return runner;
  };
  const runner = runnerOn(device);
  const heads = await trainedHeads(ort, length);
  const contender = (name: string, settings: Attributes, on = device) =>
    new OperatorContender(
      name,
      runnerOn(on),
      multipoleAttention,
      attributesOf(parametersWith(settings)),
      heads,
    );
  const exact = contender('exact', { retrieve: [-1] });
  const own = Object.entries(variants).map(([name, settings]) => contender(name, settings));
  const theirs = await OnnxRuntimeContender.open(ort, runner, heads);
  const [theirTime, exactTime, ...times] = await timeInTurns(device, [theirs, exact, ...own]);
  const expected = await exact.output();
  print({
    length,
    heads: heads[0].dims[1],
    size: heads[0].dims[3],
    [theirs.name]: theirTime,
    [exact.name]: report(parametersWith({ retrieve: [-1] }), -1, heads, exactTime!),
    error_of_exact: relativeSquaredError(
      await theirs.output(),
      tokensFirst({ type: 'float32', dims: heads[0].dims, data: expected }),
    ),
  });
  await theirs.close();
  for (const [n, measured] of own.entries()) {
    const time = times[n]!;
    const parameters = parametersWith(variants[measured.name]!);
    const retrieved = await retrievedClusters(runner, parameters, heads);
    const { kernels, spanMs } = await measured.kernels();
    print({
      length,
      attention: measured.name,
      ...report(parameters, retrieved, heads, time),
      times_faster: {
        gpu: theirTime!.gpuMs / time.gpuMs,
        wall: theirTime!.wallMs / time.wallMs,
        single: theirTime!.singleMs / time.singleMs,
        than_own_exact: exactTime!.gpuMs / time.gpuMs,
      },
      error: relativeSquaredError(await measured.output(), expected),
      clusters_retrieved_per_row: retrieved,
      scratch_bytes: measured.scratchBytes,
      gpu_span_ms: spanMs,
      dispatches: kernels.reduce((sum, kernel) => sum + kernel.dispatches, 0),
      kernels: kernelLines(kernels),
    });
  }
  await attempt(`attention within default limits at ${length}`, async () => {
    const small = (await openDevice(options.dawn, {}))!;
    const limited = Object.entries(variants).map(([name, settings]) => contender(name, settings, small));
    const limitedTimes = await timeInTurns(small, limited);
    const { maxStorageBufferBindingSize, maxComputeWorkgroupStorageSize } = small.limits;
    for (const [n, measured] of limited.entries()) {
      print({
        length,
        attention: `${measured.name} within default limits`,
        maxStorageBufferBindingSize,
        maxComputeWorkgroupStorageSize,
        ...limitedTimes[n]!,
        scratch_bytes: measured.scratchBytes,
        error: relativeSquaredError(await measured.output(), expected),
      });
      measured.destroy();
    }
  });
  for (const measured of [exact, ...own]) measured.destroy();
  for (const used of runners) used.destroy();
}

/** Clusters that a row retrieves on average. */
async function retrievedClusters(
  runner: OperatorRunner,
  parameters: MultipoleParameters,
  heads: Heads,
): Promise<number> {
  const copies: { readonly range: GpuRange; readonly pools: number }[] = [];
  await runner.run(multipoleAttention, attributesOf(parameters), heads, (recorder, ...call) =>
    recordMultipoleAttention(recorder, ...call, {
      keyClusters: () => {},
      queryCentroids: () => {},
      queryClusters: () => {},
      retrieved: ({ count }, { chosen, pools }) => {
        const { range } = runner.allocate('copy', { type: 'float32', dims: [chosen.bytes / 4] });
        recorder.copy(chosen, range);
        copies.push({ range, pools: count * pools });
      },
    }),
  );
  let found = 0;
  let pools = 0;
  for (const { range, pools: count } of copies) {
    for (let word of new Uint32Array(await readRange(runner.device, range))) {
      for (; word !== 0; word &= word - 1) found++;
    }
    pools += count;
    range.buffer.destroy();
  }
  return found / pools;
}

/** Times, operations, and operations by time on the GPU. */
function report(
  parameters: MultipoleParameters,
  retrieved: number,
  [{ dims }]: Heads,
  time: RunTime,
): RunTime & { readonly gflop: number; readonly tflops: number } {
  const [, count = 0, length = 0, size = 0] = dims;
  const operations = operationCount({ ...parameters, retrieveError: 0 }, retrieved, length);
  const gflop = (2 * size * count * (operations.multipole ?? 0)) / 1e9;
  return { ...time, gflop, tflops: gflop / time.gpuMs };
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

const { ort, device } = await openOnnxRuntime(options.dawn);
for (const length of options.length.map(Number)) {
  await attempt(`attention at ${length}`, () => measureAttention(ort, length));
  if (!options.models) continue;
  await attempt(`models at ${length}`, async () => {
    const exact = await measureModel(ort, 'exact attention', rewritten({ retrieve: [-1] }), length);
    for (const [name, settings] of Object.entries(variants)) {
      const logits = await measureModel(ort, name, rewritten(settings), length);
      print({ length, model: name, error_of_logits: relativeSquaredError(logits, exact) });
    }
  });
  await attempt(`model as exported at ${length}`, async () => {
    await measureModel(ort, 'as exported', original, length);
  });
}
console.log('done');
endProcess();
