import {
  attributesOf,
  type BilinearParameters,
  bilinearProblem,
  levelSize,
} from '../../custom-ops/bilinear-attention/parameters.js';
import { type ScoreInputs, scoresOf } from '../../custom-ops/bilinear-attention/reference.js';
import type { Tensor } from '../../custom-ops/operator.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import type { Node } from '../graph/node.js';
import { ancestors, descendants } from '../graph/slices.js';
import type { Value } from '../graph/value.js';
import { hidesLaterKeys } from '../masks/causal.js';
import { ComputedLogits } from '../masks/computed-logits.js';
import type { MaskFacts } from '../masks/facts.js';
import { HIDDEN_AT_MOST } from '../masks/logits.js';
import { type AxisOrder, axisOrders, divisorsOf, movesTo } from '../match/axis-orders.js';
import { Experiment } from '../match/experiment.js';
import type { Match } from '../match/matcher.js';
import { type Normalization, normalizationAt, normalized } from '../match/normalization.js';
import { PRODUCTS } from '../match/product.js';
import { isMoved, movedBy, scaledBy, storedTensor, weightProduct } from '../match/weight-chain.js';
import { DataType } from '../onnx/spec.js';
import { drawn, type Feed, uniform } from '../probe/feed.js';
import { OTHER_DATA, PLAIN, type Trial } from '../probe/laboratory.js';
import { coordinates, elements, indexOf } from '../probe/sample.js';
import type { KeyMask, Move } from '../site.js';
import { inverse, transposed } from './moves.js';
import type { FormContext, Fusion, Miss, MovedValue, SourceForm } from './source-form.js';
import { emptyRowOf, maskProblem, type SumLayout, sumLayout, sumOfProducts } from './weighted-sum.js';

/**
 * Bilinear attention in standard operators: softmax over products of tokens and their images by structured
 * matrices (operator specification, section 3). The weights on the way from tokens to scores, by their shapes,
 * say which structure it can be; computing the scores with random tokens says whether it is.
 */
export const bilinearAttention: SourceForm = {
  name: 'bilinear-attention',
  anchors: PRODUCTS,
  recognize,
};

/** Rounding allowed, relative to the sum of magnitudes. */
const ROUNDING = { float32: 2e-5, float16: 1e-2 } as const;

/** What lies between tokens and one factor of a score product. */
interface Chain {
  /** Stored weights, the last one first. */
  readonly weights: readonly Value[];
  readonly norm: Normalization | null;
  /** Where the way back ends: values that may be the tokens, the nearest first. */
  readonly sources: readonly Value[];
}

/** Two factors of scores that add up: of a product, or of a part of the channels that a product sums over. */
interface Branch {
  readonly query: Value;
  readonly key: Value;
}

/** The values of the graph that make up one attention, and what they are in the terms of the operator. */
interface Candidate {
  readonly x: Value;
  readonly parameters: BilinearParameters;
  /** Weights by name of the operator's input. */
  readonly weights: Readonly<Record<string, StoredWeight>>;
  readonly branches: readonly Branch[];
}

/** A weight, and how its axes lie. */
interface StoredWeight {
  readonly value: Value;
  readonly order: AxisOrder;
}

/** What scores are read from. */
interface Formula {
  readonly logits: Value;
  readonly heads: number;
  /** Without an axis of heads where there is one. */
  readonly layout: SumLayout;
  readonly rounding: number;
}

function recognize(anchor: Node, context: FormContext): Fusion | Miss {
  const { laboratory, masks } = context;
  const { trials } = laboratory;
  const output = anchor.outputs[0]!;
  const far = (reason: string): Miss => ({ node: anchor, reason, near: false, nodes: [] });
  const attention = sumOfProducts(anchor, context);
  if (typeof attention === 'string') return far(attention);
  const { found, sum, logits, products } = attention;
  const dims = trials.map(trial => trial.probe(PLAIN).tryToSample(output)?.dims);
  const rank = dims[0]?.length;
  const layout = rank === 3 || rank === 4 ? sumLayout(sum, rank) : null;
  if (products.length === 0 || layout === null) return far('its values are not those of heads');
  const rowAxis = layout.outputOrder.at(-2)!;
  const heads = rank === 3 ? 1 : dims[0]![layout.outputOrder[1]!]!;
  const half = trials[0]!.probe(PLAIN).sample(logits).dataType === DataType.FLOAT16;
  const formula = { logits, heads, layout, rounding: ROUNDING[half ? 'float16' : 'float32'] };
  const readings = readingsOf(products, formula, context);
  if (typeof readings === 'string') return far(readings);

  const near = (reason: string): Miss => ({ node: anchor, reason, near: true, nodes: found.matched });
  const operands = products.map(node => node.outputs[0]!);
  const source = new ComputedLogits(logits, operands, (experiment, product) => {
    for (const [n, operand] of operands.entries()) experiment.set(operand, () => (n === 0 ? product : 0));
  });
  const facts = masks.inspect({
    logits: source,
    graph: anchor.graph,
    extent: trial => {
      const { dims: shape } = trial.probe(PLAIN).sample(output);
      const rows = shape[rowAxis]!;
      return { batch: shape[layout.outputOrder[0]!]!, heads, rows, columns: rows };
    },
  });
  const problem = maskProblem(facts) ?? (facts.factor === null ? 'its scale is not one number' : null);
  if (problem !== null) return near(problem);
  const mask = { facts, causal: hidesLaterKeys(facts) };
  const present =
    facts.keyMask?.visible === 'zero' ? laboratory.feed('uniform 0 0', () => uniform(PLAIN.seed, 0)) : PLAIN;
  const problems = readings.map(reading => {
    if (reading.problem !== null) return reading.problem;
    const candidate = measured(reading, formula, present, mask.causal, trials[0]!);
    if (typeof candidate === 'string') return candidate;
    const keys = facts.keyMask && anchor.graph.resolve(facts.keyMask.value);
    return (
      difference(candidate, formula, { present, keys, visible: facts.keyMask?.visible }, trials) ??
      fusionOf(anchor, found, placed(sum.right, formula, output, trials[0]!), candidate, facts)
    );
  });
  return problems.find(result => typeof result !== 'string') ?? near(String(problems[0]));
}

/** Operators besides moves between tokens and scores: they repeat elements. */
const REPEATS: ReadonlySet<string> = new Set(['Expand', 'Tile']);

/** The way from one factor of a score product back to where its tokens may be. */
function chainBehind(factor: Value, { laboratory }: FormContext): Chain {
  const weights: Value[] = [];
  let sources = [factor];
  let norm: Normalization | null = null;
  let plain: Chain | null = null;
  for (let value = factor; ; ) {
    const { producer } = value;
    if (producer === null || value.slot !== 0) break;
    const product = weightProduct(producer, laboratory);
    const moved = REPEATS.has(producer.type) ? (producer.inputs[0] ?? null) : movedBy(producer);
    const next = moved ?? scaledBy(producer, laboratory)?.value;
    if (product !== null) {
      if (weights.length + product.weights.length > 2) break;
      weights.push(...product.weights.map(weight => storedTensor(weight, laboratory)));
      value = product.data;
      sources = [];
    } else if (next != null) value = next;
    else {
      const found: Normalization | null =
        weights.length === 0 && norm === null ? normalizationAt(value, laboratory) : null;
      if (found === null) break;
      plain = { weights: [], norm: null, sources: [...sources] };
      norm = found;
      value = found.source;
    }
    sources.push(value);
  }
  // A normalization without weights before it is that of the tokens.
  return weights.length === 0 && plain !== null ? plain : { weights, norm, sources };
}

/** Both sides of the products, apart where channels of several levels lie side by side. */
function branchesOf(products: readonly Node[], swapped: boolean): readonly Branch[] {
  return products.flatMap(node => {
    const [first, second] = node.inputs as [Value, Value];
    const [query, key] = swapped ? [second, first] : [first, second];
    const parts = [query, key].map(side => {
      let value = side;
      for (let next = value.producer && movedBy(value.producer); next; ) {
        value = next;
        next = value.producer && movedBy(value.producer);
      }
      return value.producer?.type === 'Concat' ? value.producer.inputs : null;
    });
    const [queries, keys] = parts;
    if (queries == null || keys == null || queries.length !== keys.length) return [{ query, key }];
    return queries.map((part, n) => ({ query: part!, key: keys[n]! }));
  });
}

/** A reading of products as branches, all but for the axes of weights and the numbers. */
interface Reading {
  readonly x: Value;
  readonly features: number;
  readonly train: boolean;
  readonly branches: readonly (Branch & { readonly chains: readonly [Chain, Chain] })[];
  /** Null where nothing is normalized. */
  readonly norm: Pick<Normalization, 'kind' | 'epsilon'> | null;
  /** Why it is nothing that the operator computes; null where it may be. */
  readonly problem: string | null;
}

/** What products may be by the weights behind them, with either factor for the query; a string says why nothing. */
function readingsOf(products: readonly Node[], formula: Formula, context: FormContext): Reading[] | string {
  const readings = [false, true].map(swapped => readingOf(branchesOf(products, swapped), formula, context));
  const found = readings.filter(reading => typeof reading !== 'string');
  return found.length > 0 ? found : String(readings[0]);
}

function readingOf(
  branches: readonly Branch[],
  { layout, logits }: Formula,
  context: FormContext,
): Reading | string {
  const { trials } = context.laboratory;
  const chained: Reading['branches'][number][] = [];
  for (const branch of branches) {
    chained.push({
      ...branch,
      chains: [chainBehind(branch.query, context), chainBehind(branch.key, context)],
    });
  }
  const counts = chained.map(({ chains }) => chains.map(({ weights }) => weights.length).join());
  const train = counts.join(' ') === '0,2';
  const chains = chained.flatMap(branch => branch.chains);
  if (!train && counts.some(count => count !== '1,1')) return 'it has no structured weights';
  const dims = (value: Value, trial = trials[0]!) => trial.probe(PLAIN).tryToSample(value)?.dims ?? [];
  const rankOf = (value: Value) => dims(value).length;
  if (chained.length === 1 && chains.every(({ weights }) => weights.every(weight => rankOf(weight) < 3))) {
    return 'its weights are ordinary matrices';
  }
  const [batchAxis] = layout.outputOrder;
  const x = chains[0]!.sources.find(
    value =>
      chains.every(({ sources }) => sources.includes(value)) &&
      trials.every(trial => {
        const [given, scores] = [dims(value, trial), dims(logits, trial)];
        return given.length === 3 && given[0] === scores[batchAxis!] && given[1] === scores.at(-1);
      }),
  );
  if (x === undefined) return 'its query and key are not made of the same tokens';
  const norms = chains.filter(({ weights }) => weights.length > 0).map(({ norm }) => norm);
  const [norm = null] = norms;
  const alike = norms.every(other => other?.kind === norm?.kind && other?.epsilon === norm?.epsilon);
  const unlike = alike ? null : 'its levels are normalized in different ways';
  const problem = norms.find(other => other?.problem != null)?.problem ?? unlike;
  return { x, features: dims(x)[2]!, train, branches: chained, norm, problem };
}

/** Scores of one branch at a few places. */
type Scores = readonly { readonly place: Place4; readonly score: number }[];
type Place4 = readonly [number, number, number, number];

/**
 * Finds how the weights of each branch lie, and its scale, from scores while the other branches are silenced.
 * A string says why the weights are none of such structures.
 */
function measured(
  { x, features, train, branches, norm }: Reading,
  { logits, heads, rounding }: Formula,
  present: Feed,
  causal: boolean,
  trial: Trial,
): Candidate | string {
  const { dims } = trial.probe(PLAIN).sample(x);
  const tokens = dims[1]!;
  const data = tokensAt(dims, 0);
  const dimsOf = (value: Value) => trial.probe(PLAIN).sample(value).dims;
  const levels: (StoredLevel & { readonly branch: Reading['branches'][number] })[] = [];
  for (const branch of branches) {
    const experiment = new Experiment(trial.probe(present));
    experiment.set(x, index => data[index]!);
    for (const other of branches) if (other !== branch) experiment.set(other.key, () => 0);
    const places = Array.from({ length: PLACES }, (_, n): Place4 => {
      const row = tokens - 1 - (n % 2);
      return [n % dims[0]!, n % heads, row, (n * 3) % (row + 1)];
    });
    const shape = [dims[0]!, heads, tokens, tokens];
    const scores = places.map(place => ({ place, score: experiment.at(logits, indexOf(place, shape)) }));
    const candidates = train
      ? trainLevels(branch.chains[1], features, heads, dimsOf)
      : rankLevels(branch.chains, features, heads, dimsOf);
    const level = fitting(candidates, branch.chains, norm, scores, { dims, data }, rounding, trial);
    if (level === null) return 'its scores are not those of structured matrices';
    levels.push({ ...level, branch });
  }
  if (!train && levels.length === 1 && levels[0]!.inputPieces === 1) {
    return 'its scores are those of plain attention with weights for each head';
  }
  levels.sort((one, other) => one.inputPieces - other.inputPieces);
  const weights: Record<string, StoredWeight> = {};
  levels.forEach((level, n) => {
    for (const [name, weight] of Object.entries(level.weights)) {
      weights[train ? name : `${name}_${n + 1}`] = weight;
    }
    for (const [side, name] of [`query_norm_${n + 1}`, `key_norm_${n + 1}`].entries()) {
      const gain = level.branch.chains[side]!.norm?.gain;
      if (gain == null) continue;
      const [size = 1] = dimsOf(gain);
      weights[name] = { value: gain, order: axisOrders(dimsOf(gain), [size])[0]! };
    }
  });
  const parameters: BilinearParameters = {
    kind: train ? 'block-tensor-train' : 'multi-level-low-rank',
    heads,
    features,
    inputPieces: levels.map(({ inputPieces }) => inputPieces),
    outputPieces: levels.map(({ outputPieces }) => outputPieces),
    ranks: levels.map(({ rank }) => rank),
    levelScale: levels.map(({ scale }) => scale),
    normalisation: norm?.kind ?? 'none',
    epsilon: norm?.epsilon ?? 0,
    causal,
  };
  return (
    bilinearProblem(parameters) ?? { x, parameters, weights, branches: levels.map(({ branch }) => branch) }
  );
}

/** Places that tell ways of storing weights apart. */
const PLACES = 8;

function tokensAt(dims: readonly number[], seed: number): Float32Array {
  return new SeededRandom(seed + 1).normals(dims.reduce((product, dim) => product * dim, 1));
}

/** The weights of a level as they are stored, before its scale is known. */
interface LevelCandidate {
  readonly inputPieces: number;
  readonly outputPieces: number;
  readonly rank: number;
  /** By the name of the operator's input, without the number of the level. */
  readonly weights: Readonly<Record<string, StoredWeight>>;
}

interface StoredLevel extends LevelCandidate {
  readonly scale: number;
}

/** Block Tensor Trains of each head that two weights may be. */
function* trainLevels(
  { weights: [left, right] }: Chain,
  features: number,
  heads: number,
  dimsOf: (value: Value) => readonly number[],
): Generator<LevelCandidate> {
  const perChannel = (value: Value) =>
    dimsOf(value).reduce((product, dim) => product * dim, 1) / features / heads;
  const [perInput, perOutput] = [perChannel(right!), perChannel(left!)];
  for (const inputPieces of divisorsOf(features)) {
    const rank = perOutput / inputPieces;
    const outputPieces = perInput / rank;
    if (![rank, outputPieces, features / outputPieces].every(Number.isInteger)) continue;
    const leftAxes = [heads, outputPieces, inputPieces, rank, features / outputPieces];
    const rightAxes = [inputPieces, features / inputPieces, heads, outputPieces, rank];
    const rightOrders = axisOrders(dimsOf(right!), rightAxes);
    for (const order of axisOrders(dimsOf(left!), leftAxes)) {
      for (const rightOrder of rightOrders) {
        const weights = {
          left: { value: left!, order },
          right: { value: right!, order: rightOrder },
        };
        yield { inputPieces, outputPieces, rank, weights };
      }
    }
  }
}

/** Low-rank levels that a weight of the query and one of the key may be. */
function* rankLevels(
  [query, key]: readonly [Chain, Chain],
  features: number,
  heads: number,
  dimsOf: (value: Value) => readonly number[],
): Generator<LevelCandidate> {
  const [forQuery, forKey] = [query.weights[0]!, key.weights[0]!];
  const rank = dimsOf(forQuery).reduce((product, dim) => product * dim, 1) / features / heads;
  if (!Number.isInteger(rank)) return;
  for (const pieces of divisorsOf(features)) {
    const axes = [pieces, features / pieces, heads, rank];
    const keyOrders = axisOrders(dimsOf(forKey), axes);
    for (const order of axisOrders(dimsOf(forQuery), axes)) {
      for (const keyOrder of keyOrders) {
        const weights = { query: { value: forQuery, order }, key: { value: forKey, order: keyOrder } };
        yield { inputPieces: pieces, outputPieces: pieces, rank, weights };
      }
    }
  }
}

/** The first level that gives these scores but for one factor, with that factor; null where there is none. */
function fitting(
  candidates: Iterable<LevelCandidate>,
  chains: readonly [Chain, Chain],
  norm: Reading['norm'],
  scores: Scores,
  { dims, data }: { readonly dims: readonly number[]; readonly data: Float32Array },
  rounding: number,
  trial: Trial,
): StoredLevel | null {
  const known = new Map<Value, Float64Array>();
  const elementsOf = (value: Value) => {
    const found = known.get(value) ?? elements(trial.probe(PLAIN).sample(value));
    known.set(value, found);
    return found;
  };
  const [, tokens = 0, features = 0] = dims;
  const image = (vector: readonly number[], side: number) => {
    const gain = chains[side]!.norm?.gain;
    return norm === null || chains[side]!.weights.length === 0
      ? vector
      : normalized(vector, norm.kind, norm.epsilon, gain == null ? null : elementsOf(gain));
  };
  for (const candidate of candidates) {
    const { left } = candidate.weights;
    const vectorOf = imagesBy(candidate, features, elementsOf);
    const products = ({ place: [b, h, i, j] }: Scores[number]) => {
      const token = (n: number) =>
        data.subarray((b * tokens + n) * features, (b * tokens + n + 1) * features);
      const [query, key] = [vectorOf(token(i), h, 'query'), vectorOf(token(j), h, 'key')];
      return productOfVectors(image(query, 0), image(key, 1));
    };
    const usual = 1 / Math.sqrt(left === undefined ? candidate.inputPieces * candidate.rank : features);
    const scaleAt = (some: Scores) => {
      const terms = some.map(place => ({ score: place.score, ...products(place) }));
      // Least squares: single scores may have lost digits in their sums.
      const squares = terms.reduce((total, { sum }) => total + sum * sum, 0);
      const measured = terms.reduce((total, { sum, score }) => total + sum * score, 0) / squares;
      const scale =
        [1, usual].find(value => Math.abs(measured / value - 1) <= rounding) ?? Math.fround(measured);
      // NaN compares false.
      const agree = terms.every(
        ({ score, sum, magnitude }) =>
          Math.abs(score - scale * sum) <= 10 * rounding * Math.abs(scale) * magnitude,
      );
      return agree ? scale : 0;
    };
    // Two places are enough to refuse most candidates.
    const scale = scaleAt(scores.slice(0, 2)) === 0 ? 0 : scaleAt(scores);
    if (scale !== 0) return { ...candidate, scale };
  }
  return null;
}

function productOfVectors(one: readonly number[], other: readonly number[]) {
  const terms = one.map((x, n) => x * other[n]!);
  return {
    sum: terms.reduce((sum, term) => sum + term, 0),
    magnitude: terms.reduce((sum, term) => sum + Math.abs(term), 0),
  };
}

/** What a level makes of a token for a head: the vectors that scores are products of, before normalization. */
function imagesBy(
  { inputPieces: p, outputPieces: q, rank, weights }: LevelCandidate,
  features: number,
  elementsOf: (value: Value) => Float64Array,
): (token: Float32Array, head: number, side: 'query' | 'key') => readonly number[] {
  const reader = ({ value, order: { strides } }: StoredWeight) => {
    const data = elementsOf(value);
    return (...position: number[]) =>
      data[position.reduce((index, place, axis) => index + place * strides[axis]!, 0)]!;
  };
  const piece = features / p;
  /** By piece and column of a right factor, what it makes of the token. */
  const projected = (
    token: Float32Array,
    columns: number,
    at: (gamma: number, delta: number, column: number) => number,
  ) =>
    Array.from({ length: p * columns }, (_, n) => {
      const [gamma, column] = [Math.floor(n / columns), n % columns];
      let sum = 0;
      for (let delta = 0; delta < piece; delta++)
        sum += at(gamma, delta, column) * token[gamma * piece + delta]!;
      return sum;
    });
  const { left, right } = weights;
  if (left === undefined || right === undefined) {
    return (token, head, side) => {
      const at = reader(weights[side]!);
      return projected(token, rank, (gamma, delta, column) => at(gamma, delta, head, column));
    };
  }
  const [leftAt, rightAt] = [reader(left), reader(right)];
  return (token, head, side) => {
    if (side === 'query') return [...token];
    const middle = projected(token, q * rank, (gamma, delta, column) =>
      rightAt(gamma, delta, head, Math.floor(column / rank), column % rank),
    );
    return Array.from({ length: features }, (_, n) => {
      const [alpha, beta] = [Math.floor(n / q), n % q];
      let sum = 0;
      for (let gamma = 0; gamma < p; gamma++) {
        for (let sigma = 0; sigma < rank; sigma++) {
          sum += leftAt(head, beta, gamma, sigma, alpha) * middle[gamma * q * rank + beta * rank + sigma]!;
        }
      }
      return sum;
    });
  };
}

/** Shapes that the weights of these parameters have, by name. */
function weightShapes(parameters: BilinearParameters): Readonly<Record<string, readonly number[]>> {
  const { kind, heads, features, inputPieces, outputPieces, ranks } = parameters;
  if (kind === 'block-tensor-train') {
    const [p, q, s] = [inputPieces[0]!, outputPieces[0]!, ranks[0]!];
    return {
      left: [heads * q, p * s, features / q],
      right: [p, features / p, heads * q * s],
      key_norm_1: [features],
    };
  }
  return Object.fromEntries(
    ranks.flatMap((rank, level) => {
      const weight = [inputPieces[level]!, features / inputPieces[level]!, heads * rank];
      const gain = [levelSize(parameters, level)];
      return [
        [`query_${level + 1}`, weight],
        [`key_${level + 1}`, weight],
        [`query_norm_${level + 1}`, gain],
        [`key_norm_${level + 1}`, gain],
      ];
    }),
  );
}

/** Keys that rows see. */
interface Visibility {
  /** What the model is fed so that all keys are present. */
  readonly present: Feed;
  /** The key mask, and which of its elements mark a visible key. */
  readonly keys: Value | null;
  readonly visible: KeyMask['visible'] | undefined;
}

/** Compares all scores at sample sizes with the operator's; null where they agree. */
function difference(
  { x, parameters, weights }: Candidate,
  { logits, rounding }: Formula,
  { present, keys, visible }: Visibility,
  trials: readonly Trial[],
): string | null {
  const { heads, causal, levelScale } = parameters;
  for (const [t, trial] of trials.entries()) {
    const { dims } = trial.probe(PLAIN).sample(x);
    const [batch, tokens] = [dims[0]!, dims[1]!];
    const data = tokensAt(dims, t);
    const definition = scoresOf(inputsOf({ dims, data }, parameters, weights, trial), parameters);
    for (const feed of [present, OTHER_DATA, drawn(2, [0, 1])]) {
      const experiment = new Experiment(trial.probe(feed));
      experiment.set(x, index => data[index]!);
      const { at } = experiment.sample(logits);
      const masked = keys && trial.probe(feed).sample(keys).at;
      for (let n = 0; n < batch * heads * tokens * tokens; n++) {
        const [i, j] = [Math.floor(n / tokens) % tokens, n % tokens];
        const [b, h] = [Math.floor(n / (heads * tokens ** 2)), Math.floor(n / tokens ** 2) % heads];
        const hidden =
          (causal && j > i) ||
          (masked !== null && (masked(b * tokens + j) === 0) === (visible === 'nonzero'));
        const terms = definition(b, h, i, j).map((product, l) => product * levelScale[l]!);
        const expected = terms.reduce((sum, term) => sum + term, 0);
        const magnitude = terms.reduce((sum, term) => sum + Math.abs(term), 1);
        const right = hidden
          ? at(n) <= HIDDEN_AT_MOST + magnitude
          : Math.abs(at(n) - expected) <= rounding * magnitude;
        if (!right) return `its scores are not those of structured matrices, as at row ${i} and key ${j}`;
      }
    }
  }
  return null;
}

/** The weights of the graph as the reference takes them. */
function inputsOf(
  x: Tensor,
  parameters: BilinearParameters,
  weights: Candidate['weights'],
  trial: Trial,
): ScoreInputs {
  const shapes = weightShapes(parameters);
  const tensor = (name: string): Tensor | undefined => {
    const weight = weights[name];
    if (weight === undefined) return undefined;
    const stored = elements(trial.probe(PLAIN).sample(weight.value));
    const { sizes, strides } = weight.order;
    const data = Float32Array.from(stored, (_, n) => {
      const position = coordinates(n, sizes);
      return stored[position.reduce((index, place, axis) => index + place * strides[axis]!, 0)]!;
    });
    return { dims: shapes[name]!, data };
  };
  const optional = (key: string, name: string) => {
    const given = tensor(name);
    return given === undefined ? {} : { [key]: given };
  };
  const [left, right] = [tensor('left'), tensor('right')];
  if (left !== undefined && right !== undefined) {
    return { x, train: { left, right, ...optional('keyNorm', 'key_norm_1') } };
  }
  const levels = parameters.ranks.map((_, n) => ({
    query: tensor(`query_${n + 1}`)!,
    key: tensor(`key_${n + 1}`)!,
    ...optional('queryNorm', `query_norm_${n + 1}`),
    ...optional('keyNorm', `key_norm_${n + 1}`),
  }));
  return { x, levels };
}

/** Values and output, and how they come to lie as the operator has them. */
type Placed = Pick<Fusion, 'output'> & { readonly value: MovedValue };

function placed(value: Value, { layout }: Formula, output: Value, trial: Trial): Placed {
  const { valueOrder, outputOrder } = layout;
  const valueDim = trial.probe(PLAIN).sample(output).dims[outputOrder.at(-1)!]!;
  const [split, joined]: [Move[], Move[]] =
    outputOrder.length === 4
      ? [[], []]
      : [[{ reshape: [0, 1, -1, valueDim] }], [{ reshape: [0, -1, valueDim] }]];
  return {
    value: { value, moves: [...transposed(valueOrder), ...split] },
    output: {
      value: output,
      moves: [...joined, ...transposed(inverse(outputOrder))],
      axes: { batch: outputOrder[0]!, sequence: outputOrder.at(-2)! },
    },
  };
}

function fusionOf(
  anchor: Node,
  found: Match,
  { value: moved, output: placedOutput }: Placed,
  { x, parameters, weights }: Candidate,
  facts: MaskFacts,
): Fusion {
  const output = anchor.outputs[0]!;
  const { value } = moved;
  const computed = descendants(x);
  const behind = ancestors(output, each => each !== x && each !== value);
  const inside = [...behind].filter(each => computed.has(each) && each !== x && each !== value);
  const softmax = found.nodes.get('softmax')!;
  const probabilities = ancestors(output, each => each !== softmax.outputs[0]);
  const shapes = weightShapes(parameters);
  const stored = Object.entries(weights).map(([name, weight]): [string, MovedValue] => {
    const { dims } = weight.value.initializer ?? { dims: weight.order.sizes };
    return [name, { value: weight.value, moves: movesTo(weight.order, dims, shapes[name]!) }];
  });
  return {
    computation: 'bilinear',
    operands: {
      x: { value: x },
      value: moved,
      ...Object.fromEntries(stored),
    },
    output: placedOutput,
    parameters: attributesOf(parameters),
    causal: parameters.causal,
    keyMask: facts.keyMask,
    emptyRow: emptyRowOf(facts, found),
    kind: 'self',
    heads: { queryHeads: parameters.heads, kvHeads: parameters.heads },
    named: anchor,
    interior: inside
      .filter(each => each !== output && !isMoved(each, x))
      .map(each => ({
        value: each,
        holds: probabilities.has(each) ? 'attention probabilities' : 'attention scores',
      })),
    nodes: new Set(inside.map(({ producer }) => producer!)),
    refusals: [],
  };
}
