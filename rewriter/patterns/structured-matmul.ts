import { SeededRandom } from '../../custom-ops/seeded-random.js';
import {
  factorShapes,
  type Level,
  MOST_LEVELS,
  multiplyAdds,
  type Structure,
  type StructureKind,
  structureProblem,
} from '../../custom-ops/structured-matmul/parameters.js';
import type { Node } from '../graph/node.js';
import type { Value } from '../graph/value.js';
import { type AxisOrder, axisOrders, divisorsOf, movesTo } from '../match/axis-orders.js';
import { Experiment } from '../match/experiment.js';
import { PRODUCTS } from '../match/product.js';
import { movedBy, scaledBy, storedTensor, type WeightProduct, weightProduct } from '../match/weight-chain.js';
import { DataType } from '../onnx/spec.js';
import { type Laboratory, PLAIN, type Trial } from '../probe/laboratory.js';
import { elements } from '../probe/sample.js';
import type { Move } from '../site.js';
import type { FormContext, Fusion, Miss, MovedValue, SourceForm } from './source-form.js';
import { structuredFusion } from './structured-fusion.js';

/**
 * Products with matrices that are given by factors (operator specification, section 3): two products with stored
 * weights, one after the other, with nothing but moves in between, or a sum of such pairs. How many numbers the
 * weights have says which structures they can be; computing the products with random numbers says which it is.
 */
export const structuredMatMul: SourceForm = {
  name: 'structured-matmul',
  anchors: [...PRODUCTS, 'Gemm'],
  recognize,
};

/** Rounding allowed, relative to the sum of magnitudes. */
const ROUNDING = { float32: 2e-5, float16: 5e-3 } as const;

/** Rows and, beside the first and the last, output features that are compared at each sample size. */
const ROWS = 3;
const FEATURES = 61;

/** A way from the output back through two weights. */
interface Chain {
  /** The node that comes last. */
  readonly last: Node;
  /** The last one first, unless one node multiplies by both. */
  readonly weights: readonly Value[];
  /** Whether one node multiplies by both weights. */
  readonly joint: boolean;
  /** Constant factors on the way. */
  readonly scale: number;
  /** Values that may be what the structure is applied to, the nearest first. */
  readonly sources: readonly Value[];
}

/** A level of a structure with its factors as they are stored. */
interface StoredLevel {
  readonly kind: StructureKind;
  readonly level: Level;
  /** Whether output pieces of a permuted level lie one after the other, and not interleaved as the operator's. */
  readonly apart: boolean;
  readonly left: StoredFactor;
  readonly right: StoredFactor;
}

interface StoredFactor {
  readonly value: Value;
  readonly order: AxisOrder;
}

function recognize(anchor: Node, { laboratory }: FormContext): Fusion | Miss {
  const far = (reason: string): Miss => ({ node: anchor, reason, near: false, nodes: [anchor] });
  if (weightProduct(anchor, laboratory) === null) return far('no product with a weight');
  let miss: Miss = far('one product with a weight');
  for (const end of endsOf(anchor, laboratory).reverse()) {
    const chains = chainsBehind(end, laboratory);
    const x = chains && commonSource(chains, end, laboratory);
    if (chains === null || x === null) continue;
    if (chains[0]!.last !== anchor) return far('part of a sum');
    const found = levelsOf(chains, x, end, laboratory);
    if (typeof found !== 'string') return fusionOf(anchor, x, end, found, laboratory);
    miss = { ...far(found), near: found === DIFFERENT };
  }
  return miss;
}

/** What the output of a product turns into by single uses that move, scale or add, itself first. */
function endsOf(anchor: Node, laboratory: Laboratory): Value[] {
  const ends = [anchor.outputs[0]!];
  for (;;) {
    const value = ends.at(-1)!;
    const [use, ...others] = value.uses.filter(({ node }) => node.type !== 'Shape');
    if (use === undefined || others.length > 0 || value.outputOf.length > 0) return ends;
    const { node } = use;
    const goesOn =
      node.graph === anchor.graph &&
      (node.type === 'Add' || scaledBy(node, laboratory) !== null || movedBy(node) === value);
    if (!goesOn) return ends;
    ends.push(node.outputs[0]!);
  }
}

/** The chains of two weights whose sum a value is; null where it is anything else. */
function chainsBehind(end: Value, laboratory: Laboratory): readonly Chain[] | null {
  const chains: Chain[] = [];
  const pending = [{ value: end, scale: 1, products: [] as readonly WeightProduct[] }];
  for (let path = pending.pop(); path !== undefined; path = pending.pop()) {
    const { value, scale, products } = path;
    const weights = products.flatMap(product => product.weights);
    if (weights.length === 2) {
      const sources = [value];
      for (let next = before(value); next !== null; next = before(next)) sources.push(next);
      chains.push({ last: products[0]!.node, weights, joint: products.length === 1, scale, sources });
      if (chains.length > MOST_LEVELS) return null;
      continue;
    }
    if (weights.length > 2) return null;
    const { producer } = value;
    if (producer === null || value.slot !== 0) return null;
    const product = weightProduct(producer, laboratory);
    const scaled = scaledBy(producer, laboratory);
    const moved = movedBy(producer);
    if (product !== null) pending.push({ value: product.data, scale, products: [...products, product] });
    else if (scaled !== null) pending.push({ value: scaled.value, scale: scale * scaled.factor, products });
    else if (moved !== null) pending.push({ value: moved, scale, products });
    else if (producer.type === 'Add' && products.length === 0) {
      for (const term of producer.inputs) pending.push({ value: term!, scale, products });
    } else return null;
  }
  return chains;
}

function before({ producer }: Value): Value | null {
  return producer === null ? null : movedBy(producer);
}

/** The nearest value that all chains start from and that has the rows of the output. */
function commonSource(chains: readonly Chain[], end: Value, { trials }: Laboratory): Value | null {
  const dims = (value: Value, trial: Trial) => trial.probe(PLAIN).tryToSample(value)?.dims ?? [];
  const isSource = (value: Value) =>
    chains.every(({ sources }) => sources.includes(value)) &&
    trials.every(trial => {
      const [given, result] = [dims(value, trial), dims(end, trial)];
      return given.length > 1 && given.slice(0, -1).join() === result.slice(0, -1).join();
    });
  return chains[0]!.sources.find(isSource) ?? null;
}

const DIFFERENT = 'its two weights are no factors of a structured matrix';

/** Reads the factors of every chain, each while the others are silenced; a string says why they are none. */
function levelsOf(
  chains: readonly Chain[],
  x: Value,
  end: Value,
  laboratory: Laboratory,
): readonly StoredLevel[] | string {
  const { trials } = laboratory;
  const featuresOf = (value: Value) => trials[0]!.probe(PLAIN).sample(value).dims.at(-1)!;
  const [inFeatures, outFeatures] = [featuresOf(x), featuresOf(end)];
  const given = trials.map((trial, t) => inputOf(x, trial, t));
  const levels: StoredLevel[] = [];
  for (const chain of chains) {
    const [last, first] = chain.weights.map(weight => storedTensor(weight, laboratory)) as [Value, Value];
    const sides = [[first, last] as const, ...(chain.joint ? [[last, first] as const] : [])];
    const candidates = sides.flatMap(([right, left]) => [
      ...candidatesOf(right, left, inFeatures, outFeatures, chain.scale, trials[0]!),
    ]);
    if (candidates.length === 0) return 'its two weights together are no smaller than their product';
    const observed = trials.map((trial, t) => {
      const experiment = new Experiment(trial.probe(PLAIN));
      experiment.set(x, index => given[t]![index]!);
      for (const other of chains) {
        if (other !== chain) experiment.set(other.last.outputs[0]!, () => 0);
      }
      return experiment.sample(end);
    });
    const rounding = ROUNDING[observed[0]!.dataType === DataType.FLOAT16 ? 'float16' : 'float32'];
    const weights = new Map(
      [first, last].map(value => [value, elements(trials[0]!.probe(PLAIN).sample(value))]),
    );
    const places = observed.map(({ dims }) => placesToCompare(dims));
    const fits = (candidate: StoredLevel) => {
      const product = definition(candidate, weights, inFeatures, outFeatures);
      return observed.every(({ at }, t) =>
        places[t]!.every(([row, feature]) => {
          const { sum, magnitude } = product(given[t]!, row * inFeatures, feature);
          // NaN compares false.
          return Math.abs(at(row * outFeatures + feature) - sum) <= rounding * magnitude;
        }),
      );
    };
    const level = candidates.find(fits);
    if (level === undefined) return DIFFERENT;
    levels.push(level);
  }
  // One order of outputs for all of them.
  if (new Set(levels.map(({ apart, level }) => (apart ? level.outputPieces : 1))).size > 1) return DIFFERENT;
  return levels.sort((one, other) => one.level.inputPieces - other.level.inputPieces);
}

function inputOf(x: Value, trial: Trial, t: number): Float32Array {
  const { dims } = trial.probe(PLAIN).sample(x);
  return new SeededRandom(t + 1).normals(dims.reduce((product, dim) => product * dim, 1));
}

/** Rows and features of an output of this shape: the ends of both, and some in between. */
function placesToCompare(dims: readonly number[]): readonly (readonly [number, number])[] {
  const features = dims.at(-1)!;
  const rows = dims.slice(0, -1).reduce((product, dim) => product * dim, 1);
  const spread = (size: number, count: number) => [
    ...new Set(Array.from({ length: count + 1 }, (_, n) => Math.floor(((size - 1) * n) / count))),
  ];
  return spread(rows, ROWS).flatMap(row =>
    spread(features, FEATURES).map(feature => [row, feature] as const),
  );
}

/**
 * Levels that two weights may be by the numbers that they have, in every way in which they can be stored. Ones
 * that need no fewer multiply-adds than the dense matrix are left out.
 */
function* candidatesOf(
  first: Value,
  last: Value,
  inFeatures: number,
  outFeatures: number,
  scale: number,
  trial: Trial,
): Generator<StoredLevel> {
  const dimsOf = (value: Value) => trial.probe(PLAIN).sample(value).dims;
  const sizeOf = (value: Value) => dimsOf(value).reduce((product, dim) => product * dim, 1);
  const stored = function* (
    kind: StructureKind,
    level: Level,
    [left, leftAxes]: readonly [Value, readonly number[]],
    [right, rightAxes]: readonly [Value, readonly number[]],
  ): Generator<StoredLevel> {
    const structure: Structure = { kind, inFeatures, outFeatures, levels: [level] };
    if (structureProblem(structure) !== null || multiplyAdds(structure) >= inFeatures * outFeatures) return;
    const rightOrders = axisOrders(dimsOf(right), rightAxes);
    const { permuted, outputPieces } = level;
    const layouts = permuted && outputPieces > 1 && outputPieces < outFeatures ? [false, true] : [false];
    for (const order of axisOrders(dimsOf(left), leftAxes)) {
      for (const rightOrder of rightOrders) {
        for (const apart of layouts) {
          const factors = { left: { value: left, order }, right: { value: right, order: rightOrder } };
          yield { kind, level, apart, ...factors };
        }
      }
    }
  };
  const [firstSize, lastSize] = [sizeOf(first), sizeOf(last)];
  const [inPieces, outPieces] = [divisorsOf(inFeatures), divisorsOf(outFeatures)];
  // Right and left factors of a level take as many numbers for every input, and for every output.
  const [perInput, perOutput] = [firstSize / inFeatures, lastSize / outFeatures];
  if (Number.isInteger(perInput) && perInput === perOutput) {
    for (const pieces of inPieces.filter(count => outPieces.includes(count))) {
      const level = { inputPieces: pieces, outputPieces: pieces, rank: perInput, permuted: false, scale };
      const [piece, outputPiece] = [inFeatures / pieces, outFeatures / pieces];
      yield* stored(
        pieces === 1 ? 'low-rank' : 'multi-level-low-rank',
        level,
        [last, [pieces, perInput, outputPiece]],
        [first, [pieces, piece, perInput]],
      );
    }
  }
  for (const inputPieces of inPieces) {
    for (const outputPieces of outPieces) {
      const [piece, outputPiece] = [inFeatures / inputPieces, outFeatures / outputPieces];
      const permuted = { inputPieces, outputPieces, permuted: true, scale };
      for (const [left, right] of [
        [last, first],
        [first, last],
      ] as const) {
        if (sizeOf(left) !== outputPiece * inputPieces || sizeOf(right) !== outputPieces * piece) continue;
        yield* stored(
          'kronecker',
          { ...permuted, rank: 1 },
          [left, [outputPiece, inputPieces]],
          [right, [outputPieces, piece]],
        );
      }
      const rank = perInput / outputPieces;
      if (!Number.isInteger(rank) || rank * inputPieces !== perOutput) continue;
      yield* stored(
        rank === 1 ? 'monarch' : 'block-tensor-train',
        { ...permuted, rank },
        [last, [outputPieces, inputPieces, rank, outputPiece]],
        [first, [inputPieces, piece, outputPieces, rank]],
      );
    }
  }
}

/** One output feature by the definition, of the row that starts at `start`, and the sum of magnitudes. */
type Definition = (x: Float32Array, start: number, feature: number) => { sum: number; magnitude: number };

function definition(
  { kind, level, apart, left, right }: StoredLevel,
  weights: ReadonlyMap<Value, Float64Array>,
  inFeatures: number,
  outFeatures: number,
): Definition {
  const reader = ({ value, order: { strides } }: StoredFactor) => {
    const data = weights.get(value)!;
    return (...position: number[]) =>
      data[position.reduce((index, p, axis) => index + p * strides[axis]!, 0)]!;
  };
  const [l, r] = [reader(left), reader(right)];
  const { inputPieces, outputPieces, rank, permuted, scale } = level;
  const [piece, outputPiece] = [inFeatures / inputPieces, outFeatures / outputPieces];
  return (x, start, feature) => {
    let [sum, magnitude] = [0, 0];
    const [alpha, beta] =
      permuted && !apart
        ? [Math.floor(feature / outputPieces), feature % outputPieces]
        : [feature % outputPiece, Math.floor(feature / outputPiece)];
    for (let gamma = 0; gamma < inputPieces; gamma++) {
      if (!permuted && gamma !== beta) continue;
      for (let sigma = 0; sigma < rank; sigma++) {
        const outer =
          kind === 'kronecker'
            ? l(alpha, gamma)
            : permuted
              ? l(beta, gamma, sigma, alpha)
              : l(beta, sigma, alpha);
        for (let delta = 0; delta < piece; delta++) {
          const inner =
            kind === 'kronecker'
              ? r(beta, delta)
              : permuted
                ? r(gamma, delta, beta, sigma)
                : r(gamma, delta, sigma);
          const term = scale * outer * inner * x[start + gamma * piece + delta]!;
          sum += term;
          magnitude += Math.abs(term);
        }
      }
    }
    return { sum, magnitude };
  };
}

/** The structure that levels make up together. */
function structureOf(levels: readonly StoredLevel[], inFeatures: number, outFeatures: number): Structure {
  const [first] = levels;
  const alike = levels.every(({ level }) => !level.permuted) ? 'multi-level-low-rank' : null;
  const kind =
    levels.length === 1 ? first!.kind : (alike ?? ('multi-level-block-tensor-contraction' as const));
  return { kind, inFeatures, outFeatures, levels: levels.map(({ level }) => level) };
}

/** The moves from interleaved output pieces, the last of `rank` axes, to pieces one after the other. */
function piecesApart({ outputPieces }: Level, outFeatures: number, rank: number): readonly Move[] {
  const leading = Array.from({ length: rank - 1 }, () => 0);
  const axes = leading.map((_, axis) => axis);
  return [
    { reshape: [...leading, outFeatures / outputPieces, outputPieces] },
    { transpose: [...axes, rank, rank - 1] },
    { reshape: [...leading, -1] },
  ];
}

function fusionOf(
  anchor: Node,
  x: Value,
  end: Value,
  levels: readonly StoredLevel[],
  { trials }: Laboratory,
): Fusion | Miss {
  const dimsOf = (value: Value) => trials[0]!.probe(PLAIN).sample(value).dims;
  const structure = structureOf(levels, dimsOf(x).at(-1)!, dimsOf(end).at(-1)!);
  const problem = structureProblem(structure);
  if (problem !== null) return { node: anchor, reason: problem, near: true, nodes: [anchor] };
  const shapes = factorShapes(structure);
  const factors: Record<string, MovedValue> = {};
  levels.forEach(({ left, right }, n) => {
    [left, right].forEach(({ value, order }, side) => {
      const moves = movesTo(order, dimsOf(value), shapes[2 * n + side]!);
      factors[`${side === 0 ? 'left' : 'right'}_${n + 1}`] = { value, moves };
    });
  });
  const { length: rank } = dimsOf(end);
  const [{ apart, level }] = levels as [StoredLevel, ...StoredLevel[]];
  const moves = apart ? piecesApart(level, structure.outFeatures, rank) : [];
  return structuredFusion({ named: anchor, x, end, structure, factors, moves, rank });
}
