import type * as Ort from 'onnxruntime-common';
import type { Attributes } from '../../custom-ops/operator.js';
import type { GpuTensor, WebGpuOperator } from '../../custom-ops/runtime/web/node.js';
import type { HostTensor, OperatorRunner } from '../../custom-ops/runtime/web/operator-runner.js';
import { buildModel } from '../../rewriter/onnx/encode.js';
import { DataType } from '../../rewriter/onnx/spec.js';
import { type KernelTime, KernelTimes } from './kernel-times.js';

/** Something to be timed: queues one run, without waiting for it. */
export interface Contender {
  readonly name: string;
  run(): unknown;
}

const TURNS = 5;
/** What every contender runs for in one turn, so that waiting for the GPU at its end weighs the same for all. */
const TURN_MS = 200;

/**
 * Milliseconds per run of each contender: the medians of turns in which all of them take part, one after the other,
 * each with runs queued without waiting in between. Runs before the turns compile kernels and tell how many a turn
 * takes.
 */
export async function timeInTurns(
  device: GPUDevice,
  contenders: readonly Contender[],
): Promise<readonly number[]> {
  const timed = async (contender: Contender, count: number) => {
    const start = performance.now();
    for (let run = 0; run < count; run++) await contender.run();
    await device.queue.onSubmittedWorkDone();
    return (performance.now() - start) / count;
  };
  const counts: number[] = [];
  for (const contender of contenders) {
    await timed(contender, 1);
    let count = 1;
    for (let trial = 0; trial < 2; trial++) {
      count = Math.max(1, Math.round(TURN_MS / (await timed(contender, count))));
    }
    counts.push(count);
  }
  const times = contenders.map(() => [] as number[]);
  for (let turn = 0; turn < TURNS; turn++) {
    for (const [n, contender] of contenders.entries()) times[n]!.push(await timed(contender, counts[n]!));
  }
  return times.map(taken => taken.sort((a, b) => a - b)[TURNS >> 1]!);
}

/** One operator on this project's kernels. */
export class OperatorContender implements Contender {
  readonly #inputs: readonly (GpuTensor | null)[];
  readonly #outputs: readonly GpuTensor[];

  /** @param wanted outputs that are computed: the first ones */
  constructor(
    readonly name: string,
    private readonly runner: OperatorRunner,
    private readonly operator: WebGpuOperator,
    private readonly attributes: Attributes,
    inputs: readonly (HostTensor | null)[],
    wanted = 1,
  ) {
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
    const recorder = this.runner.recorder(times);
    this.operator.record(recorder, this.attributes, this.#inputs, this.#outputs);
    recorder.submit();
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

  destroy(): void {
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
