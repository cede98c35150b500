import { coefficients } from '../../custom-ops/elementwise-attention/parameters.js';
import { descendants } from '../graph/slices.js';
import type { Value } from '../graph/value.js';
import { type AxisOrder, axisOrder, axisOrders } from '../match/axis-orders.js';
import { Experiment } from '../match/experiment.js';
import { DataType } from '../onnx/spec.js';
import { PLAIN, type Trial } from '../probe/laboratory.js';
import { coordinates, indexOf } from '../probe/sample.js';
import type { JoinedOperand, Move } from '../site.js';
import { inverse, transposed } from './moves.js';
import type { MovedValue } from './source-form.js';

/**
 * Element-wise attention token by token: sums of earlier tokens come in, those of the new ones are added, and the
 * results go out again. Implementations keep them as they like: in one tensor, in two, in a list with a tensor for
 * each order, with or without the factors of the series in them. Which sum an element holds shows in how numerator and
 * denominator grow with it when the keys themselves weigh nothing.
 */

/** Sums of earlier tokens, or some of them, and those that a graph makes by adding its own. */
export interface Addition {
  readonly before: Value;
  readonly after: Value;
}

/** What is computed from the sums. */
export interface StateFormula {
  readonly query: Value;
  readonly key: Value;
  readonly value: Value;
  readonly numerator: Value;
  readonly denominator: Value;
  /** All values that the numerator and the denominator are computed by. */
  readonly slice: ReadonlySet<Value>;
}

/** Axes of query and output: the batch, the rows where there is such an axis, and those of channels. */
export interface StateAxes {
  readonly batch: number;
  readonly sequence: number | null;
  readonly channels: readonly number[];
}

/** S_0 to S_t, then Z_0 to Z_t. */
export type Sums = readonly number[];

/** One of these sums as a graph keeps it: the operator's is `factor` times as large. */
interface HeldSum {
  readonly sum: number;
  readonly factor: number;
}

/** A value that holds sums: by batch, places and channels, in some order of axes. */
interface Holder {
  readonly value: Value;
  /** Axes of the places: one, or one for S and Z and one for the orders. */
  readonly places: readonly number[];
  /** Of batch, places and channels, as they are stored. */
  readonly order: readonly number[];
  /** What each place holds. */
  readonly held: readonly HeldSum[];
}

/** Nodes that do nothing but pick elements and arrange them. */
const ARRANGING: ReadonlySet<string> = new Set([
  ...['Identity', 'Slice', 'Split', 'Gather', 'Squeeze', 'Unsqueeze', 'Reshape', 'Flatten', 'Transpose'],
]);

/** A key whose weight exp(-k^2) is zero in any type. */
const WEIGHTLESS = 30;

/** Elements of numerator and denominator that are looked at. */
const PLACES = 7;
const ROUNDING = 1e-4;

/** The state of one attention: what comes in, what goes out, and how both are laid out. */
export class ElementwiseState {
  private constructor(
    readonly order: number,
    private readonly axes: StateAxes,
    private readonly past: readonly Holder[],
    private readonly present: readonly Holder[],
    private readonly sizes: (trial: Trial) => Sizes,
  ) {}

  /** The state that these additions make up; a string says why they make up none. */
  static of(
    additions: readonly Addition[],
    formula: StateFormula,
    axes: StateAxes,
    trials: readonly Trial[],
  ): ElementwiseState | string {
    const [trial] = trials;
    const sizes = (at: Trial) => sizesOf(at.probe(PLAIN).sample(formula.numerator).dims, axes);
    const count = (value: Value) => countOf(trial!.probe(PLAIN).sample(value).dims);
    const { batch, channels } = sizes(trial!);
    const befores = new Set(additions.map(({ before }) => before));
    const sums = [...befores].reduce((total, value) => total + count(value), 0) / (batch * countOf(channels));
    const order = sums / 2 - 1;
    if (!Number.isInteger(order) || order < 1) return 'its state has no sums for each order and channel';
    const sources = sourcesOf([...befores], count);
    const { results, reached } = resultsOf(additions, formula.slice);
    const wide = { ...formula, slice: new Set([...formula.slice, ...reached]) };
    if ([...sources, ...results].some(value => !isFloat(value, trial!))) return 'its state is not float32';
    const past: Holder[] = [];
    for (const source of sources) {
      const holder = holderOf(source, order, sizes(trial!), trial!, arranged =>
        responses(arranged, source, sources, formula, axes, order, trial!),
      );
      if (holder === null) return 'its state holds something else than the sums of each order';
      past.push(holder);
    }
    const all = past.flatMap(({ held }) => held.map(({ sum }) => sum));
    if (new Set(all).size !== 2 * (order + 1)) return 'its state does not hold each sum once';
    const incoming = new ElementwiseState(order, axes, past, [], sizes);
    const present: Holder[] = [];
    for (const result of results) {
      const holder = holderOf(result, order, sizes(trial!), trial!, arranged =>
        incoming.carried(arranged, result, wide, trial!),
      );
      if (holder === null) return 'what it makes of its state is not the sums of each order';
      present.push(holder);
    }
    return new ElementwiseState(order, axes, past, present, sizes);
  }

  /** Values that hold the sums of earlier tokens, and those of all. */
  get values(): { readonly before: readonly Value[]; readonly after: readonly Value[] } {
    return { before: this.past.map(({ value }) => value), after: this.present.map(({ value }) => value) };
  }

  /** Puts numbers in the place of the sums of earlier tokens, times `factor`. */
  fill(experiment: Experiment, factor = 1): void {
    for (const [n, { value }] of this.past.entries()) {
      experiment.set(value, index => factor * sumAt(n, index));
    }
  }

  /** What {@link fill} puts there without a factor, for an element of the output. */
  earlier(trial: Trial, position: readonly number[]): Sums {
    return this.read(this.past, trial, position, (_, n, index) => sumAt(n, index));
  }

  /** The sums that an experiment leaves, for an element of the output; undefined ones do not go out. */
  later(experiment: Experiment, trial: Trial, position: readonly number[]): Sums {
    return this.read(this.present, trial, position, (value, _, index) => experiment.at(value, index));
  }

  private read(
    holders: readonly Holder[],
    trial: Trial,
    position: readonly number[],
    at: (value: Value, holder: number, index: number) => number,
  ): Sums {
    const sums: number[] = [];
    for (const [n, holder] of holders.entries()) {
      const index = indexer(axisOrder(knownSizes(this.sizes(trial), holder.places), holder.order), this.axes);
      for (const [place, { sum, factor }] of holder.held.entries()) {
        sums[sum] = factor * at(holder.value, n, index(place, holder.places, position));
      }
    }
    return sums;
  }

  /** Elements of `result` by place, beside what its sums were before; keys weigh nothing. */
  private *carried(
    layout: Layout,
    result: Value,
    formula: StateFormula,
    trial: Trial,
  ): Generator<readonly Response[]> {
    const experiment = weightless(formula, trial);
    this.fill(experiment);
    const index = indexer(layout.order, this.axes);
    const places = placesToRead(trial.probe(PLAIN).sample(formula.numerator).dims);
    for (let place = 0; place < countOf(layout.places); place++) {
      yield places.map(position => {
        const element = experiment.at(result, index(place, layout.places, position));
        return { found: Array.from(this.earlier(trial, position), sum => sum / element) };
      });
    }
  }

  /** The operator's `past_state` [B,2,t+1,X]. */
  pastState(trials: readonly Trial[]): JoinedOperand<MovedValue> {
    const parts = this.past.map((holder): MovedValue => {
      const { known, stored, dims, sorted } = this.shapes(holder, trials);
      const target = [known[0]!, countOf(holder.places), countOf(known.slice(1)) / countOf(holder.places)];
      const moves: readonly Move[] = sorted
        ? reshaped(dims, target)
        : [...reshaped(dims, stored), ...transposed(inverse(holder.order)), ...reshaped(known, target)];
      return { value: holder.value, moves };
    });
    const held = this.past.flatMap(holder => holder.held);
    const sorted = held.map((_, sum) => held.findIndex(each => each.sum === sum));
    const factors = sorted.map(n => held[n]!.factor);
    return {
      parts,
      moves: [
        ...(sorted.every((place, n) => place === n) ? [] : [{ pick: sorted }]),
        ...(factors.every(factor => factor === 1) ? [] : [{ scale: factors }]),
        { reshape: [0, 2, this.order + 1, -1] },
      ],
    };
  }

  /** The values that the operator's `present_state` holds. */
  presentStates(trials: readonly Trial[]): readonly MovedValue[] {
    const all = 2 * (this.order + 1);
    return this.present.map((holder): MovedValue => {
      const { value, order, held } = holder;
      const { known, stored, dims, sorted } = this.shapes(holder, trials);
      const whole = held.length === all && held.every(({ sum }, n) => sum === n);
      const factors = held.map(({ factor }) => 1 / factor);
      const chosen: readonly Move[] = [
        ...(whole ? [] : [{ pick: held.map(({ sum }) => sum) }]),
        ...(factors.every(factor => factor === 1) ? [] : [{ scale: factors }]),
      ];
      const given = [known[0]!, 2, this.order + 1, countOf(known.slice(1)) / held.length];
      const flat = [{ reshape: [0, all, -1] }, ...chosen];
      if (sorted)
        return { value, moves: chosen.length === 0 ? reshaped(given, dims) : [...flat, { reshape: dims }] };
      const apart = chosen.length === 0 ? reshaped(given, known) : [...flat, { reshape: known }];
      return { value, moves: [...apart, ...transposed(order), ...reshaped(stored, dims)] };
    });
  }

  /**
   * Sizes of the known axes, the same in the order of storage, and the shape of the value, with -1 for what varies;
   * `sorted` where only axes of size 1 are out of order.
   */
  private shapes({ value, places, order }: Holder, trials: readonly Trial[]) {
    const free = (shapes: readonly (readonly number[])[]) =>
      shapes[0]!.map((size, axis) => (shapes.every(other => other[axis] === size) ? size : -1));
    const known = free(trials.map(trial => knownSizes(this.sizes(trial), places)));
    const dims = free(trials.map(trial => trial.probe(PLAIN).sample(value).dims));
    const moving = order.filter(axis => known[axis] !== 1);
    const sorted = moving.every((axis, n) => n === 0 || axis > moving[n - 1]!);
    return { known, stored: order.map(axis => known[axis]!), dims, sorted };
  }
}

function reshaped(from: readonly number[], to: readonly number[]): readonly Move[] {
  return from.join() === to.join() ? [] : [{ reshape: to }];
}

interface Sizes {
  readonly batch: number;
  readonly channels: readonly number[];
}

function sizesOf(dims: readonly number[], { batch, channels }: StateAxes): Sizes {
  return { batch: dims[batch]!, channels: channels.map(axis => dims[axis]!) };
}

function countOf(dims: readonly number[]): number {
  return dims.reduce((product, dim) => product * dim, 1);
}

function knownSizes({ batch, channels }: Sizes, places: readonly number[]): number[] {
  return [batch, ...places, ...channels];
}

function isFloat(value: Value, trial: Trial): boolean {
  return trial.probe(PLAIN).tryToSample(value)?.dataType === DataType.FLOAT;
}

/** Positive numbers: sums of weights are, and what divides them has to stay away from zero. */
function sumAt(holder: number, index: number): number {
  const wave = Math.sin(index * 12.9898 + holder * 39.425 + 7) * 43758.5453;
  return 0.5 + (wave - Math.floor(wave));
}

/** The furthest values back that hold what the additions take, and nothing else. */
function sourcesOf(befores: readonly Value[], count: (value: Value) => number): Value[] {
  const ways = befores.map(before => {
    const way = [before];
    for (let { producer } = before; producer !== null && ARRANGING.has(producer.type); ) {
      const next = producer.inputs[0]!;
      way.push(next);
      producer = next.producer;
    }
    return way;
  });
  const covered = (value: Value) => {
    const taken = befores.filter((_, n) => ways[n]!.includes(value));
    return taken.reduce((total, before) => total + count(before), 0) === count(value);
  };
  return [...new Set(ways.map(way => way.findLast(covered)!))];
}

/** Values outside of the attention, or read there, that hold sums after the additions. */
function resultsOf(
  additions: readonly Addition[],
  slice: ReadonlySet<Value>,
): { readonly results: readonly Value[]; readonly reached: ReadonlySet<Value> } {
  const reached = new Set(additions.map(({ after }) => after));
  const arranged = new Set<Value>();
  for (const value of reached) {
    for (const { node } of value.uses) {
      const joins =
        node.type === 'Concat' && node.inputs.every(input => input !== null && reached.has(input));
      if (!joins && !(ARRANGING.has(node.type) && node.inputs[0] === value)) continue;
      for (const output of node.outputs) {
        if (output === null) continue;
        reached.add(output);
        arranged.add(output);
      }
    }
  }
  const inside = (value: Value | null) => value !== null && (slice.has(value) || arranged.has(value));
  const results = [...reached].filter(
    ({ outputOf, uses }) =>
      outputOf.length > 0 || uses.some(({ node }) => node.type !== 'Shape' && !node.outputs.some(inside)),
  );
  return { results, reached };
}

/** Places and axis order that a holder may have. */
interface Layout {
  readonly places: readonly number[];
  readonly order: AxisOrder;
}

/** What one element of numerator or denominator says of a place: by sum, what the graph has of it. */
interface Response {
  /** The factor that each sum would have; the right one is the same wherever one looks. */
  readonly found: readonly number[];
}

/** How a value holds sums, and which; null where it holds anything else. */
function holderOf(
  value: Value,
  order: number,
  sizes: Sizes,
  trial: Trial,
  respond: (layout: Layout) => Iterable<readonly Response[]>,
): Holder | null {
  const { dims } = trial.probe(PLAIN).sample(value);
  const count = countOf(dims) / (sizes.batch * countOf(sizes.channels));
  if (!Number.isInteger(count)) return null;
  const splits = [[count], ...(count === 2 * (order + 1) ? [[2, order + 1]] : [])];
  for (const places of splits) {
    for (const candidate of axisOrders(dims, knownSizes(sizes, places))) {
      const held: HeldSum[] = [];
      for (const seen of respond({ places, order: candidate })) {
        const sum = seen[0]!.found.findIndex((first, n) =>
          seen.every(
            ({ found }) =>
              Number.isFinite(first) && first !== 0 && Math.abs(found[n]! / first - 1) <= ROUNDING,
          ),
        );
        if (sum < 0) break;
        const factor = seen[0]!.found[sum]!;
        held.push({ sum, factor: Math.abs(factor - 1) <= ROUNDING ? 1 : factor });
      }
      if (held.length === count) return { value, places, order: candidate.order, held };
    }
  }
  return null;
}

/** The numerator and the denominator with zeros in all sums but those of one place after the other. */
function* responses(
  layout: Layout,
  source: Value,
  sources: readonly Value[],
  formula: StateFormula,
  axes: StateAxes,
  order: number,
  trial: Trial,
): Generator<readonly Response[]> {
  const { dims } = trial.probe(PLAIN).sample(formula.numerator);
  const index = indexer(layout.order, axes);
  const factors = coefficients(order);
  for (let place = 0; place < countOf(layout.places); place++) {
    const experiment = weightless(formula, trial);
    for (const other of sources) if (other !== source) experiment.set(other, () => 0);
    const places = placesToRead(dims);
    const shown = new Map(places.map(position => [index(place, layout.places, position), position]));
    experiment.set(source, at => (shown.has(at) ? sumAt(0, at) : 0));
    yield places.map(position => {
      const at = indexOf(position, dims);
      const given = sumAt(0, index(place, layout.places, position));
      const found = [formula.numerator, formula.denominator].flatMap(total => {
        const element = experiment.at(total, at);
        return factors.map((factor, n) => element / (given * factor * queryAt(at) ** n));
      });
      return { found };
    });
  }
}

/** Positive numbers, so that nothing cancels. */
export function queryAt(index: number): number {
  const wave = Math.sin(index * 12.9898 + 78.233) * 43758.5453;
  return 0.3 + 1.5 * (wave - Math.floor(wave));
}

/** The graph with queries {@link queryAt} and keys that weigh nothing. */
function weightless({ query, key, value, slice }: StateFormula, trial: Trial): Experiment {
  const experiment = new Experiment(trial.probe(PLAIN), slice);
  experiment.set(key, () => WEIGHTLESS);
  experiment.set(query, queryAt);
  experiment.set(value, () => 1);
  return experiment;
}

/** Some coordinates of a tensor of this shape, the last among them. */
function placesToRead(dims: readonly number[]): number[][] {
  const count = countOf(dims);
  const indices = Array.from({ length: PLACES }, (_, n) => Math.floor((n * (count - 1)) / (PLACES - 1)));
  return [...new Set(indices)].map(index => coordinates(index, dims));
}

/** Where a holder of this axis order has a place for an element of the output. */
function indexer({ strides }: AxisOrder, axes: StateAxes) {
  return (place: number, places: readonly number[], position: readonly number[]): number => {
    const known = [
      position[axes.batch]!,
      ...coordinates(place, places),
      ...axes.channels.map(axis => position[axis]!),
    ];
    return known.reduce((index, at, axis) => index + at * strides[axis]!, 0);
  };
}

/** Where what is made of the keys is added to something else, other than in exponents. */
export function additionsOf(
  key: Value,
  slice: ReadonlySet<Value>,
  exponents: ReadonlySet<Value>,
  isData: (value: Value) => boolean,
): readonly Addition[] {
  const fromKey = descendants(key, slice);
  const found: Addition[] = [];
  for (const after of slice) {
    const { producer } = after;
    if (producer?.type !== 'Add' || !fromKey.has(after) || exponents.has(after)) continue;
    const others = producer.inputs.filter(value => value !== null && !fromKey.has(value));
    const [before] = others;
    if (others.length === 1 && before != null && isData(before)) found.push({ before, after });
  }
  return found;
}
