import { isFloating } from '../graph/data-type.js';
import type { Node } from '../graph/node.js';
import { ancestors } from '../graph/slices.js';
import type { Value } from '../graph/value.js';
import { dominatorsOf } from '../match/dominators.js';
import { Experiment } from '../match/experiment.js';
import { DataType } from '../onnx/spec.js';
import { PLAIN, type Trial } from '../probe/laboratory.js';
import { UnknownSample } from '../probe/sample.js';
import type { FusionSite, KeyMask, Move, SequenceAxes } from '../site.js';
import type { FormContext, Fusion, Miss } from './source-form.js';

/**
 * Element-wise attention (operator specification, section 4) in plain operators. There are as many ways to write
 * it as to write a polynomial, so it is not matched step by step. Squares behind an exponential suggest keys;
 * what multiplies what is made of keys, queries and values; and an experiment decides: with random numbers in
 * their place, does the graph compute the definition?
 */

/** Where element-wise attention may end. */
export interface Ending {
  /** Node whose first output is the attention. */
  readonly anchor: Node;
  /** What the weights are made of, and the values are not: sums of weights, or logits. */
  readonly normalizer: Value;
  /** The softmax on the way, where there is one. */
  readonly softmax: Node | null;
  readonly interior: Fusion['interior'];
}

/** Operators that are analytic functions of numbers, sum them or move them: what experiments speak for. */
const FOLLOWED: ReadonlySet<string> = new Set([
  ...['Add', 'Sub', 'Mul', 'Div', 'Neg', 'Exp', 'Pow', 'Sum', 'Reciprocal', 'Softmax', 'Where'],
  ...['CumSum', 'ReduceSum', 'ReduceMean', 'ReduceMin', 'ReduceMax'],
  ...['Identity', 'Cast', 'CastLike', 'Dropout', 'Reshape', 'Flatten', 'Unsqueeze', 'Squeeze', 'Transpose'],
  ...['Expand', 'Tile', 'Concat', 'Slice', 'Split', 'Gather', 'Not'],
]);

/** Orders to compare with; odd ones are told apart, to say that they are odd. */
const ORDERS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16];

/** Operands that may be, and how they lie. */
interface Operands {
  readonly query: Value;
  readonly key: Value;
  readonly value: Value;
  readonly mask: Value | null;
}

/** What an experiment found. */
interface Finding {
  readonly order: number;
  readonly causal: boolean;
  readonly axes: SequenceAxes;
  readonly visible: KeyMask['visible'];
}

/** Element-wise attention that ends like this, or why there is none. */
export function elementwiseFusion(ending: Ending, context: FormContext): Fusion | Miss {
  const { anchor, normalizer, softmax } = ending;
  const output = anchor.outputs[0]!;
  const slice = ancestors(output, isFollowed);
  const data = dataOf();
  const dataInputs = (node: Node) => node.inputs.filter(value => value !== null).filter(data);
  const follow = ({ type }: Node) => FOLLOWED.has(type);
  const through = (start: Iterable<Value>) => dominatorsOf(start, dataInputs, follow);
  const dims = (value: Value) => context.laboratory.trials[0]!.probe(PLAIN).tryToSample(value)?.dims ?? null;
  const rank = (value: Value) => dims(value)?.length ?? null;
  const typed = (value: Value) => context.laboratory.trials[0]!.probe(PLAIN).sample(value).dataType;
  const channels = dims(output)?.at(-1);
  const isOperand = (value: Value) =>
    rank(value) === 3 && isFloating(typed(value)) && dims(value)!.at(-1) === channels;

  const producers = [...slice].map(({ producer }) => producer).filter(producer => producer !== null);
  const exponentials = producers.filter(producer => producer.type === 'Exp' || producer === softmax);
  const bases = exponentials.flatMap(({ inputs }) => squaresBehind(inputs[0]!, slice, context));
  const miss = (reason: string, near: boolean): Miss => ({ node: anchor, reason, near, nodes: producers });
  if (bases.length === 0 || rank(output) !== 3) return miss('no weights exp(-k^2)', false);
  const keys = new Set(bases.flatMap(base => [base, ...differenceOf(base)]).flatMap(base => through([base])));

  for (const key of [...keys].filter(isOperand)) {
    const used = boundary(output, key, slice, data);
    const weighing = boundary(normalizer, key, slice, data);
    const masks = [...weighing].flatMap(value =>
      through([value])
        .filter(found => rank(found) === 2)
        .slice(0, 1),
    );
    const masking = new Set([...weighing].filter(value => through([value]).some(found => rank(found) === 2)));
    const queries = through([...weighing].filter(value => !masking.has(value))).filter(isOperand);
    const values = through([...used].filter(value => !weighing.has(value))).filter(isOperand);
    if (new Set(masks).size > 1) continue;
    for (const query of queries) {
      for (const value of values) {
        const operands = { query, key, value, mask: masks[0] ?? null };
        const finding = examine(ending, operands, slice, context);
        if (finding !== null) return fusionOf(ending, operands, finding, slice, context);
      }
    }
  }
  const sums = producers.some(({ type }) => ['Softmax', 'CumSum', 'ReduceSum', 'ReduceMean'].includes(type));
  return miss(explanation(normalizer, context), sums);
}

function explanation(normalizer: Value, { laboratory }: FormContext): string {
  const { producer } = normalizer;
  const added =
    producer?.type === 'Add' ? producer.inputs.map(value => value && laboratory.scalar(value)) : [];
  const constant = added.find(number => number !== null && number !== undefined);
  if (constant !== undefined) {
    return `its denominator has ${Number(constant.toPrecision(6))} added, which element-wise attention has not`;
  }
  return 'its weights exp(-k^2) are multiplied by something else than exp(2 q k), a series of it up to order 16, or a mask of keys';
}

/** Whether a value depends on what the model is fed, other than by its shape. */
function dataOf(): (value: Value) => boolean {
  const known = new Map<Value, boolean>();
  return value => {
    let result = known.get(value);
    if (result === undefined) {
      const shapes = ['Shape', 'Size'];
      const behind = ancestors(value, ({ producer }) => producer !== null && !shapes.includes(producer.type));
      result = [...behind].some(
        ({ fed, producer, uses }) =>
          fed && producer === null && uses.some(({ node }) => !shapes.includes(node.type)),
      );
      known.set(value, result);
    }
    return result;
  };
}

/** Values whose squares the exponent is made of. */
function squaresBehind(exponent: Value, slice: ReadonlySet<Value>, { laboratory }: FormContext): Value[] {
  const found: Value[] = [];
  for (const { producer } of ancestors(exponent, value => slice.has(value) && isFollowed(value))) {
    const [base, other] = producer?.inputs ?? [];
    if (base == null || other == null) continue;
    const product = producer!.type === 'Mul' && unscaled(base, laboratory) === unscaled(other, laboratory);
    const power = producer!.type === 'Pow' && laboratory.scalar(other) === 2;
    if (product || power) found.push(unscaled(base, laboratory));
  }
  return found;
}

function isFollowed({ producer }: Value): boolean {
  return producer !== null && FOLLOWED.has(producer.type);
}

/** A value before its sign changed: torch takes -k * k as (-k) * k. */
function unscaled(value: Value, laboratory: FormContext['laboratory']): Value {
  const { producer } = value;
  if (producer?.type === 'Neg') return unscaled(producer.inputs[0]!, laboratory);
  if (producer?.type !== 'Mul') return value;
  const sign = producer.inputs.findIndex(factor => laboratory.scalar(factor!) === -1);
  return sign < 0 ? value : unscaled(producer.inputs[1 - sign]!, laboratory);
}

/** The two sides of a difference q - k, the second first. */
function differenceOf({ producer }: Value): Value[] {
  if (producer?.type !== 'Sub') return [];
  return [...producer.inputs].reverse().filter(value => value !== null);
}

/** Data that meets what is computed from the keys on its way to `target`. */
function boundary(
  target: Value,
  key: Value,
  slice: ReadonlySet<Value>,
  data: (value: Value) => boolean,
): ReadonlySet<Value> {
  const fromKey = new Map<Value, boolean>();
  const dependsOn = (value: Value): boolean => {
    let known = fromKey.get(value);
    if (known === undefined) {
      const inner = slice.has(value) && isFollowed(value);
      known =
        value === key || (inner && value.producer!.inputs.some(input => input !== null && dependsOn(input)));
      fromKey.set(value, known);
    }
    return known;
  };
  const found = new Set<Value>();
  for (const value of ancestors(target, value => value !== key && dependsOn(value))) {
    if (value !== key && !dependsOn(value) && data(value)) found.add(value);
  }
  return found;
}

/** Output elements that an experiment looks at. */
const SAMPLES = 24;
/** Largest difference, over the largest value: rounding of a few operations in the type of the output. */
const ROUNDING = { float32: 2e-4, float16: 2e-2 } as const;

/** Numbers from -2 to 2 that depend on the index and the role, and on nothing else. */
function number(role: number, index: number): number {
  const wave = Math.sin(index * 12.9898 + role * 78.233) * 43758.5453;
  return 4 * (wave - Math.floor(wave)) - 2;
}

const QUERY = 1;
const KEY = 2;
const VALUE = 3;
const MASK = 4;

function examine(
  ending: Ending,
  operands: Operands,
  slice: ReadonlySet<Value>,
  { laboratory }: FormContext,
): Finding | null {
  const first = laboratory.trials[0]!;
  const choices: Finding[] = [];
  for (const [batch, sequence] of [
    [0, 1],
    [1, 0],
  ] as const) {
    for (const visible of operands.mask === null ? (['nonzero'] as const) : (['nonzero', 'zero'] as const)) {
      for (const causal of [false, true]) {
        for (const order of ORDERS) choices.push({ order, causal, axes: { batch, sequence }, visible });
      }
    }
  }
  const best = closest(choices, ending, operands, first);
  if (best === null) return null;
  const others = [...laboratory.trials.slice(1), beyondWindows(best, slice, laboratory)];
  for (const trial of others) {
    if (trial !== null && closest([best], ending, operands, trial) === null) return null;
  }
  return best;
}

/** Longest window to look beyond. */
const LONGEST_WINDOW = 2048;
const LONG = 97;

/** A trial longer than any window that a constant of the graph may mean; null where order or sizes need none. */
function beyondWindows(
  { order }: Finding,
  slice: ReadonlySet<Value>,
  laboratory: FormContext['laboratory'],
): Trial | null {
  if (order !== 0) return null;
  let longest = LONG;
  for (const value of ancestors(
    [...slice][0]!,
    ({ producer }) => producer !== null && !isProjection(producer),
  )) {
    const constant = value.fed ? null : laboratory.scalar(value);
    if (constant !== null && Math.abs(constant) <= LONGEST_WINDOW)
      longest = Math.max(longest, 2 * Math.abs(constant) + 1);
  }
  return laboratory.longTrial(Math.ceil(longest));
}

function isProjection({ type }: Node): boolean {
  return type === 'MatMul' || type === 'Gemm';
}

/** The choice that the graph computes; null where it computes none of them, or cannot be followed. */
function closest(
  choices: readonly Finding[],
  ending: Ending,
  operands: Operands,
  trial: Trial,
): Finding | null {
  const output = ending.anchor.outputs[0]!;
  const experiment = new Experiment(trial);
  const [queryDims, keyDims, valueDims, outputDims] = [
    operands.query,
    operands.key,
    operands.value,
    output,
  ].map(value => experiment.dims(value));
  if (!queryDims || !keyDims || !valueDims || !outputDims) return null;
  const same = (one: readonly number[], other: readonly number[]) => one.join() === other.join();
  if (!same(keyDims, valueDims) || !same(queryDims, outputDims)) return null;
  try {
    experiment.set(operands.key, index => number(KEY, index));
    experiment.set(operands.query, index => number(QUERY, index));
    experiment.set(operands.value, index => number(VALUE, index));
    if (operands.mask !== null) experiment.set(operands.mask, shown);
    if (ending.softmax !== null) experiment.applySoftmax(ending.softmax.outputs[0]!);
    const count = outputDims.reduce((product, dim) => product * dim, 1);
    const places = Array.from({ length: SAMPLES }, (_, n) => Math.floor(((n + 0.5) * count) / SAMPLES));
    places.push(count - 1);
    const found = places.map(place => experiment.at(output, place));
    const { dataType } = trial.probe(PLAIN).sample(output);
    const rounding = ROUNDING[dataType === DataType.FLOAT16 ? 'float16' : 'float32'];
    let best: { readonly choice: Finding; readonly error: number } | null = null;
    for (const choice of choices) {
      if (choice.causal && !same(queryDims, keyDims)) continue;
      const maskDims = operands.mask === null ? null : experiment.dims(operands.mask);
      const { batch, sequence } = choice.axes;
      if (maskDims && !same(maskDims, [keyDims[batch]!, keyDims[sequence]!])) continue;
      let error = 0;
      for (const [n, place] of places.entries()) {
        const expected = definition(choice, place, queryDims, keyDims, operands.mask !== null);
        // Rows without keys have no right answer.
        if (expected !== null) error = Math.max(error, Math.abs(found[n]! - expected));
      }
      // NaN compares false.
      if (error <= 2 * rounding && (best === null || error < best.error)) best = { choice, error };
    }
    return best?.choice ?? null;
  } catch (error) {
    if (error instanceof UnknownSample) return null;
    throw error;
  }
}

/** Mask elements: 1 for two of three. */
function shown(index: number): number {
  return number(MASK, index) > -0.7 ? 1 : 0;
}

/** An element of the output by the definition; null where its row sees no key. */
function definition(
  { order, causal, axes, visible }: Finding,
  place: number,
  queryDims: readonly number[],
  keyDims: readonly number[],
  masked: boolean,
): number | null {
  const channels = queryDims[2]!;
  const outer = [Math.floor(place / channels / queryDims[1]!), Math.floor(place / channels) % queryDims[1]!];
  const [b, i, c] = [outer[axes.batch]!, outer[axes.sequence]!, place % channels];
  const q = number(QUERY, place);
  const keys = keyDims[axes.sequence]!;
  let numerator = 0;
  let denominator = 0;
  for (let j = 0; j < (causal ? i + 1 : keys); j++) {
    if (masked && (shown(b * keys + j) === 1) !== (visible === 'nonzero')) continue;
    const row = axes.batch === 0 ? b * keys + j : j * keyDims[1]! + b;
    const k = number(KEY, row * channels + c);
    const weight = Math.exp(-k * k) * (order === 0 ? Math.exp(2 * q * k) : series(order, 2 * q * k));
    numerator += weight * number(VALUE, row * channels + c);
    denominator += weight;
  }
  return denominator === 0 ? null : numerator / denominator;
}

function series(order: number, x: number): number {
  let term = 1;
  let sum = 1;
  for (let n = 1; n <= order; n++) {
    term *= x / n;
    sum += term;
  }
  return sum;
}

function fusionOf(
  { anchor, interior }: Ending,
  { query, key, value, mask }: Operands,
  { order, causal, axes, visible }: Finding,
  slice: ReadonlySet<Value>,
  { laboratory }: FormContext,
): Fusion {
  const output = anchor.outputs[0]!;
  const operands = [query, key, value, ...(mask === null ? [] : [mask])];
  const inner = ancestors(output, found => slice.has(found) && !operands.includes(found));
  const nodes = new Set(
    [...inner].filter(found => !operands.includes(found)).map(({ producer }) => producer),
  );
  nodes.delete(null);
  const moves: readonly Move[] = axes.batch === 0 ? [] : [{ transpose: [1, 0, 2] }];
  const maskType = mask && laboratory.trials[0]!.probe(PLAIN).sample(mask).dataType;
  const cross = laboratory.trials.some(trial => {
    const [rows, keys] = [query, key].map(operand => trial.probe(PLAIN).sample(operand).dims[axes.sequence]);
    return rows !== keys;
  });
  return {
    computation: 'elementwise',
    operands: { query: { value: query, moves }, key: { value: key, moves }, value: { value, moves } },
    output: { value: output, moves, axes },
    parameters: { order, causal: Number(causal) },
    causal,
    keyMask: mask === null ? null : { value: mask.name, dataType: maskType!, visible },
    emptyRow: mask === null ? 'never' : emptyRow(output, query, mask, visible, laboratory.trials[0]!),
    kind: cross ? 'cross' : 'self',
    named: anchor,
    interior,
    nodes: nodes as ReadonlySet<Node>,
    refusals: [],
  };
}

/** What the graph gives for a row that sees no key: 0 / 0 unless something provides for it. */
function emptyRow(
  output: Value,
  query: Value,
  mask: Value,
  visible: KeyMask['visible'],
  trial: Trial,
): FusionSite['emptyRow'] {
  const experiment = new Experiment(trial);
  experiment.set(query, index => number(QUERY, index));
  experiment.set(mask, () => Number(visible === 'zero'));
  const element = experiment.at(output, 0);
  if (Number.isNaN(element)) return 'nan';
  return element === 0 ? 'zeros' : 'unknown';
}
