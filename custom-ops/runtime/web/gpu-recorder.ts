import type { BufferPool } from './buffer-pool.js';
import { checkBufferSize } from './check-buffer-size.js';
import { type DispatchTimer, type RecordedCommand, type RecordedRange, Recording } from './recording.js';
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

/**
 * Records dispatches of one operator, to be submitted as one command buffer. Scratch memory lives from `scratch` to
 * `finish`. Sizes are checked while recording, so nothing runs when something does not fit.
 */
export class GpuRecorder {
  readonly #commands: Command[] = [];
  readonly #acquired: GPUBuffer[] = [];
  /** Released by commands recorded so far: free for later ones, but not for uploads, which come first. */
  readonly #released: GPUBuffer[] = [];

  constructor(
    readonly device: GPUDevice,
    private readonly pool: BufferPool,
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

  /**
   * Everything recorded, ready for the device; `tensors` may be others of the same shapes whenever it is submitted.
   * Gives the scratch memory back, of which nothing has been used yet.
   */
  finish(tensors: readonly GPUBuffer[] = []): Recording {
    const uploads = this.#upload();
    const recorded = (range: GpuRange | GpuTable): RecordedRange => {
      const { buffer, offset, bytes } = uploads.resolve(range);
      const index = tensors.indexOf(buffer);
      return { buffer: index < 0 ? buffer : index, offset, bytes };
    };
    const commands = this.#commands.map((command, index): RecordedCommand => {
      if (command.kind === 'clear') return { kind: 'clear', range: recorded(command.range) };
      if (command.kind === 'copy') {
        return { kind: 'copy', source: recorded(command.source), target: recorded(command.target) };
      }
      const { kernel, groups, buffers } = command;
      const width = Math.min(groups, GRID_WIDTH);
      return {
        kind: 'dispatch',
        label: kernel.label,
        ...compiled(this.device, kernel),
        ranges: [uploads.parameters(index), ...buffers.map(recorded)],
        grid: [width, Math.ceil(groups / width)],
      };
    });
    const scratch = [...this.#acquired, ...this.#released];
    this.abandon();
    return new Recording(this.pool, commands, scratch, uploads.buffer);
  }

  /** Submits everything recorded, once. Waits for nothing. */
  submit(timer: DispatchTimer | null = null): void {
    const recording = this.finish();
    recording.submit([], timer);
    recording.release();
  }

  /** Gives scratch memory back and forgets what was recorded. */
  abandon(): void {
    for (const buffer of [...this.#acquired, ...this.#released]) this.pool.release(buffer);
    this.#acquired.length = 0;
    this.#released.length = 0;
    this.#commands.length = 0;
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
    const staging = new ArrayBuffer(bytes);
    for (const [table, offset] of tables) new Uint32Array(staging, offset).set(table.data);
    for (const [index, offset] of parameters) {
      const command = this.#commands[index]!;
      if (command.kind === 'dispatch') writeParameters(new DataView(staging, offset), command);
    }
    this.device.queue.writeBuffer(buffer, 0, staging);
    return {
      buffer,
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
}

interface Uploads {
  /** Where they are; the recording's. */
  readonly buffer: GPUBuffer;
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

interface CompiledKernel {
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
}

const compiledKernels = new WeakMap<GPUDevice, Map<string, CompiledKernel>>();

/** One per device and source. */
function compiled(device: GPUDevice, kernel: Kernel): CompiledKernel {
  let known = compiledKernels.get(device);
  if (!known) {
    known = new Map();
    compiledKernels.set(device, known);
  }
  let found = known.get(kernel.code);
  if (!found) {
    const module = device.createShaderModule({ label: kernel.label, code: kernel.code });
    const pipeline = device.createComputePipeline({
      label: kernel.label,
      layout: 'auto',
      compute: { module, entryPoint: 'main' },
    });
    found = { pipeline, layout: pipeline.getBindGroupLayout(0) };
    known.set(kernel.code, found);
  }
  return found;
}
