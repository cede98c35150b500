import { float16ToFloat32, float32ToFloat16 } from '../../../rewriter/onnx/float16.js';
import type { Attributes } from '../../operator.js';
import { BufferPool } from './buffer-pool.js';
import { checkBufferSize } from './check-buffer-size.js';
import { BufferUsage } from './gpu-flags.js';
import { GpuRecorder } from './gpu-recorder.js';
import { readRange, writeRange } from './gpu-transfer.js';
import { type GpuElementType, type GpuTensor, gpuBytes, type WebGpuOperator } from './operator.js';
import type { OperatorCall } from './operator-call.js';
import type { DispatchTimer } from './recording.js';

/** A tensor in main memory. Float16 tensors are given and returned as float32 numbers. */
export interface HostTensor {
  readonly type: GpuElementType;
  readonly dims: readonly number[];
  readonly data: Float32Array | Uint8Array;
}

/** Runs operators one at a time on a device, for tests and measurements. */
export class OperatorRunner {
  readonly #pool: BufferPool;

  constructor(readonly device: GPUDevice) {
    this.#pool = new BufferPool(device);
  }

  /** Bytes of scratch memory held for the next run. */
  get scratchBytes(): number {
    return this.#pool.bytes;
  }

  recorder(): GpuRecorder {
    return new GpuRecorder(this.device, this.#pool);
  }

  /** Queues one run of an operator. Waits for nothing. */
  submit(
    call: OperatorCall,
    inputs: readonly (GpuTensor | null)[],
    outputs: readonly (GpuTensor | null)[],
    timer: DispatchTimer | null = null,
  ): void {
    call.submit(this.#pool, inputs, outputs, timer);
  }

  /** @throws GpuLimitError when the device cannot hold it */
  upload(label: string, tensor: HostTensor): GpuTensor {
    const allocated = this.allocate(label, tensor);
    const { data } = tensor;
    const stored = tensor.type === 'float16' ? float32ToFloat16(data as Float32Array) : data;
    writeRange(this.device, allocated.range, stored);
    return allocated;
  }

  /** @throws GpuLimitError when the device cannot hold it */
  allocate(label: string, { type, dims }: Omit<GpuTensor, 'range'>): GpuTensor {
    const bytes = gpuBytes(type, dims);
    checkBufferSize(this.device.limits, label, bytes);
    const buffer = this.device.createBuffer({
      label,
      size: bytes,
      usage: BufferUsage.STORAGE | BufferUsage.COPY_SRC | BufferUsage.COPY_DST,
    });
    return { type, dims, range: { label, buffer, offset: 0, bytes } };
  }

  async download(tensor: GpuTensor): Promise<HostTensor> {
    const bytes = await readRange(this.device, tensor.range);
    const size = tensor.dims.reduce((a, b) => a * b, 1);
    const data =
      tensor.type === 'float32'
        ? new Float32Array(bytes, 0, size)
        : tensor.type === 'float16'
          ? float16ToFloat32(new Uint16Array(bytes, 0, size))
          : new Uint8Array(bytes, 0, size);
    return { type: tensor.type, dims: tensor.dims, data };
  }

  /**
   * Uploads, runs, downloads. `record` may stand in for the operator's own, to watch it.
   * @throws Error with WebGPU's message when a kernel is refused
   */
  async run(
    operator: WebGpuOperator,
    attributes: Attributes,
    inputs: readonly (HostTensor | null)[],
    record: WebGpuOperator['record'] = operator.record,
  ): Promise<readonly HostTensor[]> {
    const on = inputs.map((input, n) => input && this.upload(`input ${n} of ${operator.opType}`, input));
    const { type } = on[0]!;
    const results = operator
      .outputDims(
        attributes,
        on.map(input => input?.dims ?? null),
      )
      .map((dims, n) =>
        this.allocate(`output ${n} of ${operator.opType}`, {
          type: operator.float32Outputs.has(n) ? 'float32' : type,
          dims,
        }),
      );
    const recorder = this.recorder();
    this.device.pushErrorScope('validation');
    record(recorder, attributes, on, results);
    recorder.submit();
    const error = await this.device.popErrorScope();
    if (error) throw new Error(error.message);
    const outputs: HostTensor[] = [];
    for (const result of results) outputs.push(await this.download(result));
    for (const tensor of [...on, ...results]) tensor?.range.buffer.destroy();
    this.#pool.trim();
    return outputs;
  }

  destroy(): void {
    this.#pool.destroy();
  }
}
