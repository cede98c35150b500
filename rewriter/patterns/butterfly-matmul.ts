import { SeededRandom } from '../../custom-ops/seeded-random.js';
import type { Structure } from '../../custom-ops/structured-matmul/parameters.js';
import { butterfly } from '../../custom-ops/structured-matmul/structures.js';
import type { Node } from '../graph/node.js';
import { ancestors } from '../graph/slices.js';
import type { Value } from '../graph/value.js';
import { type AxisOrder, axisOrders, movesTo } from '../match/axis-orders.js';
import { dominatorsOf } from '../match/dominators.js';
import { Experiment } from '../match/experiment.js';
import { fedBy } from '../match/fed-by.js';
import { PRODUCTS } from '../match/product.js';
import { movedBy } from '../match/weight-chain.js';
import { DataType } from '../onnx/spec.js';
import { PLAIN, type Trial } from '../probe/laboratory.js';
import { elements, sizeOf } from '../probe/sample.js';
import type { FormContext, Fusion, Miss, MovedValue, SourceForm } from './source-form.js';
import { structuredFusion } from './structured-fusion.js';

/**
 * A product with a butterfly (operator specification, section 3): log2(n) stages that each mix entries in pairs by
 * stored 2 x 2 blocks, be it by Einsum, by products of matrices or by sums of products. Between stages all entries
 * meet in one value again; what a stage makes of random numbers says which entries it pairs and how its blocks lie.
 */
export const butterflyMatMul: SourceForm = {
  name: 'butterfly-matmul',
  anchors: ['Einsum', 'MatMul', 'ReduceSum', 'Concat'],
  recognize,
};

/** Operators that a stage is made of: linear in what is not stored. */
const LINEAR: ReadonlySet<string> = new Set([
  ...PRODUCTS,
  ...['Mul', 'Add', 'Sub', 'ReduceSum', 'Concat', 'Slice', 'Split', 'Gather', 'Expand'],
]);

/** Fewest stages: two pairs of two entries are as many numbers as a matrix. */
const LEAST_STAGES = 3;
/** Indices that every floating type tells apart. */
const ORDERED = 2048;
const ROUNDING = { float32: 2e-5, float16: 5e-3 } as const;

interface Stage {
  /** The entries after it, in order. */
  readonly after: Value;
  /**
   * Its blocks as they are stored: in one tensor [pairs / 2^stage, 2^stage, output, input], its axes in some order, or
   * in four [pairs / 2^stage, 2^stage], by output and input.
   */
  readonly blocks: readonly StoredBlocks[];
}

interface StoredBlocks {
  readonly value: Value;
  readonly order: AxisOrder;
}

function recognize(anchor: Node, { laboratory }: FormContext): Fusion | Miss {
  const far = (reason: string): Miss => ({ node: anchor, reason, near: false, nodes: [] });
  const [trial] = laboratory.trials as [Trial, ...Trial[]];
  const dims = (value: Value) => trial.probe(PLAIN).tryToSample(value)?.dims ?? [];
  if (!isLinear(anchor)) return far('it is not linear in one value');
  const slice = ancestors(anchor.outputs[0]!, ({ producer }) => producer !== null && isLinear(producer));
  const data = ({ inputs }: Node) => inputs.filter(value => value !== null).filter(isFed);
  const meeting = dominatorsOf([anchor.outputs[0]!], data, isLinear);
  if ([...slice].filter(value => isFactor(value, slice)).length < LEAST_STAGES)
    return far('it has no stages');
  const ends = endsOf(anchor);
  for (const [n, end] of ends.entries()) {
    const features = dims(end).at(-1) ?? 0;
    const count = Math.log2(features);
    if (!Number.isInteger(count) || count < LEAST_STAGES) continue;
    const numbers = (value: Value) =>
      blocksBetween(value, anchor.outputs[0]!, slice, features, trial).reduce(
        (total, blocks) => total + sizeOf(dims(blocks)),
        0,
      );
    const x = meeting.find(
      value => dims(value).join() === dims(end).join() && numbers(value) === 2 * features * count,
    );
    if (x === undefined) continue;
    const cuts = [...meeting.slice(0, meeting.indexOf(x)).reverse(), ...ends.slice(1, n + 1)];
    const stages = stagesOf(x, cuts, features, slice, trial);
    if (typeof stages === 'string') return { ...far(stages), near: true, nodes: [anchor] };
    if (stages.length < count || !keepsOrder(stages.at(-1)!.after, end, trial)) continue;
    const kinds = new Set(stages.map(({ blocks }) => blocks.length));
    if (kinds.size > 1) return { ...far('its stages store their blocks in different ways'), near: true };
    return fusionOf(anchor, x, end, stages, butterfly(features), laboratory.trials);
  }
  return far('it has no stages for all bits of an index');
}

function isFed(value: Value): boolean {
  return fedBy(value) === 'elements';
}

/** Whether a node is linear in the one value, or in the sum of values, that it takes besides stored ones. */
function isLinear(node: Node): boolean {
  if (movedBy(node) !== null) return true;
  if (!LINEAR.has(node.type)) return false;
  const inputs = node.inputs.filter(value => value !== null);
  const fed = inputs.filter(isFed);
  if (['Add', 'Sub', 'Concat'].includes(node.type)) return fed.length === inputs.length;
  const multiplies = node.type === 'Mul' || PRODUCTS.some(type => type === node.type);
  return (
    fed.length === 1 && (!multiplies || inputs.every(value => isFed(value) || fedBy(value) === 'nothing'))
  );
}

/** The anchor's output and what single uses make of it by moving its elements. */
function endsOf(anchor: Node): Value[] {
  const ends = [anchor.outputs[0]!];
  for (;;) {
    const value = ends.at(-1)!;
    const [use, ...others] = value.uses.filter(({ node }) => node.type !== 'Shape');
    const next = use?.node.outputs[0];
    if (next == null || others.length > 0 || value.outputOf.length > 0 || movedBy(use!.node) !== value)
      return ends;
    ends.push(next);
  }
}

/** The stored tensors of all blocks of a stage that are multiplied by between two values. */
function blocksBetween(
  from: Value,
  to: Value,
  slice: ReadonlySet<Value>,
  features: number,
  trial: Trial,
): Value[] {
  const between = ancestors(to, value => value !== from && slice.has(value));
  const factors = [...between].filter(value => isFactor(value, between));
  return [...new Set(factors.map(factor => wholeBlocks(factor, 2 * features, trial)))];
}

function isFactor(value: Value, between: ReadonlySet<Value>): boolean {
  if (fedBy(value) !== 'nothing') return false;
  return value.uses.some(
    ({ node }) =>
      (node.type === 'Mul' || PRODUCTS.some(type => type === node.type)) &&
      node.outputs.some(output => output !== null && between.has(output)),
  );
}

/** The nearest tensor of `count` numbers that a factor is picked from; itself where there is none. */
function wholeBlocks(factor: Value, count: number, trial: Trial): Value {
  for (let value = factor; ; ) {
    const size = sizeOf(trial.probe(PLAIN).tryToSample(value)?.dims ?? []);
    if (size === count) return value;
    const { producer } = value;
    const source = producer === null ? null : (movedBy(producer) ?? pickedFrom(producer));
    if (source === null || size > count) return factor;
    value = source;
  }
}

function pickedFrom({ type, inputs }: Node): Value | null {
  return ['Gather', 'Slice', 'Split'].includes(type) ? (inputs[0] ?? null) : null;
}

/**
 * The stages from `x` on, by cutting where all entries meet, as far as there are any; a string says why they make up
 * no butterfly.
 */
function stagesOf(
  x: Value,
  cuts: readonly Value[],
  features: number,
  slice: ReadonlySet<Value>,
  trial: Trial,
): readonly Stage[] | string {
  const stages: Stage[] = [];
  let before = x;
  const inner = new Set([...slice, ...cuts]);
  for (const after of cuts) {
    const blocks = blocksBetween(before, after, inner, features, trial);
    if (blocks.length === 0) continue;
    const bits = [stages.length, ...Array.from({ length: Math.log2(features) }, (_, bit) => bit)];
    const found = bits.find(bit => blocksAt(bit, before, after, blocks, features, trial) !== null);
    if (found === undefined) continue;
    if (found !== stages.length) return `stage ${stages.length} pairs entries at a distance of ${2 ** found}`;
    stages.push({ after, blocks: blocksAt(found, before, after, blocks, features, trial)! });
    before = after;
  }
  return stages;
}

/** Reads what lies between two values as the stage of a bit: how its blocks lie; null where it is something else. */
function blocksAt(
  bit: number,
  before: Value,
  after: Value,
  blocks: readonly Value[],
  features: number,
  trial: Trial,
): Stage['blocks'] | null {
  const probe = trial.probe(PLAIN);
  const { dims, dataType } = probe.sample(before);
  const count = sizeOf(dims);
  if (sizeOf(probe.sample(after).dims) !== count || count % features !== 0) return null;
  const stride = 2 ** bit;
  const random = new SeededRandom(bit + 1);
  const given = random.normals(count);
  const experiment = new Experiment(probe);
  experiment.set(before, index => given[index]!);
  const found = experiment.sample(after);
  const numbers = new Map(blocks.map(value => [value, elements(probe.sample(value))]));
  const rounding = ROUNDING[dataType === DataType.FLOAT16 ? 'float16' : 'float32'];
  const rows = [...new Set([0, count / features - 1])];
  const fits = (stage: Stage['blocks']) =>
    rows.every(row =>
      Array.from({ length: features }, (_, entry) => entry).every(entry => {
        const output = Math.floor(entry / stride) % 2;
        const low = entry - output * stride;
        const terms = [0, 1].map(input => {
          const { value, order } = stage.length === 1 ? stage[0]! : stage[2 * output + input]!;
          const place = [Math.floor(entry / (2 * stride)), entry % stride, output, input];
          const at = order.strides.reduce((index, step, axis) => index + step * place[axis]!, 0);
          return numbers.get(value)![at]! * given[row * features + low + input * stride]!;
        });
        const [sum, magnitude] = [terms[0]! + terms[1]!, Math.abs(terms[0]!) + Math.abs(terms[1]!)];
        return Math.abs(found.at(row * features + entry) - sum) <= rounding * magnitude;
      }),
    );
  return candidatesOf(blocks, features / (2 * stride), stride, trial).find(fits) ?? null;
}

/** Ways in which stored tensors may hold the blocks of a stage. */
function candidatesOf(
  blocks: readonly Value[],
  outer: number,
  stride: number,
  trial: Trial,
): Stage['blocks'][] {
  const ordered = (value: Value, sizes: readonly number[]) => {
    const { dims } = trial.probe(PLAIN).sample(value);
    return axisOrders(dims, sizes).map(order => ({ value, order }));
  };
  if (blocks.length === 1) return ordered(blocks[0]!, [outer, stride, 2, 2]).map(order => [order]);
  if (blocks.length !== 4) return [];
  return permutations(blocks).flatMap(four => {
    const orders = four.map(value => ordered(value, [outer, stride]));
    const fewest = Math.min(...orders.map(({ length }) => length));
    return Array.from({ length: fewest }, (_, n) => orders.map(order => order[n]!));
  });
}

function permutations<T>(items: readonly T[]): T[][] {
  if (items.length === 0) return [[]];
  return items.flatMap((item, n) =>
    permutations([...items.slice(0, n), ...items.slice(n + 1)]).map(rest => [item, ...rest]),
  );
}

/** Whether the elements of one value are those of another, in the same order. */
function keepsOrder(from: Value, to: Value, trial: Trial): boolean {
  const experiment = new Experiment(trial.probe(PLAIN));
  experiment.set(from, index => index % ORDERED);
  const { dims, at } = experiment.sample(to);
  return Array.from({ length: Math.min(sizeOf(dims), ORDERED) }, (_, index) => index).every(
    index => at(index) === index,
  );
}

function fusionOf(
  anchor: Node,
  x: Value,
  end: Value,
  stages: readonly Stage[],
  structure: Structure,
  trials: readonly Trial[],
): Fusion {
  const { inFeatures } = structure;
  const dimsOf = (value: Value) => trials[0]!.probe(PLAIN).sample(value).dims;
  const blocks = stages
    .flatMap(({ blocks }) => blocks)
    .map(({ value, order }): MovedValue => {
      const dims = dimsOf(value);
      return { value, moves: movesTo(order, dims, [1, sizeOf(dims)]) };
    });
  const shape = [stages.length, inFeatures / 2, 2, 2];
  const apart = [{ reshape: [stages.length, 4, inFeatures / 2] }, { transpose: [0, 2, 1] }];
  const moves = [...(blocks.length === stages.length ? [] : apart), { reshape: shape }];
  const factors = { left_1: { parts: blocks, moves } };
  const { length: rank } = dimsOf(end);
  return structuredFusion({ named: anchor, x, end, structure, factors, moves: [], rank });
}
