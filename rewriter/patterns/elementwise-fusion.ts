import { coefficients } from '../../custom-ops/elementwise-attention/parameters.js';
import { isFloating } from '../graph/data-type.js';
import type { Node } from '../graph/node.js';
import { ancestors } from '../graph/slices.js';
import type { Value } from '../graph/value.js';
import { dominatorsOf } from '../match/dominators.js';
import { Experiment } from '../match/experiment.js';
import { fedBy } from '../match/fed-by.js';
import { isStored } from '../match/operands.js';
import { PRODUCTS } from '../match/product.js';
import { movedBy } from '../match/weight-chain.js';
import { DataType } from '../onnx/spec.js';
import { type Laboratory, PLAIN, type Trial } from '../probe/laboratory.js';
import { coordinates, indexOf, UnknownSample } from '../probe/sample.js';
import type { FusionSite, KeyMask, Move } from '../site.js';
import { type Addition, additionsOf, ElementwiseState, queryAt, type Sums } from './elementwise-state.js';
import { inverse, transposed } from './moves.js';
import type { FormContext, Fusion, Miss } from './source-form.js';

/**
 * Element-wise attention (operator specification, section 4) in plain operators. There are as many ways to write
 * it as to write a polynomial, so it is not matched step by step. Squares behind an exponential suggest keys;
 * what multiplies what is made of keys, queries and values; and an experiment decides: with random numbers in
 * their place, does the graph compute the definition?
 */

/** Where element-wise attention may end. */
export interface Ending {
  readonly anchor: Node;
  /** The attention. */
  readonly output: Value;
  /** What the weights are made of, and the values are not: sums of weights, or logits. */
  readonly normalizers: readonly Value[];
  /** The sums of weighted values that the only normalizer divides; null where a softmax does, or there are several. */
  readonly numerator: Value | null;
  /** The softmax on the way, where there is one. */
  readonly softmax: Node | null;
  readonly interior: Fusion['interior'];
}

/** Operators that are analytic functions of numbers, sum them or move them: what experiments speak for. */
const FOLLOWED: ReadonlySet<string> = new Set([
  ...PRODUCTS,
  ...['Add', 'Sub', 'Mul', 'Div', 'Neg', 'Exp', 'Pow', 'Sum', 'Reciprocal', 'Softmax', 'Where'],
  ...['CumSum', 'ReduceSum', 'ReduceMean', 'ReduceMin', 'ReduceMax'],
  ...['Identity', 'Cast', 'CastLike', 'Dropout', 'Reshape', 'Flatten', 'Unsqueeze', 'Squeeze', 'Transpose'],
  ...['Expand', 'Tile', 'Concat', 'Slice', 'Split', 'Gather', 'Not', 'And', 'Or'],
]);

/** Of whole numbers and truth values: what masks are made by. */
const COMPARISONS: ReadonlySet<string> = new Set([
  'Equal',
  'Greater',
  'GreaterOrEqual',
  'Less',
  'LessOrEqual',
]);

/** Orders to compare with; odd ones are told apart, to say that they are odd. */
const ORDERS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16];

/** Operands that may be, and how they lie. */
interface Operands {
  readonly query: Value;
  readonly key: Value;
  readonly value: Value;
  readonly mask: Value | null;
  /** Where sums of earlier tokens come in. */
  readonly additions: readonly Addition[];
}

/** What an experiment found; all other axes than batch and sequence hold channels. */
interface Finding {
  readonly order: number;
  readonly causal: boolean;
  readonly axes: Axes;
  readonly visible: KeyMask['visible'];
  readonly state: ElementwiseState | null;
}

/** Where batch and rows are; tokens of a decoding step may have no axis of rows. */
type Axes = { readonly batch: number; readonly sequence: number | null };

/** Ranks of query, key, value and output: channels are one axis, or heads and their channels are two. */
const RANKS: readonly (number | null)[] = [3, 4];
/** Rank of single tokens [batch, channels], which have sums of earlier ones. */
const RANK_OF_STEPS = 2;

/** Element-wise attention that ends like this, or why there is none. */
export function elementwiseFusion(ending: Ending, context: FormContext): Fusion | Miss {
  const { anchor, output, normalizers, softmax } = ending;
  const { laboratory } = context;
  const followed = isFollowedIn(laboratory);
  const slice = ancestors(output, followed);
  const data = (value: Value) => fedBy(value) === 'elements';
  const dataInputs = (node: Node) => node.inputs.filter(value => value !== null).filter(data);
  const through = (start: Iterable<Value>) =>
    dominatorsOf(start, dataInputs, node => node.outputs.some(value => value !== null && followed(value)));
  const sample = (value: Value) => laboratory.trials[0]!.probe(PLAIN).tryToSample(value);
  const rank = (value: Value) => sample(value)?.dims.length ?? null;
  const isOperand = (value: Value) => {
    const found = sample(value);
    return found !== null && isFloating(found.dataType) && found.dims.length === rank(output);
  };

  const producers = [...slice].map(({ producer }) => producer).filter(producer => producer !== null);
  const miss = (reason: string, near: boolean): Miss => ({ node: anchor, reason, near, nodes: producers });
  const exponents = producers
    .filter(producer => producer.type === 'Exp' || producer === softmax)
    .flatMap(({ inputs: [exponent] }) => exponent ?? []);
  const bases = exponents.flatMap(exponent => squaresBehind(exponent, slice, followed, laboratory));
  const ranks = ending.numerator === null ? RANKS : [...RANKS, RANK_OF_STEPS];
  if (bases.length === 0 || !ranks.includes(rank(output))) return miss('no weights exp(-k^2)', false);
  const behindExponents = new Set(
    exponents.flatMap(exponent => [...ancestors(exponent, value => slice.has(value))]),
  );
  const keys = new Set([
    ...bases.flatMap(base => [base, ...differenceOf(base)]).flatMap(base => through([base])),
    ...(normalizers.length > 1 ? through(bases) : []),
  ]);

  if (normalizers.some(normalizer => softmax === null && addedTo(normalizer, laboratory) !== null)) {
    return miss(explanation(normalizers[0]!, context), true);
  }
  // Sums may begin with data times zero.
  const holdsSums = (value: Value) => data(value) && sample(value)?.at(0) !== 0;
  let problem: string | null = null;
  for (const key of [...keys].filter(isOperand)) {
    const additions = ending.numerator === null ? [] : additionsOf(key, slice, behindExponents, holdsSums);
    if (additions.length === 0 && rank(output) === RANK_OF_STEPS) continue;
    const earlier = new Set(additions.map(({ before }) => before));
    const met = (targets: readonly Value[]) =>
      [...boundary(targets, key, slice, followed, data)].filter(value => !earlier.has(value));
    const [used, weighing] = [met([output]), met(normalizers)];
    const vectors = (value: Value) =>
      additions.length > 0 ? [] : through([value]).filter(found => rank(found) === 2);
    const masking = weighing.filter(value => vectors(value).length > 0);
    const plain = weighing.filter(value => !masking.includes(value));
    const weighted = used.filter(value => !weighing.includes(value));
    // Where one tensor holds numerators and denominators, what meets them meets both.
    const both = weighted.length > 0 ? [] : plain.flatMap(value => through([value])).filter(isOperand);
    const queries = weighted.length > 0 ? through(plain).filter(isOperand) : [...new Set(both)];
    const values = weighted.length > 0 ? through(weighted).filter(isOperand) : [...new Set(both)];
    // The furthest back is what tells keys apart, whatever it is turned into on its way.
    const masks = new Set(masking.map(value => vectors(value).at(-1)!));
    if (masks.size > 1) continue;
    for (const query of queries) {
      for (const value of values) {
        if (value === query) continue;
        const operands = { query, key, value, mask: [...masks][0] ?? null, additions };
        const finding = examine(ending, operands, slice, context);
        if (typeof finding === 'string') problem ??= finding;
        if (finding === null || typeof finding === 'string') continue;
        const fusion = fusionOf(ending, operands, finding, slice, context);
        return typeof fusion === 'string' ? miss(fusion, true) : fusion;
      }
    }
  }
  const sums = producers.some(({ type }) => ['Softmax', 'CumSum', 'ReduceSum', 'ReduceMean'].includes(type));
  return miss(problem ?? explanation(normalizers[0]!, context), sums || problem !== null);
}

function explanation(normalizer: Value, { laboratory }: FormContext): string {
  const added = addedTo(normalizer, laboratory);
  if (added !== null) {
    return `its denominator has ${Number(added.toPrecision(6))} added, which element-wise attention has not`;
  }
  return 'its weights exp(-k^2) are multiplied by something else than exp(2 q k), a series of it up to order 16, or a mask of keys';
}

/** The constant that is added last to a value, behind moves; null where there is none or it is zero. */
function addedTo(value: Value, laboratory: Laboratory): number | null {
  const { producer } = value;
  const moved = producer && movedBy(producer);
  if (moved) return addedTo(moved, laboratory);
  if (producer?.type !== 'Add') return null;
  const constants = producer.inputs.map(input => input && laboratory.scalar(input));
  return constants.find(constant => constant !== null && constant !== 0) ?? null;
}

/** Values whose squares the exponent is made of, without a product of matrices in between. */
function squaresBehind(
  exponent: Value,
  slice: ReadonlySet<Value>,
  followed: (value: Value) => boolean,
  laboratory: Laboratory,
): Value[] {
  const found: Value[] = [];
  const follow = (value: Value) => slice.has(value) && followed(value) && !isProduct(value.producer!);
  for (const { producer } of ancestors(exponent, follow)) {
    const [base, other] = producer?.inputs ?? [];
    if (base == null || other == null) continue;
    const product = producer!.type === 'Mul' && unscaled(base, laboratory) === unscaled(other, laboratory);
    const power = producer!.type === 'Pow' && laboratory.scalar(other) === 2;
    if (product || power) found.push(unscaled(base, laboratory));
  }
  return found;
}

function isProduct({ type }: Node): boolean {
  return PRODUCTS.some(product => product === type);
}

/** Whether experiments speak for the node that computes a value. Projections of data by weights end what they do. */
function isFollowedIn(laboratory: Laboratory): (value: Value) => boolean {
  const stored = (value: Value | null) => value === null || isStored(value, laboratory);
  const floating = (value: Value | null) => {
    const sample = value && laboratory.trials[0]!.probe(PLAIN).tryToSample(value);
    return sample == null || isFloating(sample.dataType);
  };
  return ({ producer }) => {
    if (producer === null) return false;
    if (COMPARISONS.has(producer.type)) return !producer.inputs.some(floating);
    return FOLLOWED.has(producer.type) && !(isProduct(producer) && producer.inputs.some(stored));
  };
}

/** A value before its sign changed: torch takes -k * k as (-k) * k. */
function unscaled(value: Value, laboratory: Laboratory): Value {
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

/** Data that meets what is computed from the keys on its way to `targets`. */
function boundary(
  targets: readonly Value[],
  key: Value,
  slice: ReadonlySet<Value>,
  followed: (value: Value) => boolean,
  data: (value: Value) => boolean,
): ReadonlySet<Value> {
  const fromKey = new Map<Value, boolean>();
  const dependsOn = (value: Value): boolean => {
    let known = fromKey.get(value);
    if (known === undefined) {
      const inner = slice.has(value) && followed(value);
      known =
        value === key || (inner && value.producer!.inputs.some(input => input !== null && dependsOn(input)));
      fromKey.set(value, known);
    }
    return known;
  };
  const found = new Set<Value>();
  for (const target of targets) {
    for (const value of ancestors(target, value => value !== key && dependsOn(value))) {
      if (value !== key && !dependsOn(value) && data(value)) found.add(value);
    }
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

/** Keys about as large as this weigh less than anything that a denominator is kept from zero by. */
const FAINT = 5.5;

const QUERY = 1;
const KEY = 2;
const VALUE = 3;
const MASK = 4;

function examine(
  ending: Ending,
  operands: Operands,
  slice: ReadonlySet<Value>,
  { laboratory }: FormContext,
): Finding | string | null {
  const first = laboratory.trials[0]!;
  const { length: rank } = first.probe(PLAIN).sample(ending.output).dims;
  const axes = Array.from({ length: rank }, (_, axis) => axis);
  if (operands.additions.length > 0) return examineSteps(ending, operands, axes, slice, laboratory);
  const choices: Finding[] = [];
  for (const sequence of axes) {
    const others = axes.filter(axis => axis !== sequence);
    for (const batch of operands.mask === null ? others.slice(0, 1) : others) {
      for (const visible of operands.mask === null ? (['nonzero'] as const) : VISIBLE) {
        for (const causal of [false, true]) {
          for (const order of ORDERS) {
            choices.push({ order, causal, axes: { batch, sequence }, visible, state: null });
          }
        }
      }
    }
  }
  const best = closest(choices, ending, operands, slice, first);
  return best !== null && holds(best, ending, operands, slice, laboratory) ? best : null;
}

/** Whether what one trial showed holds for all others. */
function holds(
  finding: Finding,
  ending: Ending,
  operands: Operands,
  slice: ReadonlySet<Value>,
  laboratory: Laboratory,
): boolean {
  const others = [...laboratory.trials.slice(1), beyondWindows(slice, laboratory)];
  const agrees = (trial: Trial, faint: boolean) =>
    closest([finding], ending, operands, slice, trial, faint) !== null;
  const [first] = laboratory.trials as [Trial, ...Trial[]];
  const { dataType } = first.probe(PLAIN).sample(ending.output);
  if (dataType === DataType.FLOAT && !agrees(first, true)) return false;
  return others.every(trial => trial === null || agrees(trial, false));
}

/** As {@link examine}, with sums of earlier tokens; a string says why they are not those of the operator. */
function examineSteps(
  ending: Ending,
  operands: Operands,
  axes: readonly number[],
  slice: ReadonlySet<Value>,
  laboratory: Laboratory,
): Finding | string | null {
  const { trials } = laboratory;
  const formula = { ...operands, numerator: ending.numerator!, denominator: ending.normalizers[0]!, slice };
  const { dims } = trials[0]!.probe(PLAIN).sample(ending.output);
  const same = (value: Value) => trials[0]!.probe(PLAIN).tryToSample(value)?.dims.join() === dims.join();
  if (![operands.query, formula.numerator, formula.denominator].every(same)) return null;
  let problem: string | null = null;
  for (const batch of axes) {
    const others = axes.filter(axis => axis !== batch);
    for (const sequence of [...(others.length > 1 ? others : []), null]) {
      const channels = others.filter(axis => axis !== sequence);
      const state = ElementwiseState.of(operands.additions, formula, { batch, sequence, channels }, trials);
      if (typeof state === 'string') {
        problem ??= state;
        continue;
      }
      const choices = [false, true].map(
        (causal): Finding => ({
          order: state.order,
          causal,
          axes: { batch, sequence },
          visible: 'nonzero',
          state,
        }),
      );
      const best = closest(choices, ending, operands, slice, trials[0]!);
      if (best !== null && holds(best, ending, operands, slice, laboratory)) return best;
    }
  }
  return problem;
}

const VISIBLE = ['nonzero', 'zero'] as const;

/** Longest window to look beyond. */
const LONGEST_WINDOW = 2048;
const LONG = 97;

/** A trial longer than any window that a constant of the graph may mean; null where sizes are fixed. */
function beyondWindows(slice: ReadonlySet<Value>, laboratory: Laboratory): Trial | null {
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

/**
 * The choice that the graph computes; null where it computes none of them, or cannot be followed.
 * @param faint whether keys are such that all weights are tiny, which shows what is added to denominators
 */
function closest(
  choices: readonly Finding[],
  ending: Ending,
  operands: Operands,
  slice: ReadonlySet<Value>,
  trial: Trial,
  faint = false,
): Finding | null {
  const { output } = ending;
  const state = choices[0]?.state ?? null;
  const experiment = new Experiment(trial.probe(PLAIN), state === null ? slice : null);
  const [queryDims, keyDims, valueDims, outputDims] = [
    operands.query,
    operands.key,
    operands.value,
    output,
  ].map(value => experiment.dims(value));
  if (!queryDims || !keyDims || !valueDims || !outputDims) return null;
  const same = (one: readonly number[], other: readonly number[]) => one.join() === other.join();
  if (!same(keyDims, valueDims) || !same(queryDims, outputDims) || keyDims.length !== queryDims.length) {
    return null;
  }
  try {
    const key = (index: number) => (faint ? FAINT + number(KEY, index) / 8 : number(KEY, index));
    // Where sums are all positive, so have queries to be: nothing may cancel.
    const query = state === null && !faint ? (index: number) => number(QUERY, index) : queryAt;
    const numbers = { query, key, sums: faint ? Math.exp(-FAINT * FAINT) : 1 };
    experiment.set(operands.key, key);
    experiment.set(operands.query, query);
    experiment.set(operands.value, index => number(VALUE, index));
    if (operands.mask !== null) experiment.set(operands.mask, shown);
    state?.fill(experiment, numbers.sums);
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
      if (keyDims.some((dim, axis) => axis !== sequence && dim !== queryDims[axis])) continue;
      if (maskDims && !same(maskDims, [keyDims[batch]!, sequence === null ? 1 : keyDims[sequence]!]))
        continue;
      let error = 0;
      for (const [n, place] of places.entries()) {
        const position = coordinates(place, queryDims);
        const earlier = state?.earlier(trial, position).map(sum => sum * numbers.sums) ?? null;
        const masked = operands.mask !== null;
        const { mean, sums } = definition(choice, numbers, place, queryDims, keyDims, masked, earlier);
        // Rows without keys have no right answer.
        if (mean !== null) error = Math.max(error, Math.abs(found[n]! - mean));
        state?.later(experiment, trial, position).forEach((sum, of) => {
          error = Math.max(error, Math.abs(sum / sums[of]! - 1));
        });
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

/**
 * An element of the output by the definition, null where its row sees no key, and with a state the sums over all
 * keys of its channel.
 * @param earlier the sums of earlier tokens; null without a state
 */
function definition(
  { order, causal, axes, visible }: Finding,
  { query, key }: { readonly query: (index: number) => number; readonly key: (index: number) => number },
  place: number,
  queryDims: readonly number[],
  keyDims: readonly number[],
  masked: boolean,
  earlier: Sums | null,
): { readonly mean: number | null; readonly sums: Sums } {
  const position = coordinates(place, queryDims);
  const { batch, sequence } = axes;
  const b = position[batch]!;
  const [i, keys] = sequence === null ? [0, 1] : [position[sequence]!, keyDims[sequence]!];
  const q = query(place);
  const sums = [...(earlier ?? [])];
  let [numerator, denominator] = [0, 0];
  for (const [n, factor] of coefficients(order).entries()) {
    numerator += factor * q ** n * (sums[n] ?? 0);
    denominator += factor * q ** n * (sums[order + 1 + n] ?? 0);
  }
  for (let j = 0; j < keys; j++) {
    if (masked && (shown(b * keys + j) === 1) !== (visible === 'nonzero')) continue;
    if (sequence !== null) position[sequence] = j;
    const index = indexOf(position, keyDims);
    const [k, v] = [key(index), number(VALUE, index)];
    const weight = Math.exp(-k * k);
    for (let n = 0; earlier !== null && n <= order; n++) {
      sums[n]! += k ** n * weight * v;
      sums[order + 1 + n]! += k ** n * weight;
    }
    if (causal && j > i) continue;
    const similarity = order === 0 ? Math.exp(2 * q * k) : series(order, 2 * q * k);
    numerator += weight * similarity * v;
    denominator += weight * similarity;
  }
  return { mean: denominator === 0 ? null : numerator / denominator, sums };
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

/** The fusion, or why it is none. */
function fusionOf(
  { anchor, output, interior }: Ending,
  { query, key, value, mask }: Operands,
  { order, causal, axes, visible, state }: Finding,
  slice: ReadonlySet<Value>,
  { laboratory }: FormContext,
): Fusion | string {
  const { trials } = laboratory;
  const dims = trials.map(trial => trial.probe(PLAIN).sample(output).dims);
  const channels = dims[0]!.map((_, axis) => axis).filter(axis => !Object.values(axes).includes(axis));
  const sizes = channels.map(axis => dims[0]![axis]!);
  if (dims.some(other => channels.some((axis, n) => other[axis] !== sizes[n]))) {
    return 'the number of its channels is not fixed';
  }
  if (sizes.every(size => size === 1)) return 'its channels are merged with the batch';
  const { before, after } = state?.values ?? { before: [], after: [] };
  if (after.some(value => isUsedBefore(value, output, slice))) {
    return 'its state is used before its output is computed';
  }
  const operands = [query, key, value, ...(mask === null ? [] : [mask]), ...before];
  const inner = ancestors(output, found => slice.has(found) && !operands.includes(found));
  const nodes = new Set(
    [...inner].filter(found => !operands.includes(found)).map(({ producer }) => producer),
  );
  nodes.delete(null);
  const { batch, sequence } = axes;
  const places = [batch, ...(sequence === null ? [] : [sequence]), ...channels];
  const maskType = mask && trials[0]!.probe(PLAIN).sample(mask).dataType;
  const cross = trials.some(trial => {
    const [rows, keys] = [query, key].map(operand => trial.probe(PLAIN).sample(operand).dims);
    return sequence !== null && rows![sequence] !== keys![sequence];
  });
  const same = sequence !== null && channels.length === 1;
  const joined: readonly Move[] = same ? [] : [{ reshape: [0, sequence === null ? 1 : 0, -1] }];
  const apart: readonly Move[] = same ? [] : [{ reshape: [0, ...(sequence === null ? [] : [0]), ...sizes] }];
  const moves = [...transposed(places), ...joined];
  // Sums as the graph keeps them are those under an offset of zero.
  const past = state && {
    past_state: state.pastState(trials),
    past_offset: {
      sizesOf: query,
      axes: [batch, ...channels],
      moves: channels.length === 1 ? [] : [{ reshape: [0, -1] }],
    },
  };
  const present = after.length === 0 ? {} : { present_state: state!.presentStates(trials) };
  return {
    computation: 'elementwise',
    operands: {
      query: { value: query, moves },
      key: { value: key, moves },
      value: { value, moves },
      ...past,
    },
    output: {
      value: output,
      moves: [...apart, ...transposed(inverse(places))],
      axes: sequence === null ? null : { batch, sequence },
    },
    furtherOutputs: present,
    parameters: { order, causal: Number(causal) },
    causal,
    keyMask: mask === null ? null : { value: mask.name, dataType: maskType!, visible },
    emptyRow: mask === null ? 'never' : emptyRow(output, operands, visible, trials[0]!),
    kind: state !== null ? 'cached' : cross ? 'cross' : 'self',
    named: anchor,
    interior,
    nodes: nodes as ReadonlySet<Node>,
    refusals: [],
  };
}

/** Whether something outside of the attention reads a value before the node that computes `output`. */
function isUsedBefore(value: Value, output: Value, slice: ReadonlySet<Value>): boolean {
  const { nodes } = output.graph;
  const end = nodes.indexOf(output.producer!);
  return value.uses.some(
    ({ node }) => !node.outputs.some(each => each !== null && slice.has(each)) && nodes.indexOf(node) < end,
  );
}

/** What the graph gives for a row that sees no key: 0 / 0 unless something provides for it. */
function emptyRow(
  output: Value,
  [query, key, value, mask]: readonly Value[],
  visible: KeyMask['visible'],
  trial: Trial,
): FusionSite['emptyRow'] {
  const experiment = new Experiment(trial.probe(PLAIN));
  for (const [role, operand] of [query, key, value].entries()) {
    experiment.set(operand!, index => number(role + 1, index));
  }
  experiment.set(mask!, () => Number(visible === 'zero'));
  const element = experiment.at(output, 0);
  if (Number.isNaN(element)) return 'nan';
  return element === 0 ? 'zeros' : 'unknown';
}
