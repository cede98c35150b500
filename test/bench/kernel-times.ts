import type { DispatchTimer } from '../../custom-ops/runtime/web/recording.js';

const MOST_DISPATCHES = 2048;

/** Dispatches of one kernel, and the time they took together. */
export interface KernelTime {
  readonly label: string;
  readonly dispatches: number;
  readonly ms: number;
}

/** Times every dispatch of one submission by GPU timestamps; needs the feature `timestamp-query`. */
export class KernelTimes implements DispatchTimer {
  readonly #labels: string[] = [];
  readonly #queries: GPUQuerySet;
  readonly #resolved: GPUBuffer;
  readonly #readable: GPUBuffer;

  constructor(device: GPUDevice) {
    const size = MOST_DISPATCHES * 2 * 8;
    const { COPY_DST, COPY_SRC, MAP_READ, QUERY_RESOLVE } = GPUBufferUsage;
    this.#queries = device.createQuerySet({ type: 'timestamp', count: 2 * MOST_DISPATCHES });
    this.#resolved = device.createBuffer({ size, usage: QUERY_RESOLVE | COPY_SRC });
    this.#readable = device.createBuffer({ size, usage: MAP_READ | COPY_DST });
  }

  next(label: string): GPUComputePassTimestampWrites {
    const at = 2 * (this.#labels.push(label) - 1);
    return { querySet: this.#queries, beginningOfPassWriteIndex: at, endOfPassWriteIndex: at + 1 };
  }

  resolve(encoder: GPUCommandEncoder): void {
    encoder.resolveQuerySet(this.#queries, 0, 2 * this.#labels.length, this.#resolved, 0);
    encoder.copyBufferToBuffer(this.#resolved, 0, this.#readable, 0, 16 * this.#labels.length);
  }

  /** The submission's kernels, the slowest first; and the time from the first to the last timestamp. */
  async read(): Promise<{ readonly kernels: readonly KernelTime[]; readonly spanMs: number }> {
    await this.#readable.mapAsync(GPUMapMode.READ, 0, 16 * this.#labels.length);
    const stamps = new BigUint64Array(this.#readable.getMappedRange(0, 16 * this.#labels.length).slice(0));
    this.#readable.unmap();
    const sums = new Map<string, { dispatches: number; ms: number }>();
    this.#labels.forEach((label, n) => {
      const { dispatches, ms } = sums.get(label) ?? { dispatches: 0, ms: 0 };
      const took = milliseconds(stamps[2 * n + 1]! - stamps[2 * n]!);
      sums.set(label, { dispatches: dispatches + 1, ms: ms + took });
    });
    const kernels = Array.from(sums, ([label, sum]) => ({ label, ...sum })).sort((a, b) => b.ms - a.ms);
    return { kernels, spanMs: milliseconds(stamps[stamps.length - 1]! - stamps[0]!) };
  }

  destroy(): void {
    this.#queries.destroy();
    this.#resolved.destroy();
    this.#readable.destroy();
  }
}

const milliseconds = (nanoseconds: bigint): number => Number(nanoseconds) / 1e6;
