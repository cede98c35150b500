import { descendants } from '../graph/slices.js';
import type { Value } from '../graph/value.js';
import type { Probe } from '../probe/probe.js';
import type { Sample } from '../probe/sample.js';

/**
 * Part of a graph fed with numbers of one's own. Where every operator between some values and an output can be
 * followed, comparing what comes out with a definition, at two sizes, tells whether the graph computes it,
 * however it is written. The operators in between have to be analytic functions of the numbers: then an
 * agreement at random numbers is no accident, and none elsewhere.
 */
export class Experiment {
  /**
   * @param probe of what the model is fed where nothing is put in place
   * @param within the values that are looked at, where not all are: what else depends on numbers put in place is left
   */
  constructor(
    private probe: Probe,
    private readonly within: ReadonlySet<Value> | null = null,
  ) {}

  /** Shape of a value; null where it cannot be followed. */
  dims(value: Value): readonly number[] | null {
    return this.probe.tryToSample(value)?.dims ?? null;
  }

  /** Puts `at` in the place of a value's elements, by row-major index. */
  set(value: Value, at: (index: number) => number): void {
    const { dims, dataType } = this.probe.sample(value);
    this.probe = this.probe.withSample(value, { dims, dataType, at }, descendants(value, this.within));
  }

  /** What a value holds. @throws UnknownSample where an operator before it cannot be followed */
  sample(value: Value): Sample {
    return this.probe.sample(value);
  }

  /** An element of a value. @throws UnknownSample where an operator before it cannot be followed */
  at(value: Value, index: number): number {
    return this.probe.sample(value).at(index);
  }
}
