import { checkBufferSize } from './check-buffer-size.js';
import { BufferUsage } from './gpu-flags.js';

/** Buffer sizes are rounded up to a power of two divided by this, so that near sizes share buffers. */
const STEPS_PER_DOUBLING = 8;
const SMALLEST = 256;

interface BufferState {
  readonly size: number;
  free: boolean;
  /** Since the last {@link BufferPool.trim}. */
  used: boolean;
}

/**
 * Scratch buffers of one device, reused from submission to submission. Commands of one queue run in order, so a
 * buffer may be given back as soon as the commands that touch it have been submitted. Equal sequences of calls get
 * equal buffers, which is what lets recordings be submitted again: of the free buffers of a size it is always the
 * oldest that is handed out.
 */
export class BufferPool {
  /** Every buffer of the pool, the oldest first. */
  readonly #buffers = new Map<GPUBuffer, BufferState>();

  constructor(readonly device: GPUDevice) {}

  /** Bytes of all buffers that the pool owns. */
  get bytes(): number {
    let sum = 0;
    for (const { size } of this.#buffers.values()) sum += size;
    return sum;
  }

  /**
   * A buffer of at least `bytes` bytes with undefined contents.
   * @throws GpuLimitError when the device cannot hold it; `label` names the tensor
   */
  acquire(label: string, bytes: number): GPUBuffer {
    checkBufferSize(this.device.limits, label, bytes);
    const wanted = this.sizeFor(bytes);
    for (const [buffer, state] of this.#buffers) {
      if (state.free && state.size === wanted) {
        take(state);
        return buffer;
      }
    }
    const buffer = this.device.createBuffer({
      label,
      size: wanted,
      usage: BufferUsage.STORAGE | BufferUsage.UNIFORM | BufferUsage.COPY_SRC | BufferUsage.COPY_DST,
    });
    this.#buffers.set(buffer, { size: wanted, free: false, used: true });
    return buffer;
  }

  /** Acquires these very buffers, if all of them are there and free. */
  acquireAll(buffers: readonly GPUBuffer[]): boolean {
    const states = buffers.map(buffer => this.#buffers.get(buffer));
    if (!states.every(state => state?.free)) return false;
    for (const state of states) take(state!);
    return true;
  }

  /** Size of the buffer that {@link acquire} gives for `bytes`. */
  sizeFor(bytes: number): number {
    return Math.min(roundUp(bytes), this.device.limits.maxBufferSize);
  }

  release(buffer: GPUBuffer): void {
    const state = this.#buffers.get(buffer);
    if (state) state.free = true;
  }

  /** Hands a buffer over for good: the caller destroys it. */
  give(buffer: GPUBuffer): void {
    this.#buffers.delete(buffer);
  }

  /** Destroys free buffers that were not used since the last call, so that memory follows the input's size. */
  trim(): void {
    for (const [buffer, state] of this.#buffers) {
      if (state.free && !state.used) this.#destroy(buffer);
      state.used = false;
    }
  }

  destroy(): void {
    for (const buffer of this.#buffers.keys()) this.#destroy(buffer);
  }

  #destroy(buffer: GPUBuffer): void {
    this.#buffers.delete(buffer);
    buffer.destroy();
  }
}

function take(state: BufferState): void {
  state.free = false;
  state.used = true;
}

function roundUp(bytes: number): number {
  const step = Math.max(SMALLEST, 2 ** Math.ceil(Math.log2(Math.max(bytes, 1))) / STEPS_PER_DOUBLING);
  return Math.ceil(Math.max(bytes, 1) / step) * step;
}
