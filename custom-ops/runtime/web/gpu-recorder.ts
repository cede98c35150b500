import type { BufferPool } from './buffer-pool.js';
import { checkBufferSize } from './gpu-limit-error.js';
import { GRID_WIDTH, type Kernel } from './wgsl.js';

/** Alignment of the ranges that bindings start at: WebGPU's largest guaranteed requirement. */
const OFFSET_ALIGNMENT = 256;

/** Part of a GPU buffer, named after the tensor in it. */
export interface GpuRange {
  readonly label: string;
  readonly buffer: GPUBuffer;
  readonly offset: number;
  readonly bytes: number;
}

/** Numbers that the recorder uploads before the first dispatch. */
export interface GpuTable {
  readonly label: string;
  readonly data: Uint32Array;
}

type Command =
  | {
      readonly kind: 'dispatch';
      readonly kernel: Kernel;
      readonly parameters: Readonly<Record<string, number>>;
      /** One for each of the kernel's bindings. */
      readonly buffers: readonly (GpuRange | GpuTable)[];
      readonly groups: number;
    }
  | { readonly kind: 'clear'; readonly range: GpuRange }
  | { readonly kind: 'copy'; readonly source: GpuRange | GpuTable; readonly target: GpuRange };

/** Brackets every dispatch with GPU timestamps, when the device has the feature `timestamp-query`. */
export interface DispatchTimer {
  /** @returns the timestamps that the pass of this dispatch writes */
  next(label: string): GPUComputePassTimestampWrites;
  /** Called once, after the last pass. */
  resolve(encoder: GPUCommandEncoder): void;
}

/**
 * Records dispatches of one operator and submits them as one command buffer. Scratch memory lives from
 * `scratch` to `submit`. Sizes are checked while recording, so nothing runs when something does not fit.
 */
export class GpuRecorder {
  readonly #commands: Command[] = [];
  readonly #acquired: GPUBuffer[] = [];
  /** Released by commands recorded so far: free for later ones, but not for uploads, which come first. */
  readonly #released: GPUBuffer[] = [];

  constructor(
    readonly device: GPUDevice,
    private readonly pool: BufferPool,
    private readonly timer: DispatchTimer | null = null,
  ) {}

  /**
   * Memory with undefined contents.
   * @throws GpuLimitError when the device cannot hold it
   */
  scratch(label: string, bytes: number): GpuRange {
    const size = this.pool.sizeFor(bytes);
    const known = this.#released.findIndex(buffer => buffer.size === size);
    const buffer = known < 0 ? this.pool.acquire(label, bytes) : this.#released.splice(known, 1)[0]!;
    this.#acquired.push(buffer);
    return { label, buffer, offset: 0, bytes: Math.max(16, Math.ceil(bytes / 16) * 16) };
  }

  /** Hands scratch memory back early, for scratch that later commands ask for. */
  release(range: GpuRange): void {
    const at = this.#acquired.indexOf(range.buffer);
    if (at < 0) throw new Error(`${range.label} is not scratch memory of this recorder`);
    this.#acquired.splice(at, 1);
    this.#released.push(range.buffer);
  }

  table(label: string, data: Uint32Array): GpuTable {
    return { label, data };
  }

  /**
   * Runs `groups` workgroups of a kernel; none when `groups` is 0.
   * @throws GpuLimitError when a bound tensor is larger than a binding may be
   */
  dispatch<Parameter extends string, Binding extends string>(
    kernel: Kernel<Parameter, Binding>,
    parameters: Readonly<Record<Parameter, number>>,
    buffers: Readonly<Record<Binding, GpuRange | GpuTable | null>>,
    groups: number,
  ): void {
    if (groups === 0) return;
    const bound = kernel.bindings.map(name => {
      const range = buffers[name];
      if (!range) throw new Error(`${kernel.label}: nothing bound to ${name}`);
      checkBufferSize(this.device.limits, range.label, 'data' in range ? range.data.byteLength : range.bytes);
      return range;
    });
    this.#commands.push({ kind: 'dispatch', kernel, parameters, buffers: bound, groups });
  }

  /** Sets a range to zero. */
  clear(range: GpuRange): void {
    this.#commands.push({ kind: 'clear', range });
  }

  /** Copies as many bytes as `source` has; both start at multiples of 4. */
  copy(source: GpuRange | GpuTable, target: GpuRange): void {
    this.#commands.push({ kind: 'copy', source, target });
  }

  /** Encodes and submits everything recorded, then gives the scratch memory back. Waits for nothing. */
  submit(): void {
    const uploads = this.#upload();
    const encoder = this.device.createCommandEncoder();
    let pass: GPUComputePassEncoder | null = null;
    const endPass = () => {
      pass?.end();
      pass = null;
    };
    for (const [index, command] of this.#commands.entries()) {
      if (command.kind === 'dispatch') {
        if (this.timer) endPass();
        pass ??= this.#beginPass(encoder, command.kernel.label);
        this.#encode(pass, command, uploads, index);
        continue;
      }
      endPass();
      if (command.kind === 'clear') {
        encoder.clearBuffer(command.range.buffer, command.range.offset, command.range.bytes);
      } else {
        const source = uploads.resolve(command.source);
        const { buffer, offset } = command.target;
        encoder.copyBufferToBuffer(source.buffer, source.offset, buffer, offset, source.bytes);
      }
    }
    endPass();
    this.timer?.resolve(encoder);
    this.device.queue.submit([encoder.finish()]);
    this.abandon();
  }

  /** Gives scratch memory back and forgets what was recorded. */
  abandon(): void {
    for (const buffer of [...this.#acquired, ...this.#released]) this.pool.release(buffer);
    this.#acquired.length = 0;
    this.#released.length = 0;
    this.#commands.length = 0;
  }

  #beginPass(encoder: GPUCommandEncoder, label: string): GPUComputePassEncoder {
    const timestampWrites = this.timer?.next(label);
    return encoder.beginComputePass(timestampWrites ? { timestampWrites } : {});
  }

  /** Puts the parameters of all dispatches and all tables into one buffer. */
  #upload(): Uploads {
    const tables = new Map<GpuTable, number>();
    const parameters = new Map<number, number>();
    let bytes = 0;
    const reserve = (size: number) => {
      const offset = bytes;
      bytes += Math.ceil(size / OFFSET_ALIGNMENT) * OFFSET_ALIGNMENT;
      return offset;
    };
    this.#commands.forEach((command, index) => {
      const ranges = command.kind === 'dispatch' ? [...command.buffers] : [];
      if (command.kind === 'copy') ranges.push(command.source);
      for (const range of ranges) {
        if ('data' in range && !tables.has(range))
          tables.set(range, reserve(Math.max(16, range.data.byteLength)));
      }
      if (command.kind === 'dispatch') parameters.set(index, reserve(parameterBytes(command.kernel)));
    });
    const buffer = this.pool.acquire('parameters and tables', bytes);
    this.#acquired.push(buffer);
    const staging = new ArrayBuffer(bytes);
    for (const [table, offset] of tables) new Uint32Array(staging, offset).set(table.data);
    for (const [index, offset] of parameters) {
      const command = this.#commands[index]!;
      if (command.kind === 'dispatch') writeParameters(new DataView(staging, offset), command);
    }
    this.device.queue.writeBuffer(buffer, 0, staging);
    return {
      resolve: range =>
        'data' in range
          ? {
              label: range.label,
              buffer,
              offset: tables.get(range)!,
              bytes: Math.max(16, range.data.byteLength),
            }
          : range,
      parameters: index => {
        const command = this.#commands[index]!;
        const size = command.kind === 'dispatch' ? parameterBytes(command.kernel) : 0;
        return { label: 'parameters', buffer, offset: parameters.get(index)!, bytes: size };
      },
    };
  }

  #encode(
    pass: GPUComputePassEncoder,
    command: Extract<Command, { kind: 'dispatch' }>,
    uploads: Uploads,
    index: number,
  ): void {
    const pipeline = pipelineOf(this.device, command.kernel);
    const ranges = [uploads.parameters(index), ...command.buffers.map(range => uploads.resolve(range))];
    pass.setPipeline(pipeline);
    pass.setBindGroup(
      0,
      this.device.createBindGroup({
        layout: pipeline.getBindGroupLayout(0),
        entries: ranges.map(({ buffer, offset, bytes }, binding) => ({
          binding,
          resource: { buffer, offset, size: bytes },
        })),
      }),
    );
    const width = Math.min(command.groups, GRID_WIDTH);
    pass.dispatchWorkgroups(width, Math.ceil(command.groups / width));
  }
}

interface Uploads {
  resolve(range: GpuRange | GpuTable): GpuRange;
  parameters(index: number): GpuRange;
}

const parameterBytes = (kernel: Kernel): number => Math.ceil((kernel.parameters.length + 1) / 4) * 16;

/** Layout of `struct Parameters` of `kernel` in wgsl.ts: the group count, then 32-bit numbers in order. */
function writeParameters(view: DataView, command: Extract<Command, { kind: 'dispatch' }>): void {
  view.setUint32(0, command.groups, true);
  command.kernel.parameters.forEach(([name, type], index) => {
    const value = command.parameters[name]!;
    const at = 4 * (index + 1);
    if (type === 'f32') view.setFloat32(at, value, true);
    else if (type === 'i32') view.setInt32(at, value, true);
    else view.setUint32(at, value, true);
  });
}

const pipelines = new WeakMap<GPUDevice, Map<string, GPUComputePipeline>>();

/** The compiled kernel, one per device and source. */
function pipelineOf(device: GPUDevice, kernel: Kernel): GPUComputePipeline {
  let known = pipelines.get(device);
  if (!known) {
    known = new Map();
    pipelines.set(device, known);
  }
  let pipeline = known.get(kernel.code);
  if (!pipeline) {
    const module = device.createShaderModule({ label: kernel.label, code: kernel.code });
    pipeline = device.createComputePipeline({
      label: kernel.label,
      layout: 'auto',
      compute: { module, entryPoint: 'main' },
    });
    known.set(kernel.code, pipeline);
  }
  return pipeline;
}
