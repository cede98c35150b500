import { BufferUsage } from './gpu-flags.js';
import { checkBufferSize } from './gpu-limit-error.js';

/** Buffer sizes are rounded up to a power of two divided by this, so that near sizes share buffers. */
const STEPS_PER_DOUBLING = 8;
const SMALLEST = 256;

/**
 * Scratch buffers of one device, reused from submission to submission. Commands of one queue run in order, so a
 * buffer may be given back as soon as the commands that touch it have been submitted.
 */
export class BufferPool {
  readonly #free = new Map<number, GPUBuffer[]>();
  /** Every buffer of the pool, with whether it was used since the last {@link trim}. */
  readonly #used = new Map<GPUBuffer, boolean>();

  constructor(readonly device: GPUDevice) {}

  /** Bytes of all buffers that the pool owns. */
  get bytes(): number {
    let sum = 0;
    for (const buffer of this.#used.keys()) sum += buffer.size;
    return sum;
  }

  /**
   * A buffer of at least `bytes` bytes with undefined contents.
   * @throws GpuLimitError when the device cannot hold it; `label` names the tensor
   */
  acquire(label: string, bytes: number): GPUBuffer {
    checkBufferSize(this.device.limits, label, bytes);
    const size = this.sizeFor(bytes);
    const buffer =
      this.#free.get(size)?.pop() ??
      this.device.createBuffer({
        label,
        size,
        usage: BufferUsage.STORAGE | BufferUsage.UNIFORM | BufferUsage.COPY_SRC | BufferUsage.COPY_DST,
      });
    this.#used.set(buffer, true);
    return buffer;
  }

  /** Size of the buffer that {@link acquire} gives for `bytes`. */
  sizeFor(bytes: number): number {
    return Math.min(roundUp(bytes), this.device.limits.maxBufferSize);
  }

  release(buffer: GPUBuffer): void {
    const free = this.#free.get(buffer.size);
    if (free) free.push(buffer);
    else this.#free.set(buffer.size, [buffer]);
  }

  /** Hands a buffer over for good: the caller destroys it. */
  give(buffer: GPUBuffer): void {
    this.#used.delete(buffer);
  }

  /** Destroys free buffers that were not used since the last call, so that memory follows the input's size. */
  trim(): void {
    for (const [size, buffers] of this.#free) {
      const kept = buffers.filter(buffer => this.#used.get(buffer));
      for (const buffer of buffers) if (!kept.includes(buffer)) this.#destroy(buffer);
      this.#free.set(size, kept);
    }
    for (const buffer of this.#used.keys()) this.#used.set(buffer, false);
  }

  destroy(): void {
    for (const buffer of [...this.#used.keys()]) this.#destroy(buffer);
    this.#free.clear();
  }

  #destroy(buffer: GPUBuffer): void {
    this.#used.delete(buffer);
    buffer.destroy();
  }
}

function roundUp(bytes: number): number {
  const step = Math.max(SMALLEST, 2 ** Math.ceil(Math.log2(Math.max(bytes, 1))) / STEPS_PER_DOUBLING);
  return Math.ceil(Math.max(bytes, 1) / step) * step;
}
