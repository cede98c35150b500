import type { Node } from '../graph/node.js';
import { descendants } from '../graph/slices.js';
import type { Value } from '../graph/value.js';
import type { Feed } from '../probe/feed.js';
import { PLAIN, type Trial } from '../probe/laboratory.js';
import type { Probe } from '../probe/probe.js';
import { axisOf, remembered, type Sample } from '../probe/sample.js';
import type { Product } from './product.js';
import { elementsOf } from './score-experiment.js';

/**
 * Part of a graph fed with numbers of one's own. Where every operator between some values and an output can be
 * followed, comparing what comes out with a definition, at two sizes, tells whether the graph computes it,
 * however it is written. The operators in between have to be analytic functions of the numbers: then an
 * agreement at random numbers is no accident, and none elsewhere.
 */
export class Experiment {
  private probe: Probe;

  /** @param feed what the model is fed where nothing is put in place */
  constructor(trial: Trial, feed: Feed = PLAIN) {
    this.probe = trial.probe(feed);
  }

  /** Shape of a value; null where it cannot be followed. */
  dims(value: Value): readonly number[] | null {
    return this.probe.tryToSample(value)?.dims ?? null;
  }

  /** Puts `at` in the place of a value's elements, by row-major index. */
  set(value: Value, at: (index: number) => number): void {
    const { dims, dataType } = this.probe.sample(value);
    this.replace(value, { dims, dataType, at });
  }

  /** Works out a softmax, whose elements probes do not follow, from the elements of its input. */
  applySoftmax(output: Value): void {
    const node = output.producer!;
    const logits = this.probe.sample(node.inputs[0]!);
    const { dims, dataType } = logits;
    const axis = axisOf(node.int('axis', -1), dims.length);
    const stride = dims.slice(axis + 1).reduce((product, dim) => product * dim, 1);
    const rows = new Map<number, { readonly top: number; readonly sum: number }>();
    const rowAt = (first: number) => {
      let row = rows.get(first);
      if (row === undefined) {
        const elements = Array.from({ length: dims[axis]! }, (_, n) => logits.at(first + n * stride));
        const top = Math.max(...elements);
        row = { top, sum: elements.reduce((sum, logit) => sum + Math.exp(logit - top), 0) };
        rows.set(first, row);
      }
      return row;
    };
    const at = (index: number) => {
      const { top, sum } = rowAt(index - (Math.floor(index / stride) % dims[axis]!) * stride);
      return Math.exp(logits.at(index) - top) / sum;
    };
    this.replace(output, { dims, dataType, at });
  }

  /** Carries out a matrix product, whose elements probes take for data. */
  applyProduct(output: Value, product: Product): void {
    const { dims, dataType } = this.probe.sample(output);
    this.replace(output, remembered({ dims, dataType, at: elementsOf(product, dims, this.probe) }));
  }

  /** Carries out a LayerNormalization of the last axis. */
  applyLayerNormalization(node: Node): void {
    const [x, gain, bias] = node.inputs.map(value => value && this.probe.sample(value));
    const { dims, dataType, at } = x!;
    const size = dims.at(-1)!;
    const epsilon = node.float('epsilon', 1e-5);
    const normalized = (index: number) => {
      const first = index - (index % size);
      const vector = Array.from({ length: size }, (_, n) => at(first + n));
      const mean = vector.reduce((sum, element) => sum + element, 0) / size;
      const variance = vector.reduce((sum, element) => sum + (element - mean) ** 2, 0) / size;
      const channel = index % size;
      const factor = (gain?.at(channel) ?? 1) / Math.sqrt(variance + epsilon);
      return (vector[channel]! - mean) * factor + (bias?.at(channel) ?? 0);
    };
    this.replace(node.outputs[0]!, remembered({ dims, dataType, at: normalized }));
  }

  /** An element of a value. @throws UnknownSample where an operator before it cannot be followed */
  at(value: Value, index: number): number {
    return this.probe.sample(value).at(index);
  }

  private replace(value: Value, sample: Sample): void {
    this.probe = this.probe.withSample(value, sample, descendants(value));
  }
}
