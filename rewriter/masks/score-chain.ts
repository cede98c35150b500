import type { Node } from '../graph/node.js';
import type { Value } from '../graph/value.js';
import type { Laboratory } from '../probe/laboratory.js';
import type { Probe } from '../probe/probe.js';
import { sizeOf, UnknownSample } from '../probe/sample.js';
import type { Structure } from '../probe/structure.js';
import type { Extent, LogitSource, Place } from './logits.js';

/** Inputs that say how to move elements, not what they are. */
const PARAMETERS: ReadonlySet<string> = new Set(['Reshape', 'Unsqueeze', 'Squeeze', 'Clip']);

function multiplies({ type }: Node): boolean {
  return type === 'Mul' || type === 'Div';
}

/** The nodes between a product and the softmax, evaluated as the graph has them. */
export class ScoreChain implements LogitSource {
  readonly terms: readonly Value[];
  readonly masked: boolean;
  readonly distances = [];
  private readonly computed: ReadonlySet<Value>;

  /** `steps` compute `logits` from `scores`, and nothing else does. */
  constructor(
    private readonly scores: Value,
    private readonly logits: Value,
    steps: readonly Node[],
    laboratory: Laboratory,
  ) {
    this.computed = new Set([
      scores,
      ...steps.flatMap(step => step.outputs.filter(output => output !== null)),
    ]);
    const operands = steps
      .filter(step => !PARAMETERS.has(step.type))
      .flatMap(step => step.inputs.map(value => ({ step, value })));
    this.terms = operands.flatMap(({ step, value }) => {
      if (value === null || this.computed.has(value)) return [];
      return multiplies(step) && laboratory.scalar(value) !== null ? [] : [value];
    });
    this.masked = steps.some(
      step => !PARAMETERS.has(step.type) && !multiplies(step) && step.inputs.length > 1,
    );
  }

  identity(structure: Structure): string {
    const nameOf = (value: Value): string => {
      if (value === this.scores) return 'scores';
      return this.computed.has(value) ? structure.ofNode(value.producer!, nameOf) : structure.ofValue(value);
    };
    return nameOf(this.logits);
  }

  at(probe: Probe, extent: Extent): (place: Place, product: number) => number {
    const { dims, dataType } = probe.sample(this.scores);
    const { heads, rows, columns } = extent;
    if (
      sizeOf(dims) !== extent.batch * heads * rows * columns ||
      dims.at(-1) !== columns ||
      dims.at(-2) !== rows
    ) {
      throw new UnknownSample(
        `the scores [${dims.join(', ')}] are not laid out by batch, head, query and key`,
      );
    }
    let read = -1;
    const readers = new Map<number, (index: number) => number>();
    const readerOf = (product: number) => {
      let reader = readers.get(product);
      if (reader === undefined) {
        const at = (index: number) => {
          read = index;
          return product;
        };
        const sample = probe
          .withSample(this.scores, { dims, dataType, at }, this.computed)
          .sample(this.logits);
        if (sizeOf(sample.dims) !== sizeOf(dims)) throw new UnknownSample('the mask makes the scores larger');
        reader = sample.at;
        readers.set(product, reader);
      }
      return reader;
    };
    return ({ b, h, i, j }, product) => {
      const index = ((b * heads + h) * rows + i) * columns + j;
      read = index;
      const logit = readerOf(product)(index);
      if (read !== index) throw new UnknownSample('the scores are rearranged on their way into the softmax');
      return logit;
    };
  }
}
