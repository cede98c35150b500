import { Worker } from 'node:worker_threads';
import type { RuntimeDescription } from '../../rewriter/validation.js';
import { RemoteFailure } from '../errors.js';
import { type EncodedResponse, RequestError } from './inference-protocol.js';
import type { WorkerMessage, WorkerReply, WorkerSetup } from './model-worker.js';

/** An inference that has been asked for. */
interface Pending {
  readonly body: Uint8Array<ArrayBuffer>;
  readonly headerLength: number | null;
  /** Aborted when nobody waits for the answer any more. */
  readonly signal: AbortSignal;
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: Error) => void;
}

export interface Answer {
  readonly response: EncodedResponse;
  readonly runMs: number;
}

/** A model in a thread of its own, one inference at a time; the others wait in a queue of limited length. */
export class ModelThread {
  private readonly worker: Worker;
  private readonly queue: Pending[] = [];
  private running: Pending | null = null;
  private whenIdle: (() => void) | null = null;
  private stopped = false;
  /** What runs the model; null until it is loaded. */
  private loaded: RuntimeDescription | null = null;
  /** Resolves when the model is loaded; rejects when it cannot be. */
  readonly ready: Promise<RuntimeDescription>;

  constructor(
    setup: WorkerSetup,
    private readonly queueLimit: number,
  ) {
    this.worker = new Worker(new URL('./model-worker.js', import.meta.url), { workerData: setup });
    this.ready = new Promise((resolve, reject) => {
      this.worker.on('message', (reply: WorkerReply) => {
        if (reply.kind === 'ready') {
          this.loaded = reply.runtime;
          resolve(reply.runtime);
        } else if (reply.kind === 'unloadable') reject(new RemoteFailure(reply.failure));
        else this.settle(reply);
      });
      this.worker.once('error', error => {
        reject(error);
        this.fail(error);
      });
    });
  }

  get runtime(): RuntimeDescription | null {
    return this.loaded;
  }

  /** Requests that wait, the one that runs included. */
  get waiting(): number {
    return this.queue.length + (this.running === null ? 0 : 1);
  }

  get accepts(): boolean {
    return this.loaded !== null && !this.stopped;
  }

  /**
   * Runs the model on a request as it came over HTTP.
   * @throws RequestError 503 while the model loads or the server shuts down, 429 when the queue is full, 400 for a bad
   *   request, 500 with the runtime's message when it does not run
   */
  infer(body: Uint8Array<ArrayBuffer>, headerLength: number | null, signal: AbortSignal): Promise<Answer> {
    return new Promise((resolve, reject) => {
      if (this.stopped) throw new RequestError(503, 'the server is shutting down');
      if (this.loaded === null) throw new RequestError(503, 'the model is being loaded');
      if (this.queue.length >= this.queueLimit) {
        throw new RequestError(429, `${this.queue.length} requests are waiting already`);
      }
      this.queue.push({ body, headerLength, signal, resolve, reject });
      this.next();
    });
  }

  /** Finishes what waits, takes nothing new, and gives up the model. */
  async close(): Promise<void> {
    this.stopped = true;
    if (this.waiting > 0) {
      await new Promise<void>(resolve => {
        this.whenIdle = resolve;
      });
    }
    if (this.loaded === null) await this.worker.terminate();
    else {
      this.send({ kind: 'close' });
      await new Promise(resolve => this.worker.once('exit', resolve));
    }
  }

  private next(): void {
    if (this.running !== null) return;
    let pending = this.queue.shift();
    while (pending?.signal.aborted) pending = this.queue.shift();
    this.running = pending ?? null;
    if (pending === undefined) this.whenIdle?.();
    else this.send({ kind: 'infer', body: pending.body, headerLength: pending.headerLength });
  }

  private settle(reply: Extract<WorkerReply, { kind: 'answer' | 'refusal' }>): void {
    const pending = this.running!;
    this.running = null;
    if (reply.kind === 'answer') pending.resolve(reply);
    else pending.reject(new RequestError(reply.status, reply.message));
    this.next();
  }

  /** The thread is gone: nothing can be answered any more. */
  private fail(error: Error): void {
    this.stopped = true;
    this.loaded = null;
    const left = this.running === null ? this.queue : [this.running, ...this.queue];
    for (const pending of left)
      pending.reject(new RequestError(500, `the model's thread failed: ${error.message}`));
    this.queue.length = 0;
    this.running = null;
    this.whenIdle?.();
  }

  private send(message: WorkerMessage): void {
    this.worker.postMessage(message, message.kind === 'infer' ? [message.body.buffer] : []);
  }
}
