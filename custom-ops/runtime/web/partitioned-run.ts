import type * as Ort from 'onnxruntime-common';
import type { Node } from '../../../rewriter/graph/node.js';
import type { BufferPool } from './buffer-pool.js';
import { GpuMemoryError } from './gpu-limit-error.js';
import type { GpuRange } from './gpu-recorder.js';
import { readRange, writeRange } from './gpu-transfer.js';
import { elementBytes, type GpuElementType, type GpuTensor, gpuBytes } from './operator.js';
import type { OperatorCall } from './operator-call.js';
import { PartitionError } from './partition-error.js';

type Tensor = Ort.Tensor;

/** A value between steps. */
interface Held {
  readonly tensor: Tensor;
  /** Who frees it: the caller of `run`, ONNX Runtime's tensor itself, or the pool of buffers. */
  readonly owner: 'caller' | 'tensor' | 'pool';
  /** A copy in GPU memory of a tensor in main memory, in a buffer of the pool. */
  uploaded: GpuRange | null;
}

/** The values of one run of a {@link PartitionedSession}, and who frees them. */
export class Run {
  readonly #values = new Map<string, Held>();
  readonly #invalid: Promise<GPUError | null>[] = [];
  readonly #outOfMemory: Promise<GPUError | null>[] = [];

  constructor(
    private readonly ort: typeof Ort,
    private readonly device: GPUDevice,
    private readonly pool: BufferPool,
    feeds: Readonly<Record<string, Tensor>>,
  ) {
    for (const [name, tensor] of Object.entries(feeds)) {
      this.#values.set(name, { tensor, owner: 'caller', uploaded: null });
    }
  }

  async runModel(
    session: Ort.InferenceSession,
    names: readonly string[],
    options: Ort.InferenceSession.RunOptions,
  ): Promise<void> {
    const feeds = Object.fromEntries(names.map(name => [name, this.#held(name).tensor]));
    const results = await session.run(feeds, options).catch(explain);
    for (const [name, tensor] of Object.entries(results)) {
      this.#values.set(name, { tensor: tensor as Tensor, owner: 'tensor', uploaded: null });
    }
  }

  /** Submits one operator; its results are there for whatever is submitted later. */
  runOperator(call: OperatorCall, names: readonly (string | null)[], node: Node): void {
    const { operator } = call;
    const inputs = names.map(name => (name === null ? null : this.#onGpu(name)));
    const type = inputs[0]!.type;
    const dims = operator.outputDims(
      call.attributes,
      inputs.map(input => input?.dims ?? null),
    );
    this.device.pushErrorScope('out-of-memory');
    this.device.pushErrorScope('validation');
    try {
      const outputs = dims.map((size, n) => {
        const value = node.outputs[n];
        if (!value) return null;
        return this.#allocate(value.name, operator.float32Outputs.has(n) ? 'float32' : type, size);
      });
      call.submit(this.pool, inputs, outputs);
    } finally {
      this.#invalid.push(this.device.popErrorScope());
      this.#outOfMemory.push(this.device.popErrorScope());
    }
  }

  /** Frees a value that nobody reads any more. Commands that read it have been submitted. */
  release(name: string): void {
    const held = this.#values.get(name);
    if (!held) return;
    this.#values.delete(name);
    if (held.uploaded) this.pool.release(held.uploaded.buffer);
    if (held.owner === 'tensor') held.tensor.dispose();
    else if (held.owner === 'pool') this.pool.release(held.tensor.gpuBuffer as GPUBuffer);
  }

  /** @throws GpuMemoryError or Error when an operator of this run failed */
  async checkErrors(): Promise<void> {
    const firstOf = async (errors: Promise<GPUError | null>[]) =>
      (await Promise.all(errors.splice(0))).find(error => error !== null);
    const outOfMemory = await firstOf(this.#outOfMemory);
    if (outOfMemory) throw new GpuMemoryError(outOfMemory.message);
    const invalid = await firstOf(this.#invalid);
    if (invalid) throw new Error(invalid.message);
  }

  /** The outputs in main memory, or in GPU memory by the names in `onGpu`; they belong to the caller. */
  async outputs(wanted: readonly string[], onGpu: ReadonlySet<string>): Promise<Record<string, Tensor>> {
    const outputs: Record<string, Tensor> = {};
    for (const name of wanted) {
      const held = this.#held(name);
      const handOver = held.tensor.location !== 'gpu-buffer' || onGpu.has(name);
      outputs[name] = handOver ? this.#handOver(name, held) : await this.#download(name, held);
    }
    return outputs;
  }

  /** Frees all that is left. */
  finish(): void {
    for (const name of [...this.#values.keys()]) this.release(name);
  }

  #held(name: string): Held {
    const held = this.#values.get(name);
    if (!held) throw new Error(`the value '${name}' is missing`);
    return held;
  }

  #onGpu(name: string): GpuTensor {
    const held = this.#held(name);
    const { tensor } = held;
    const { type, dims } = tensor;
    if (type !== 'float32' && type !== 'float16' && type !== 'bool') {
      throw new PartitionError(`'${name}' is of type ${type}, which has no WebGPU kernel`);
    }
    const bytes = gpuBytes(type, dims);
    if (tensor.location === 'gpu-buffer') {
      return { type, dims, range: { label: name, buffer: tensor.gpuBuffer as GPUBuffer, offset: 0, bytes } };
    }
    if (!held.uploaded) {
      held.uploaded = { label: name, buffer: this.pool.acquire(name, bytes), offset: 0, bytes };
      writeRange(this.device, held.uploaded, tensor.data as ArrayBufferView);
    }
    return { type, dims, range: held.uploaded };
  }

  /** Memory for an operator's output, or null when it has no elements: those live in main memory. */
  #allocate(name: string, type: GpuElementType, dims: readonly number[]): GpuTensor | null {
    if (dims.includes(0)) {
      const tensor = this.#tensor(type, new ArrayBuffer(0), dims);
      this.#values.set(name, { tensor, owner: 'caller', uploaded: null });
      return null;
    }
    const bytes = gpuBytes(type, dims);
    const buffer = this.pool.acquire(name, bytes);
    const range = { label: name, buffer, offset: 0, bytes };
    const tensor = this.ort.Tensor.fromGpuBuffer(buffer, { dataType: type, dims });
    this.#values.set(name, { tensor, owner: 'pool', uploaded: null });
    return { type, dims, range };
  }

  #handOver(name: string, held: Held): Tensor {
    if (held.owner !== 'pool') {
      this.#values.set(name, { ...held, owner: 'caller' });
      return held.tensor;
    }
    const { dims } = held.tensor;
    const type = held.tensor.type as GpuElementType;
    const buffer = held.tensor.gpuBuffer as GPUBuffer;
    this.pool.give(buffer);
    this.#values.delete(name);
    return this.ort.Tensor.fromGpuBuffer(buffer, {
      dataType: type,
      dims,
      download: async () => typedArray(type, await this.#bytes(name, buffer, type, dims)),
      dispose: () => buffer.destroy(),
    });
  }

  async #download(name: string, { tensor, owner }: Held): Promise<Tensor> {
    const { type, dims } = tensor;
    if (owner === 'tensor') return new this.ort.Tensor(type, await tensor.getData(), dims);
    const bytes = await this.#bytes(name, tensor.gpuBuffer as GPUBuffer, type as GpuElementType, dims);
    return this.#tensor(type as GpuElementType, bytes, dims);
  }

  async #bytes(
    label: string,
    buffer: GPUBuffer,
    type: GpuElementType,
    dims: readonly number[],
  ): Promise<ArrayBuffer> {
    const bytes = await readRange(this.device, { label, buffer, offset: 0, bytes: gpuBytes(type, dims) });
    return bytes.slice(0, elementBytes(type, dims));
  }

  #tensor(type: GpuElementType, bytes: ArrayBuffer, dims: readonly number[]): Tensor {
    return new this.ort.Tensor(type, typedArray(type, bytes), dims);
  }
}

/** What ONNX Runtime says when one of its shaders needs float16, which not every device has. */
const NEEDS_FLOAT16 = /requires f16 but the device does not support it/;

/** @throws PartitionError when the device is the reason, else the error itself */
function explain(error: unknown): never {
  if (error instanceof Error && NEEDS_FLOAT16.test(error.message)) {
    throw new PartitionError('a part of the model needs float16 in shaders, which this device does not have');
  }
  throw error;
}

function typedArray(type: GpuElementType, bytes: ArrayBuffer): Float32Array | Uint16Array | Uint8Array {
  if (type === 'float32') return new Float32Array(bytes);
  return type === 'float16' ? new Uint16Array(bytes) : new Uint8Array(bytes);
}
