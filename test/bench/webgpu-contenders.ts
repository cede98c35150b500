import type * as Ort from 'onnxruntime-common';
import type { Attributes } from '../../custom-ops/operator.js';
import type { GpuTensor, WebGpuOperator } from '../../custom-ops/runtime/web/node.js';
import { OperatorCall } from '../../custom-ops/runtime/web/operator-call.js';
import type { HostTensor, OperatorRunner } from '../../custom-ops/runtime/web/operator-runner.js';
import { buildModel } from '../../rewriter/onnx/encode.js';
import { DataType } from '../../rewriter/onnx/spec.js';
import { type KernelTime, KernelTimes } from './kernel-times.js';
import { QueueTime } from './queue-time.js';

/** Something to be timed: queues one run, without waiting for it. */
export interface Contender {
  readonly name: string;
  run(): unknown;
}

/** Milliseconds per run. */
export interface RunTime {
  /** Of the GPU's queue, by its clock, when runs are queued without waiting in between. */
  readonly gpuMs: number;
  /** Of the same runs, until Node hears that the last one has ended. */
  readonly wallMs: number;
  /** Of a single run, from the call until Node hears that it has ended. */
  readonly singleMs: number;
}

const TURNS = 5;
/** What every contender runs for in one turn, so that waiting for the GPU at its end weighs the same for all. */
const TURN_MS = 200;

/**
 * The medians of turns in which all contenders take part, one after the other: queued runs, then a single one. Runs
 * before the turns compile kernels and tell how many a turn takes.
 * @param device with the feature `timestamp-query`
 */
export async function timeInTurns(
  device: GPUDevice,
  contenders: readonly Contender[],
): Promise<readonly RunTime[]> {
  const queueTime = new QueueTime(device);
  const timed = async (contender: Contender, count: number) => {
    const start = performance.now();
    queueTime.begin();
    for (let run = 0; run < count; run++) await contender.run();
    queueTime.end();
    await device.queue.onSubmittedWorkDone();
    const wallMs = (performance.now() - start) / count;
    return { wallMs, gpuMs: (await queueTime.read()) / count };
  };
  const counts: number[] = [];
  for (const contender of contenders) {
    await timed(contender, 1);
    let count = 1;
    for (let trial = 0; trial < 2; trial++) {
      count = Math.max(1, Math.round(TURN_MS / (await timed(contender, count)).wallMs));
    }
    counts.push(count);
  }
  const times = contenders.map(() => [] as RunTime[]);
  for (let turn = 0; turn < TURNS; turn++) {
    for (const [n, contender] of contenders.entries()) {
      const queued = await timed(contender, counts[n]!);
      const single = await timed(contender, 1);
      times[n]!.push({ ...queued, singleMs: single.wallMs });
    }
  }
  queueTime.destroy();
  const median = (taken: readonly RunTime[], of: keyof RunTime) =>
    taken.map(time => time[of]).sort((a, b) => a - b)[TURNS >> 1]!;
  return times.map(taken => ({
    gpuMs: median(taken, 'gpuMs'),
    wallMs: median(taken, 'wallMs'),
    singleMs: median(taken, 'singleMs'),
  }));
}

/** One operator on this project's kernels. */
export class OperatorContender implements Contender {
  readonly #inputs: readonly (GpuTensor | null)[];
  readonly #outputs: readonly GpuTensor[];
  readonly #call: OperatorCall;

  /** @param wanted outputs that are computed: the first ones */
  constructor(
    readonly name: string,
    private readonly runner: OperatorRunner,
    operator: WebGpuOperator,
    attributes: Attributes,
    inputs: readonly (HostTensor | null)[],
    wanted = 1,
  ) {
    this.#call = new OperatorCall(operator, attributes);
    this.#inputs = inputs.map((tensor, n) => tensor && runner.upload(`input ${n}`, tensor));
    const dims = operator.outputDims(
      attributes,
      inputs.map(input => input?.dims ?? null),
    );
    this.#outputs = dims
      .slice(0, wanted)
      .map((size, n) => runner.allocate(`output ${n}`, { type: 'float32', dims: size }));
  }

  run(times: KernelTimes | null = null): void {
    this.runner.submit(this.#call, this.#inputs, this.#outputs, times);
  }

  /** The time of every kernel in one run. */
  async kernels(): Promise<{ readonly kernels: readonly KernelTime[]; readonly spanMs: number }> {
    const times = new KernelTimes(this.runner.device);
    this.run(times);
    const read = await times.read();
    times.destroy();
    return read;
  }

  async output(): Promise<Float32Array> {
    return (await this.runner.download(this.#outputs[0]!)).data as Float32Array;
  }

  /** Bytes of scratch memory that its runner holds. */
  get scratchBytes(): number {
    return this.runner.scratchBytes;
  }

  destroy(): void {
    this.#call.forget();
    for (const tensor of [...this.#inputs, ...this.#outputs]) tensor?.range.buffer.destroy();
  }
}

/** com.microsoft.MultiHeadAttention of ONNX Runtime's WebGPU execution provider; not causal. */
export class OnnxRuntimeContender implements Contender {
  readonly name = 'com.microsoft.MultiHeadAttention';

  private constructor(
    private readonly session: Ort.InferenceSession,
    private readonly inputs: Readonly<Record<string, Ort.Tensor>>,
    private readonly buffers: readonly GPUBuffer[],
  ) {}

  /** @param heads query, key and value, [1, heads, length, size] */
  static async open(
    ort: typeof Ort,
    runner: OperatorRunner,
    heads: readonly HostTensor[],
  ): Promise<OnnxRuntimeContender> {
    const [, count = 0, length = 0, size = 0] = heads[0]!.dims;
    const names = ['query', 'key', 'value'];
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
            inputs: names,
            outputs: ['output'],
            attributes: { num_heads: { type: 'int', value: count } },
          },
        ],
        inputs: names.map(value),
        outputs: [value('output')],
      },
    });
    const session = await ort.InferenceSession.create(model, {
      executionProviders: ['webgpu'],
      preferredOutputLocation: 'gpu-buffer',
    });
    const dims = [1, length, count * size];
    const buffers = heads.map(
      (tensor, n) => runner.upload(`input ${n}`, { ...tensor, dims, data: tokensFirst(tensor) }).range.buffer,
    );
    const tensors = buffers.map(buffer => ort.Tensor.fromGpuBuffer(buffer, { dataType: 'float32', dims }));
    const inputs = Object.fromEntries(names.map((name, n) => [name, tensors[n]!]));
    return new OnnxRuntimeContender(session, inputs, buffers);
  }

  async run(): Promise<void> {
    const { output } = await this.session.run(this.inputs);
    output!.dispose();
  }

  /** [1, length, heads * size] */
  async output(): Promise<Float32Array> {
    const { output } = await this.session.run(this.inputs);
    const data = (await output!.getData()) as Float32Array;
    output!.dispose();
    return data;
  }

  async close(): Promise<void> {
    for (const buffer of this.buffers) buffer.destroy();
    await this.session.release();
  }
}

/** [1, heads, length, size] as [1, length, heads * size]. */
export function tokensFirst({ dims, data }: HostTensor): Float32Array {
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

export const printLine = (measured: object): void => console.log(JSON.stringify(measured));

/** Runs one part of a measurement, and prints why it failed if it does. */
export async function attempt(what: string, measure: () => Promise<unknown>): Promise<void> {
  try {
    await measure();
  } catch (error) {
    printLine({ failed: what, reason: error instanceof Error ? error.stack?.slice(0, 800) : String(error) });
  }
}

export const kernelLines = (kernels: readonly KernelTime[]): readonly string[] =>
  kernels.map(({ label, dispatches, ms }) => `${label} x${dispatches}: ${ms.toFixed(3)}`);
