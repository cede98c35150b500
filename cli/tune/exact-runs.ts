import type { ModelSession } from '../runtime/session.js';
import type { Engine } from './engine.js';
import type { MeasurementCache } from './measurement-cache.js';
import type { Metric, Tensors } from './metric.js';
import type { DataWindow } from './tuning-data.js';

/** Outputs that are kept in memory. */
const ALLOWANCE = 2 ** 30;

/** What the model with exact attention makes of windows: everything else is compared with it. */
export class ExactRuns {
  private session: Promise<ModelSession> | null = null;
  private readonly kept = new Map<DataWindow, Tensors>();
  private keptBytes = 0;

  /** @param bytes of the model with exact attention */
  constructor(
    private readonly engine: Engine,
    private readonly cache: MeasurementCache,
    private readonly metric: Metric,
    private readonly bytes: () => Uint8Array,
  ) {}

  /** Whether the value on a window is known without a run. */
  isKnown(window: DataWindow): boolean {
    return this.cache.has(keyOf(window));
  }

  /** The metric's value on a window. */
  async value(window: DataWindow): Promise<number> {
    if (!this.isKnown(window)) await this.outputs(window);
    return this.cache.stored(keyOf(window));
  }

  /** The outputs that the metric reads. */
  async outputs(window: DataWindow): Promise<Tensors> {
    const known = this.kept.get(window);
    if (known !== undefined) return known;
    this.session ??= this.engine.open(this.bytes());
    const outputs = await this.engine.run(await this.session, window.feeds, this.metric.outputs);
    await this.cache.get(
      keyOf(window),
      async () => (await this.metric.measure(window, outputs, outputs)).value,
    );
    const bytes = [...outputs.values()].reduce((sum, { data }) => sum + data.byteLength, 0);
    if (this.keptBytes + bytes <= ALLOWANCE) {
      this.keptBytes += bytes;
      this.kept.set(window, outputs);
    }
    return outputs;
  }

  async release(): Promise<void> {
    await (await this.session)?.release();
    this.session = null;
    this.kept.clear();
    this.keptBytes = 0;
  }
}

function keyOf(window: DataWindow): string {
  return `exact attention: ${window.name}`;
}
