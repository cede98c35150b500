import type { BufferPool } from './buffer-pool.js';

/** Part of a buffer of the recording's own, or of the tensor at an index of those it runs on. */
export interface RecordedRange {
  readonly buffer: GPUBuffer | number;
  readonly offset: number;
  readonly bytes: number;
}

export type RecordedCommand =
  | {
      readonly kind: 'dispatch';
      readonly label: string;
      readonly pipeline: GPUComputePipeline;
      readonly layout: GPUBindGroupLayout;
      /** By binding. */
      readonly ranges: readonly RecordedRange[];
      /** Workgroups along x and y. */
      readonly grid: readonly [x: number, y: number];
    }
  | { readonly kind: 'clear'; readonly range: RecordedRange }
  | { readonly kind: 'copy'; readonly source: RecordedRange; readonly target: RecordedRange };

/** Brackets every dispatch with GPU timestamps, when the device has the feature `timestamp-query`. */
export interface DispatchTimer {
  /** @returns the timestamps that the pass of this dispatch writes */
  next(label: string): GPUComputePassTimestampWrites;
  /** Called once, after the last pass. */
  resolve(encoder: GPUCommandEncoder): void;
}

/**
 * The work of one operator on tensors of certain shapes, which may be submitted any number of times. In between, its
 * scratch memory is the pool's, and others use it.
 */
export class Recording {
  #tensors: readonly GPUBuffer[] = [];
  /** By command; those of commands that read or write tensors are for {@link #tensors}. */
  readonly #bindGroups: GPUBindGroup[] = [];

  constructor(
    private readonly pool: BufferPool,
    private readonly commands: readonly RecordedCommand[],
    /** Buffers of the pool with nothing in them before and after. */
    private readonly scratch: readonly GPUBuffer[],
    /** Parameters and tables: a buffer that the pool has handed out. */
    private readonly constants: GPUBuffer,
  ) {}

  /**
   * Encodes and submits the commands as one command buffer. Waits for nothing.
   * @returns false when some of the scratch memory is in use or gone: then nothing was submitted
   */
  submit(tensors: readonly GPUBuffer[], timer: DispatchTimer | null = null): boolean {
    if (!this.pool.acquireAll(this.scratch)) return false;
    this.#bind(tensors);
    const { device } = this.pool;
    const encoder = device.createCommandEncoder();
    let pass: GPUComputePassEncoder | null = null;
    const endPass = () => {
      pass?.end();
      pass = null;
    };
    for (const [index, command] of this.commands.entries()) {
      if (command.kind === 'dispatch') {
        if (timer) endPass();
        pass ??= encoder.beginComputePass(timer ? { timestampWrites: timer.next(command.label) } : {});
        pass.setPipeline(command.pipeline);
        pass.setBindGroup(0, this.#bindGroups[index]!);
        pass.dispatchWorkgroups(...command.grid);
        continue;
      }
      endPass();
      if (command.kind === 'clear') {
        const { buffer, offset, size } = this.#resolve(command.range);
        encoder.clearBuffer(buffer, offset, size);
      } else {
        const [source, target] = [this.#resolve(command.source), this.#resolve(command.target)];
        encoder.copyBufferToBuffer(source.buffer, source.offset, target.buffer, target.offset, source.size);
      }
    }
    endPass();
    timer?.resolve(encoder);
    device.queue.submit([encoder.finish()]);
    for (const buffer of this.scratch) this.pool.release(buffer);
    return true;
  }

  /** Gives back what it holds between submissions; it cannot be submitted any more. */
  release(): void {
    this.pool.release(this.constants);
  }

  /** Makes the bind groups of commands whose tensors are others than last time. */
  #bind(tensors: readonly GPUBuffer[]): void {
    const known = this.#tensors;
    this.#tensors = tensors;
    for (const [index, command] of this.commands.entries()) {
      if (command.kind !== 'dispatch') continue;
      const isBound =
        this.#bindGroups[index] &&
        command.ranges.every(({ buffer }) => typeof buffer !== 'number' || tensors[buffer] === known[buffer]);
      if (isBound) continue;
      this.#bindGroups[index] = this.pool.device.createBindGroup({
        layout: command.layout,
        entries: command.ranges.map((range, binding) => ({ binding, resource: this.#resolve(range) })),
      });
    }
  }

  #resolve({ buffer, offset, bytes }: RecordedRange): Required<GPUBufferBinding> {
    return { buffer: typeof buffer === 'number' ? this.#tensors[buffer]! : buffer, offset, size: bytes };
  }
}
