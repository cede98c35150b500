import { ancestors, descendants } from '../graph/slices.js';
import type { Value } from '../graph/value.js';
import { Experiment } from '../match/experiment.js';
import type { Probe } from '../probe/probe.js';
import { sizeOf, UnknownSample } from '../probe/sample.js';
import type { Extent, LogitSource, Place } from './logits.js';

/** Logits made in any way from a few values, into which an experiment puts numbers. */
export class ComputedLogits implements LogitSource {
  readonly terms: readonly Value[];
  readonly masked = true;
  readonly distances = [];

  /**
   * @param operands what `put` sets
   * @param put sets numbers with which every score is this product, but for constant factors
   */
  constructor(
    private readonly logits: Value,
    operands: readonly Value[],
    private readonly put: (experiment: Experiment, product: number) => void,
  ) {
    const computed = new Set(operands.flatMap(operand => [...descendants(operand)]));
    const inside = (value: Value) => computed.has(value) && !operands.includes(value);
    this.terms = [...ancestors(logits, inside)].filter(value => !computed.has(value));
  }

  identity(): string {
    return `logits ${this.logits.name}`;
  }

  at(probe: Probe, { batch, heads, rows, columns }: Extent): (place: Place, product: number) => number {
    const readers = new Map<number, (index: number) => number>();
    const readerOf = (product: number) => {
      let reader = readers.get(product);
      if (reader === undefined) {
        const experiment = new Experiment(probe);
        this.put(experiment, product);
        const { dims, at } = experiment.sample(this.logits);
        if (sizeOf(dims) !== batch * heads * rows * columns) {
          throw new UnknownSample('the scores are not laid out by batch, head, query and key');
        }
        reader = at;
        readers.set(product, reader);
      }
      return reader;
    };
    return ({ b, h, i, j }, product) => readerOf(product)(((b * heads + h) * rows + i) * columns + j);
  }
}
