import type { Node } from '../graph/node.js';
import { ancestors } from '../graph/slices.js';
import type { Value } from '../graph/value.js';
import { DataType } from '../onnx/spec.js';
import { type Laboratory, PLAIN } from '../probe/laboratory.js';
import { elements, sizeOf } from '../probe/sample.js';
import { dominatorsOf } from './dominators.js';
import { Experiment } from './experiment.js';
import { isStored } from './operands.js';

/** Normalization of the last axis. */
export interface Normalization {
  /** What is normalized. */
  readonly source: Value;
  /** Stored factors of the channels; null where there are none. */
  readonly gain: Value | null;
  readonly epsilon: number;
  /** Why it is no layer normalization without bias; null where it is one. */
  readonly problem: string | null;
}

/** Operators that normalizations are written with. */
const STEPS: ReadonlySet<string> = new Set([
  ...['Add', 'Sub', 'Mul', 'Div', 'Pow', 'Sqrt', 'Reciprocal', 'ReduceMean', 'ReduceSum', 'Cast', 'Identity'],
  ...['Reshape', 'Expand', 'Unsqueeze', 'Squeeze'],
]);

/** Those whose second input is a shape. */
const RESHAPES: ReadonlySet<string> = new Set(['Reshape', 'Expand', 'Unsqueeze', 'Squeeze']);

/** Rounding of a normalization, relative to the largest element. */
const ROUNDING = { float32: 1e-4, float16: 1e-2 } as const;

/** The normalization that a value is the result of, as one operator or written out; null where it is of none. */
export function normalizationAt(value: Value, laboratory: Laboratory): Normalization | null {
  const { producer } = value;
  if (producer === null) return null;
  if (producer.type === 'RMSNormalization') {
    const [source, gain = null] = producer.inputs;
    return source == null ? null : { source, gain, epsilon: 0, problem: ROOT_MEAN_SQUARE };
  }
  if (producer.type === 'LayerNormalization') return ofOperator(producer, value, laboratory);
  if (!STEPS.has(producer.type)) return null;
  const computed = ({ type, inputs }: Node) =>
    (RESHAPES.has(type) ? inputs.slice(0, 1) : inputs)
      .filter(input => input !== null)
      .filter(input => !isStored(input, laboratory));
  const sources = dominatorsOf([value], computed, ({ type }) => STEPS.has(type));
  // What a mean has been taken from already is normalized by its root mean square: the furthest back decides.
  const found = sources.slice(1).map(source => writtenOut(value, source, laboratory));
  return found.find(each => each?.problem === null) ?? found.findLast(each => each !== null) ?? null;
}

const ROOT_MEAN_SQUARE = 'it normalizes by the root mean square, not by mean and deviation';
const BIASED = 'its normalization has a bias';

function ofOperator(node: Node, value: Value, laboratory: Laboratory): Normalization | null {
  const [source, gain = null, bias] = node.inputs;
  const dims = dimsOf(value, laboratory);
  const axis = node.int('axis', -1);
  if (source == null || dims === null || (axis !== -1 && axis !== dims.length - 1)) return null;
  const problem = bias != null && !allZero(bias, laboratory) ? BIASED : null;
  return { source, gain, epsilon: node.float('epsilon', 1e-5), problem };
}

function allZero(value: Value, { trials }: Laboratory): boolean {
  const sample = trials[0]!.probe(PLAIN).tryToSample(value);
  return sample !== null && elements(sample).every(element => element === 0);
}

function dimsOf(value: Value, { trials }: Laboratory): readonly number[] | null {
  return trials[0]!.probe(PLAIN).tryToSample(value)?.dims ?? null;
}

/** Compares what lies between two values with normalizations, on one row of ordinary size and a small one. */
function writtenOut(value: Value, source: Value, laboratory: Laboratory): Normalization | null {
  const [dims, sourceDims] = [dimsOf(value, laboratory), dimsOf(source, laboratory)];
  if (dims === null || sourceDims === null || dims.join() !== sourceDims.join()) return null;
  const follow = (each: Value) => each !== source && each.producer !== null && STEPS.has(each.producer.type);
  const between = [...ancestors(value, follow)].filter(each => each !== source);
  if (!between.some(({ producer }) => producer?.type.startsWith('Reduce'))) return null;
  const size = dims.at(-1)!;
  const probe = laboratory.trials[0]!.probe(PLAIN);
  const vectors = between
    .filter(each => isStored(each, laboratory))
    .filter(
      each => sizeOf(dimsOf(each, laboratory) ?? []) === size && dimsOf(each, laboratory)!.at(-1) === size,
    )
    .map(each => ({ value: each, data: elements(probe.sample(each)) }));
  const numbers = between.map(each => laboratory.scalar(each)).filter(number => number !== null);
  const epsilons = new Set([...numbers.filter(number => number > 0 && number <= MOST_EPSILON), 0]);

  const half = probe.sample(value).dataType === DataType.FLOAT16;
  const factors = half ? [1] : [1, SMALL];
  const row = (factor: number) =>
    Array.from({ length: size }, (_, n) => factor * (Math.sin(7 * n + 1) + 0.3 * Math.cos(3 * n) + 0.2));
  const rows = factors.map(row);
  const experiment = new Experiment(probe);
  experiment.set(source, index => rows[Math.floor(index / size) % rows.length]![index % size]!);
  const { at } = experiment.sample(value);
  const matches = (definition: (x: readonly number[]) => readonly number[]) =>
    rows.every((given, r) => {
      const expected = definition(given);
      const most = expected.reduce((top, x) => Math.max(top, Math.abs(x)), 0);
      const rounding = ROUNDING[half ? 'float16' : 'float32'] * most;
      return expected.every((x, n) => Math.abs(at(r * size + n) - x) <= rounding);
    });
  for (const gain of [null, ...vectors]) {
    for (const epsilon of epsilons) {
      const found = { source, gain: gain?.value ?? null, epsilon };
      const layer = (x: readonly number[]) => layerNormalized(x, epsilon, gain?.data ?? null);
      if (matches(layer)) return { ...found, problem: null };
      const root = (x: readonly number[]) =>
        Math.sqrt(x.reduce((sum, each) => sum + each * each, 0) / size + epsilon);
      const byRoot = (x: readonly number[]) => x.map((each, n) => (each / root(x)) * (gain?.data[n] ?? 1));
      if (matches(byRoot)) return { ...found, problem: ROOT_MEAN_SQUARE };
      const biased = vectors.some(({ data }) => matches(x => layer(x).map((each, n) => each + data[n]!)));
      if (biased) return { ...found, problem: BIASED };
    }
  }
  return null;
}

/** Size of a row whose variance is about what is added to it. */
const SMALL = 3e-3;

/** Largest number that may be added to variances. */
const MOST_EPSILON = 1e-2;

/** A vector less its mean, over its deviation, times the gain. */
export function layerNormalized(
  vector: readonly number[],
  epsilon: number,
  gain: ArrayLike<number> | null,
): readonly number[] {
  const mean = vector.reduce((sum, x) => sum + x, 0) / vector.length;
  const variance = vector.reduce((sum, x) => sum + (x - mean) ** 2, 0) / vector.length;
  const deviation = Math.sqrt(variance + epsilon);
  return vector.map((x, n) => ((x - mean) / deviation) * (gain?.[n] ?? 1));
}
