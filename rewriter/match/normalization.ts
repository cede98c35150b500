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
  /** By the deviation from the mean, or by the root mean square. */
  readonly kind: 'layer' | 'root-mean-square';
  readonly epsilon: number;
  /** Why it is none without bias; null where it is one. */
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
  const kind = KINDS[producer.type];
  if (kind !== undefined) return ofOperator(producer, kind, value, laboratory);
  if (!STEPS.has(producer.type)) return null;
  const computed = ({ type, inputs }: Node) =>
    (RESHAPES.has(type) ? inputs.slice(0, 1) : inputs)
      .filter(input => input !== null)
      .filter(input => !isStored(input, laboratory));
  const sources = dominatorsOf([value], computed, ({ type }) => STEPS.has(type));
  const found = sources
    .slice(1)
    .map(source => writtenOut(value, source, laboratory))
    .filter(each => each !== null);
  const whole = found.filter(({ problem }) => problem === null);
  // What a mean has been taken from already is normalized by its root mean square: that is half of the other kind.
  return whole.find(({ kind }) => kind === 'layer') ?? whole[0] ?? found.at(-1) ?? null;
}

const KINDS: Readonly<Record<string, Normalization['kind']>> = {
  LayerNormalization: 'layer',
  RMSNormalization: 'root-mean-square',
};

const BIASED = 'its normalization has a bias';

function ofOperator(
  node: Node,
  kind: Normalization['kind'],
  value: Value,
  laboratory: Laboratory,
): Normalization | null {
  const [source, gain = null, bias] = node.inputs;
  const dims = dimsOf(value, laboratory);
  const axis = node.int('axis', -1);
  if (source == null || dims === null || (axis !== -1 && axis !== dims.length - 1)) return null;
  const problem = bias != null && !allZero(bias, laboratory) ? BIASED : null;
  return { source, gain, kind, epsilon: node.float('epsilon', 1e-5), problem };
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
      for (const kind of ['layer', 'root-mean-square'] as const) {
        const found = { source, gain: gain?.value ?? null, kind, epsilon };
        const definition = (x: readonly number[]) => normalized(x, kind, epsilon, gain?.data ?? null);
        if (matches(definition)) return { ...found, problem: null };
        const biased = vectors.some(({ data }) =>
          matches(x => definition(x).map((each, n) => each + data[n]!)),
        );
        if (biased) return { ...found, problem: BIASED };
      }
    }
  }
  return null;
}

/** Size of a row whose variance is about what is added to it. */
const SMALL = 3e-3;

/** Largest number that may be added to variances. */
const MOST_EPSILON = 1e-2;

/** A vector less its mean, over its deviation, times the gain; by its root mean square with zero for the mean. */
export function normalized(
  vector: readonly number[],
  kind: Normalization['kind'],
  epsilon: number,
  gain: ArrayLike<number> | null,
): readonly number[] {
  const mean = kind === 'layer' ? vector.reduce((sum, x) => sum + x, 0) / vector.length : 0;
  const variance = vector.reduce((sum, x) => sum + (x - mean) ** 2, 0) / vector.length;
  const deviation = Math.sqrt(variance + epsilon);
  return vector.map((x, n) => ((x - mean) / deviation) * (gain?.[n] ?? 1));
}
