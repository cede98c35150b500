/**
 * Measures how long the GPU's queue takes for what is submitted between two marks, by its own clock. In Node the time
 * until a promise of the queue settles is longer by up to tens of milliseconds whenever the garbage collector is at
 * work at that moment: waiting for Dawn makes garbage.
 */
export class QueueTime {
  readonly #queries: GPUQuerySet;
  readonly #resolved: GPUBuffer;
  readonly #readable: GPUBuffer;

  /** @param device with the feature `timestamp-query` */
  constructor(private readonly device: GPUDevice) {
    const { COPY_DST, COPY_SRC, MAP_READ, QUERY_RESOLVE } = GPUBufferUsage;
    this.#queries = device.createQuerySet({ type: 'timestamp', count: 2 });
    this.#resolved = device.createBuffer({ size: 16, usage: QUERY_RESOLVE | COPY_SRC });
    this.#readable = device.createBuffer({ size: 16, usage: MAP_READ | COPY_DST });
  }

  begin(): void {
    this.#mark(0);
  }

  end(): void {
    this.#mark(1);
  }

  /** Milliseconds between the marks; waits for the second one. */
  async read(): Promise<number> {
    const encoder = this.device.createCommandEncoder();
    encoder.resolveQuerySet(this.#queries, 0, 2, this.#resolved, 0);
    encoder.copyBufferToBuffer(this.#resolved, 0, this.#readable, 0, 16);
    this.device.queue.submit([encoder.finish()]);
    await this.#readable.mapAsync(GPUMapMode.READ);
    const [begin, end] = new BigUint64Array(this.#readable.getMappedRange().slice(0));
    this.#readable.unmap();
    return Number(end! - begin!) / 1e6;
  }

  destroy(): void {
    this.#queries.destroy();
    this.#resolved.destroy();
    this.#readable.destroy();
  }

  #mark(index: number): void {
    const encoder = this.device.createCommandEncoder();
    const timestampWrites = { querySet: this.#queries, beginningOfPassWriteIndex: index };
    encoder.beginComputePass({ timestampWrites }).end();
    this.device.queue.submit([encoder.finish()]);
  }
}
