import type { TensorValue } from '../data/tensor.js';
import { refusable } from '../runtime/refusable.js';
import { type ModelSession, openSession } from '../runtime/session.js';

export interface EngineSettings {
  /** Threads of one operator; null for the runtime's choice. */
  readonly threads: number | null;
  /** Whether function bodies run, whatever native kernels there are. */
  readonly stock: boolean;
}

/** Idle threads of a session go on looking for work for a moment: long enough to be in the next one's way. */
const PAUSE_MS = 20;

/** Runs models and parts of models, all in the same way. */
export class Engine {
  /**
   * @param file how messages call the model
   * @param folder of its external data
   */
  constructor(
    private readonly file: string,
    private readonly folder: string,
    private readonly settings: EngineSettings,
  ) {}

  /** @throws InputError when the runtime refuses the model */
  open(bytes: Uint8Array): Promise<ModelSession> {
    const { threads, stock } = this.settings;
    const options = { ...(threads === null ? {} : { threads }), ...(stock ? { stock } : {}) };
    return refusable(this.file, () => openSession({ bytes, folder: this.folder }, options));
  }

  /** Opens a session for as long as `use` takes. */
  async with<T>(bytes: Uint8Array, use: (session: ModelSession) => Promise<T>): Promise<T> {
    const session = await this.open(bytes);
    try {
      return await use(session);
    } finally {
      await session.release();
    }
  }

  /** @throws InputError when the runtime refuses the inputs */
  run(
    session: ModelSession,
    feeds: ReadonlyMap<string, TensorValue>,
    fetches: readonly string[],
  ): Promise<Map<string, TensorValue>> {
    return refusable(this.file, () => session.run(feeds, fetches));
  }

  /** Runs once; the time in milliseconds comes with the outputs. */
  async timed(
    session: ModelSession,
    feeds: ReadonlyMap<string, TensorValue>,
    fetches: readonly string[],
  ): Promise<{ readonly ms: number; readonly outputs: Map<string, TensorValue> }> {
    await new Promise(resolve => setTimeout(resolve, PAUSE_MS));
    const start = performance.now();
    const outputs = await this.run(session, feeds, fetches);
    return { ms: performance.now() - start, outputs };
  }
}
