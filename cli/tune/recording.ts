import type { ModelInfo } from '../../rewriter/onnx/model-info.js';
import { expose } from '../validation/replacement.js';
import type { Tensors } from './metric.js';
import type { TuningContext } from './tuning-context.js';
import type { DataWindow } from './tuning-data.js';

/** Inner values of models on some windows, computed when they are first asked for. */
export class Recording {
  private exact: Promise<ReadonlyMap<DataWindow, Tensors>> | null = null;
  private original: Promise<ReadonlyMap<DataWindow, Tensors>> | null = null;

  /**
   * @param exactModel the model with exact attention
   * @param names values to record, graph inputs among them; those that `exactModel` lacks are the original's
   */
  constructor(
    private readonly context: TuningContext,
    private readonly exactModel: ModelInfo,
    private readonly names: ReadonlySet<string>,
    private readonly windows: readonly DataWindow[],
  ) {}

  /** The values of the model with exact attention, by window. */
  ofExact(): Promise<ReadonlyMap<DataWindow, Tensors>> {
    this.exact ??= this.record(this.exactModel, new Set());
    return this.exact;
  }

  /** The same, with those that only the original computes. */
  ofOriginal(): Promise<ReadonlyMap<DataWindow, Tensors>> {
    this.original ??= this.recordOriginal();
    return this.original;
  }

  private async recordOriginal(): Promise<ReadonlyMap<DataWindow, Tensors>> {
    const exact = await this.ofExact();
    const known = new Set([...exact.values()].flatMap(values => [...values.keys()]));
    const recorded = await this.record(this.context.model.file.model, known);
    return new Map(this.windows.map(w => [w, new Map([...exact.get(w)!, ...recorded.get(w)!])]));
  }

  private async record(
    model: ModelInfo,
    known: ReadonlySet<string>,
  ): Promise<ReadonlyMap<DataWindow, Tensors>> {
    const computed = new Set(model.graph.nodes.flatMap(({ outputs }) => outputs));
    const names = [...this.names].filter(name => computed.has(name) && !known.has(name));
    if (names.length === 0) return new Map(this.windows.map(window => [window, window.feeds]));
    const { engine } = this.context;
    const recorded = new Map<DataWindow, Tensors>();
    await engine.with(expose(model, names), async session => {
      for (const window of this.windows) {
        recorded.set(window, new Map([...window.feeds, ...(await engine.run(session, window.feeds, names))]));
      }
    });
    return recorded;
  }
}

/** The values of these names, to feed to a part of a model. */
export function pick(values: Tensors, names: readonly string[]): Tensors {
  return new Map(names.map(name => [name, values.get(name)!]));
}
