import * as ort from 'onnxruntime-web/webgpu';
import { GpuMemory } from '../../cli/web-demo/gpu-memory.js';
import { type Execution, InferenceSession } from '../../custom-ops/runtime/web/index.js';

/** What tests run inside the browser. Everything that crosses is plain data. */

export interface PageTensor {
  readonly type: 'float32' | 'int64' | 'bool';
  readonly dims: readonly number[];
  readonly data: readonly number[];
}

export type PageFeeds = Readonly<Record<string, PageTensor>>;

export interface PageResult {
  readonly execution: Execution;
  readonly notices: readonly string[];
  /** Outputs of every run, in the order of the feeds. */
  readonly outputs: readonly PageFeeds[];
}

function tensor({ type, dims, data }: PageTensor): ort.Tensor {
  if (type === 'int64') return new ort.Tensor(type, BigInt64Array.from(data, BigInt), dims);
  if (type === 'bool') return new ort.Tensor(type, Uint8Array.from(data), dims);
  return new ort.Tensor(type, Float32Array.from(data), dims);
}

const tensors = (feeds: PageFeeds) =>
  Object.fromEntries(Object.entries(feeds).map(([name, value]) => [name, tensor(value)]));

async function plain(results: ort.InferenceSession.ReturnType): Promise<PageFeeds> {
  const outputs: Record<string, PageTensor> = {};
  for (const [name, value] of Object.entries(results)) {
    const result = value as ort.Tensor;
    const data = Array.from((await result.getData()) as Float32Array, Number);
    outputs[name] = { type: result.type as PageTensor['type'], dims: result.dims, data };
  }
  return outputs;
}

let opened: Promise<InferenceSession> | null = null;

/** Keeps ONNX Runtime's device, and so the compiled kernels, from one test to the next. */
async function keepDevice(
  model: string,
  options: Pick<ort.InferenceSession.SessionOptions, 'externalData'> = {},
): Promise<void> {
  opened ??= InferenceSession.create(model, { ...options, onNotice: () => {} });
  try {
    await opened;
  } catch (error) {
    opened = null;
    throw error;
  }
}

/** Runs a model once for each of the feeds, all at the same time when `together`. */
export async function runModel(
  model: string,
  feeds: readonly PageFeeds[],
  { together = false, ...options }: { together?: boolean } & ort.InferenceSession.SessionOptions = {},
): Promise<PageResult> {
  await keepDevice(model, options);
  const notices: string[] = [];
  const session = await InferenceSession.create(model, {
    ...options,
    onNotice: message => notices.push(message),
  });
  const outputs: PageFeeds[] = [];
  if (together) {
    const results = await Promise.all(feeds.map(feed => session.run(tensors(feed))));
    for (const result of results) outputs.push(await plain(result));
  } else {
    for (const feed of feeds) outputs.push(await plain(await session.run(tensors(feed))));
  }
  const { execution } = session;
  await session.release();
  return { execution, notices, outputs };
}

/** Runs a model whose external data the page has fetched: as bytes, or as a Blob. */
export async function runWithFetched(
  model: string,
  feeds: PageFeeds,
  { path, address, as }: { readonly path: string; readonly address: string; readonly as: 'bytes' | 'blob' },
): Promise<PageResult> {
  const blob = await (await fetch(address)).blob();
  const data = as === 'blob' ? blob : await blob.arrayBuffer();
  return runModel(model, [feeds], { externalData: [{ path, data }] });
}

/** Runs two sessions at the same time, each of them twice. */
export async function runTwoSessions(model: string, feeds: PageFeeds): Promise<readonly PageFeeds[]> {
  const sessions = await Promise.all([InferenceSession.create(model), InferenceSession.create(model)]);
  const runs = await Promise.all([...sessions, ...sessions].map(session => session.run(tensors(feeds))));
  const outputs = await Promise.all(runs.map(plain));
  for (const session of sessions) await session.release();
  return outputs;
}

/** GPU memory in buffers, in bytes, after each of `marks` runs. */
export async function memoryAfter(
  model: string,
  feeds: readonly PageFeeds[],
  marks: readonly number[],
): Promise<readonly number[]> {
  const memory = GpuMemory.watch();
  const session = await InferenceSession.create(model);
  const measured: number[] = [];
  for (let run = 1; run <= Math.max(...marks); run++) {
    await session.run(tensors(feeds[run % feeds.length]!));
    if (marks.includes(run)) measured.push(memory.live);
  }
  await session.release();
  return measured;
}

/**
 * Runs a model, then once more while the GPU goes away, then a new session. The model has no part that ONNX Runtime
 * runs, which hangs when that happens in the middle of its own work.
 */
export async function runThroughLoss(model: string, feeds: PageFeeds): Promise<readonly PageResult[]> {
  const results: PageResult[] = [];
  const onNotice = (message: string) => notices.push(message);
  let notices: string[] = [];
  let session = await InferenceSession.create(model, { onNotice });
  const add = async (run: Promise<ort.InferenceSession.ReturnType>) => {
    const outputs = [await plain(await run)];
    results.push({ execution: session.execution, notices, outputs });
    notices = [];
  };
  await add(session.run(tensors(feeds)));
  const device = (await ort.env.webgpu.device) as GPUDevice;
  const run = session.run(tensors(feeds));
  device.destroy();
  await add(run);
  await session.release();
  session = await InferenceSession.create(model, { onNotice });
  await add(session.run(tensors(feeds)));
  await session.release();
  return results;
}

/** Runs a model on a device that claims to hold no storage buffer above `bytes` bytes. */
export async function runWithinLimit(model: string, feeds: PageFeeds, bytes: number): Promise<PageResult> {
  await keepDevice(model);
  const device = (await ort.env.webgpu.device) as GPUDevice;
  const limits = new Proxy(device.limits, {
    get: (target, name) =>
      name === 'maxStorageBufferBindingSize' ? bytes : Reflect.get(target, name, target),
  });
  Object.defineProperty(device, 'limits', { value: limits, configurable: true });
  try {
    return await runModel(model, [feeds]);
  } finally {
    Reflect.deleteProperty(device, 'limits');
  }
}

/** The same in a worker: answers one message. */
export function serveInWorker(): void {
  globalThis.onmessage = async ({ data }: MessageEvent<{ model: string; feeds: PageFeeds }>) => {
    globalThis.postMessage(await runModel(data.model, [data.feeds]));
  };
}
