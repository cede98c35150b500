import type { Node } from '../graph/node.js';
import { descendants } from '../graph/slices.js';
import type { Value } from '../graph/value.js';
import type { Feed } from '../probe/feed.js';
import { PLAIN, type Trial } from '../probe/laboratory.js';
import type { Probe } from '../probe/probe.js';
import { coordinates, indexOf, type Sample } from '../probe/sample.js';
import { type FactorAxes, type Product, productOf } from './product.js';

/** A batched matrix product of a graph, carried out element by element. */
interface ScoreProduct extends Product {
  readonly output: Value;
  readonly dependents: ReadonlySet<Value>;
}

/**
 * A graph between query and key and what its softmax reads, computed with numbers of one's own: where probing
 * alone takes products for data, an experiment carries them out.
 */
export class ScoreExperiment {
  private readonly products: readonly ScoreProduct[];
  private readonly dependents: { readonly query: ReadonlySet<Value>; readonly key: ReadonlySet<Value> };

  /** @param products nodes that multiply query and key, all of them, each a product as `productOf` reads it */
  constructor(
    readonly query: Value,
    readonly key: Value,
    readonly logits: Value,
    products: readonly Node[],
  ) {
    this.products = products.map(node => {
      const output = node.outputs[0]!;
      return { ...productOf(node)!, output, dependents: descendants(output) };
    });
    this.dependents = { query: descendants(query), key: descendants(key) };
  }

  /**
   * What the softmax reads when query and key hold these elements.
   * @throws UnknownSample where an operator in between cannot be followed
   */
  run(trial: Trial, feed: Feed, query: Sample['at'], key: Sample['at']): Sample {
    let probe = trial.probe(feed);
    const replace = (value: Value, at: Sample['at'], dependents: ReadonlySet<Value>) => {
      probe = probe.withSample(value, { ...probe.sample(value), at }, dependents);
    };
    replace(this.query, query, this.dependents.query);
    replace(this.key, key, this.dependents.key);
    const operands = probe;
    for (const product of this.products) {
      const { dims } = trial.probe(PLAIN).sample(product.output);
      replace(product.output, elementsOf(product, dims, operands), product.dependents);
    }
    return probe.sample(this.logits);
  }
}

/** Elements of a product of what a probe finds its factors to be. */
export function elementsOf(product: Product, dims: readonly number[], probe: Probe): Sample['at'] {
  const result = product.result(dims.length);
  const left = factor(probe.sample(product.left), product.axes.left);
  const right = factor(probe.sample(product.right), product.axes.right);
  return index => {
    const position = coordinates(index, dims);
    const lead = result.lead.map(axis => position[axis]!);
    const [row, column] = [position[result.rows]!, position[result.columns]!];
    let sum = 0;
    for (let k = 0; k < left.depth; k++) sum += left.at(lead, row, k) * right.at(lead, column, k);
    return product.factor * sum;
  };
}

/** A factor by batch position, kept axis and summed axis; batch axes of size 1 broadcast. */
function factor(
  { dims, at }: Sample,
  axesOf: (rank: number) => FactorAxes,
): { depth: number; at: (lead: readonly number[], outer: number, inner: number) => number } {
  const axes = axesOf(dims.length);
  return {
    depth: dims[axes.inner]!,
    at: (lead, outer, inner) => {
      const position = new Array<number>(dims.length).fill(0);
      const missing = lead.length - axes.lead.length;
      axes.lead.forEach((axis, n) => {
        position[axis] = dims[axis] === 1 ? 0 : (lead[n + missing] ?? 0);
      });
      position[axes.outer] = outer;
      position[axes.inner] = inner;
      return at(indexOf(position, dims));
    },
  };
}
