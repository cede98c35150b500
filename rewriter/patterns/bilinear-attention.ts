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
import { HIDDEN_AT_MOST } from '../masks/logits.js';
import { Experiment } from '../match/experiment.js';
import { isStored } from '../match/operands.js';
import { PRODUCTS, type Product, productOf } from '../match/product.js';
import { drawn, type Feed } from '../probe/feed.js';
import { OTHER_DATA, PLAIN, type Trial } from '../probe/laboratory.js';
import { elements, indexOf } from '../probe/sample.js';
import type { FormContext, Fusion, Miss, SourceForm } from './source-form.js';
import { sumOfProducts } from './weighted-sum.js';

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

/** Operators that move the elements of their first input, or scale them by their second. */
const MOVES: ReadonlySet<string> = new Set([
  ...['Identity', 'Cast', 'Reshape', 'Transpose', 'Unsqueeze', 'Squeeze', 'Flatten', 'Expand', 'Mul', 'Div'],
]);

/** Rounding allowed, relative to the largest score. */
const ROUNDING = 2e-5;

/** What lies between tokens and one factor of a score product, the last first. */
interface Chain {
  readonly weights: readonly { readonly product: Product; readonly node: Node }[];
  readonly norm: Node | null;
  /** Where the way back ends: values that may be the tokens, the nearest first. */
  readonly sources: readonly Value[];
}

/** The values of the graph that make up one attention, and what they are in the terms of the operator. */
interface Candidate {
  readonly x: Value;
  readonly parameters: BilinearParameters;
  /** Weights by name of the operator's input. */
  readonly weights: Readonly<Record<string, Value>>;
  readonly products: readonly Node[];
}

function recognize(anchor: Node, context: FormContext): Fusion | Miss {
  const { laboratory } = context;
  const output = anchor.outputs[0]!;
  const far = (reason: string): Miss => ({ node: anchor, reason, near: false, nodes: [] });
  const attention = sumOfProducts(anchor, context);
  if (typeof attention === 'string') return far(attention);
  const { found, sum, logits, products } = attention;
  const candidate = candidateOf(products, sum, output, context);
  if (typeof candidate === 'string') return far(candidate);
  const parameters = measured(candidate, logits, laboratory.trials);
  if (typeof parameters === 'string') {
    return { node: anchor, reason: parameters, near: true, nodes: found.matched };
  }
  return fusionOf(anchor, found.nodes.get('softmax')!, sum.right, { ...candidate, parameters });
}

/** The way from one factor of a score product back to where its tokens may be; null where there is none. */
function chainBehind(factor: Value, mostWeights: number, { laboratory }: FormContext): Chain | null {
  const weights: { product: Product; node: Node }[] = [];
  const sources = [factor];
  let norm: Node | null = null;
  for (let value = factor; ; ) {
    const { producer } = value;
    if (producer === null || value.slot !== 0) break;
    const { type } = producer;
    const product = PRODUCTS.some(each => each === type) ? productOf(producer) : null;
    if (product !== null && isStored(product.right, laboratory) && !isStored(product.left, laboratory)) {
      if (weights.length === mostWeights) break;
      weights.push({ product, node: producer });
      sources.length = 0;
      value = product.left;
    } else if (type === 'LayerNormalization' && weights.length === 0 && norm === null) {
      norm = producer;
      value = producer.inputs[0]!;
    } else if (MOVES.has(type) && producer.inputs[0] != null) {
      value = producer.inputs[0];
    } else break;
    sources.push(value);
  }
  return weights.length === 0 && norm !== null ? null : { weights, norm, sources };
}

function candidateOf(
  found: readonly Node[],
  sum: Product,
  output: Value,
  context: FormContext,
): Candidate | string {
  const { trials } = context.laboratory;
  const dims = (value: Value, trial = trials[0]!) => trial.probe(PLAIN).tryToSample(value)?.dims ?? [];
  if (found.length === 0) return 'no product of query and key';
  const [outputDims, valueDims] = [dims(output), dims(sum.right)];
  if (outputDims.length !== 4 || outputDims.join() !== valueDims.join() || sum.factor !== 1) {
    return 'its values are not those of heads of the same tokens';
  }
  const heads = outputDims[1]!;
  const pieces = (node: Node) => {
    const weight = chainBehind(productOf(node)!.right, 1, context)?.weights[0];
    return weight === undefined ? 0 : (dims(weight.product.right)[0] ?? 0);
  };
  const products = [...found].sort((one, other) => pieces(one) - pieces(other));
  const factors = products.map(node => productOf(node)!);
  const train = products.length === 1;
  const keys = factors.map(({ right }) => chainBehind(right, train ? 2 : 1, context));
  const isTrain = train && keys[0]?.weights.length === 2;
  const queries = factors.map(({ left }) => chainBehind(left, isTrain ? 0 : 1, context));
  const chains = [...queries, ...keys];
  if (chains.includes(null)) return 'its keys are made in another way than by structured matrices';
  const x = chains[0]!.sources.find(
    value =>
      chains.every(chain => chain!.sources.includes(value)) &&
      trials.every(trial => {
        const [batch, , tokens] = dims(output, trial);
        const given = dims(value, trial);
        return given.length === 3 && given[0] === batch && given[1] === tokens;
      }),
  );
  if (x === undefined) return 'its query and key are not made of the same tokens';
  const features = dims(x)[2]!;
  const wanted = isTrain ? [2] : [1];
  const weighted = isTrain ? keys : chains;
  if (weighted.some(chain => !wanted.includes(chain!.weights.length))) return 'it has no structured weights';
  const stored = (chain: Chain | null, n: number) => chain!.weights[n]!.product.right;
  if (weighted.some(chain => chain!.weights.some((_, n) => dims(stored(chain, n)).length !== 3))) {
    return 'its weights are ordinary matrices';
  }
  const norms = weighted.map(chain => chain!.norm);
  const epsilons = new Set(norms.map(norm => norm?.float('epsilon', 1e-5) ?? null));
  if (epsilons.size > 1) return 'its levels are normalized in different ways';
  const normalized = norms[0] != null;
  const weights: Record<string, Value> = {};
  const gain = (name: string, norm: Node | null | undefined) => {
    if (norm?.inputs[1] != null) weights[name] = norm.inputs[1];
  };
  let shape: Pick<BilinearParameters, 'inputPieces' | 'outputPieces' | 'ranks'>;
  if (isTrain) {
    const [left, right] = [stored(keys[0]!, 0), stored(keys[0]!, 1)];
    Object.assign(weights, { left, right });
    gain('key_norm_1', norms[0]);
    const [[blocks], [inputPieces, , columns]] = [dims(left), dims(right)];
    shape = { inputPieces: [inputPieces!], outputPieces: [blocks! / heads], ranks: [columns! / blocks!] };
  } else {
    keys.forEach((key, n) => {
      weights[`query_${n + 1}`] = stored(queries[n]!, 0);
      weights[`key_${n + 1}`] = stored(key, 0);
      gain(`query_norm_${n + 1}`, queries[n]!.norm);
      gain(`key_norm_${n + 1}`, key!.norm);
    });
    const inputPieces = products.map(pieces);
    const ranks = keys.map(key => dims(stored(key, 0))[2]! / heads);
    shape = { inputPieces, outputPieces: inputPieces, ranks };
  }
  const parameters: BilinearParameters = {
    kind: isTrain ? 'block-tensor-train' : 'multi-level-low-rank',
    heads,
    features,
    ...shape,
    levelScale: shape.ranks.map(() => 1),
    normalisation: normalized ? 'layer' : 'none',
    epsilon: [...epsilons][0] ?? 0,
    causal: false,
  };
  const expected = weightShapes(parameters);
  for (const [name, value] of Object.entries(weights)) {
    if (dims(value).join() !== expected[name]?.join()) return `its ${name} does not have the shape of one`;
  }
  if (bilinearProblem(parameters) !== null) return bilinearProblem(parameters)!;
  return { x, parameters, weights, products };
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

/** The parameters with scales and causality as an experiment finds them; a string says what differs. */
function measured(
  { x, parameters, weights, products }: Candidate,
  logits: Value,
  trials: readonly Trial[],
): BilinearParameters | string {
  let result = parameters;
  for (const [t, trial] of trials.entries()) {
    const { dims } = trial.probe(PLAIN).sample(x);
    const [batch, tokens] = [dims[0]!, dims[1]!];
    const random = new SeededRandom(t + 1);
    const data = random.normals(dims.reduce((product, dim) => product * dim, 1));
    /** Logits by the graph, of all products or of one alone. */
    const computed = (feed: Feed, only: number | null) => {
      const experiment = new Experiment(trial.probe(feed));
      experiment.set(x, index => data[index]!);
      products.forEach((node, n) => {
        if (only !== null && only !== n) experiment.set(node.outputs[0]!, () => 0);
      });
      const shape = [batch, parameters.heads, tokens, tokens];
      return (place: readonly [number, number, number, number]) =>
        experiment.at(logits, indexOf(place, shape));
    };
    const definition = scoresOf(inputsOf({ dims, data }, weights, trial), parameters);
    if (t === 0) {
      const levelScale = products.map((_, n) => {
        const run = computed(PLAIN, n);
        const place = [0, 0, tokens - 1, 0] as const;
        return Math.fround(run(place) / definition(...place)[n]!);
      });
      if (levelScale.some(scale => !Number.isFinite(scale)))
        return 'the scale of its scores cannot be measured';
      const causal = computed(PLAIN, null)([0, 0, 0, tokens - 1]) <= HIDDEN_AT_MOST;
      result = { ...parameters, levelScale, causal };
    }
    for (const feed of [PLAIN, OTHER_DATA, drawn(2, [0, 1])]) {
      const run = computed(feed, null);
      for (let b = 0; b < batch; b++) {
        for (let n = 0; n < parameters.heads * tokens * tokens; n++) {
          const place = [
            b,
            Math.floor(n / tokens ** 2),
            Math.floor(n / tokens) % tokens,
            n % tokens,
          ] as const;
          const [, , i, j] = place;
          const actual = run(place);
          if (result.causal && j > i) {
            if (actual > HIDDEN_AT_MOST) return `row ${i} sees key ${j}`;
            continue;
          }
          const terms = definition(...place).map((product, l) => product * result.levelScale[l]!);
          const expected = terms.reduce((sum, term) => sum + term, 0);
          const magnitude = terms.reduce((sum, term) => sum + Math.abs(term), 1);
          // NaN compares false.
          if (!(Math.abs(actual - expected) <= ROUNDING * magnitude)) {
            return `its scores are not those of structured matrices, as at row ${i} and key ${j}`;
          }
        }
      }
    }
  }
  return result;
}

/** The weights of the graph as the reference takes them. */
function inputsOf(x: Tensor, weights: Candidate['weights'], trial: Trial): ScoreInputs {
  const tensor = (name: string): Tensor | undefined => {
    const value = weights[name];
    if (value === undefined) return undefined;
    const sample = trial.probe(PLAIN).sample(value);
    return { dims: sample.dims, data: Float32Array.from(elements(sample)) };
  };
  const optional = (key: string, name: string) => {
    const given = tensor(name);
    return given === undefined ? {} : { [key]: given };
  };
  const [left, right] = [tensor('left'), tensor('right')];
  if (left !== undefined && right !== undefined) {
    return { x, train: { left, right, ...optional('keyNorm', 'key_norm_1') } };
  }
  const levels = [];
  for (let n = 1; weights[`query_${n}`] !== undefined; n++) {
    levels.push({
      query: tensor(`query_${n}`)!,
      key: tensor(`key_${n}`)!,
      ...optional('queryNorm', `query_norm_${n}`),
      ...optional('keyNorm', `key_norm_${n}`),
    });
  }
  return { x, levels };
}

function fusionOf(anchor: Node, softmax: Node, value: Value, { x, parameters, weights }: Candidate): Fusion {
  const output = anchor.outputs[0]!;
  const computed = descendants(x);
  const behind = ancestors(output, each => each !== x && each !== value);
  const inside = [...behind].filter(each => computed.has(each) && each !== x && each !== value);
  const probabilities = ancestors(output, each => each !== softmax.outputs[0]);
  return {
    computation: 'bilinear',
    operands: {
      x: { value: x },
      value: { value },
      ...Object.fromEntries(Object.entries(weights).map(([name, weight]) => [name, { value: weight }])),
    },
    output: { value: output, axes: { batch: 0, sequence: 2 } },
    parameters: attributesOf(parameters),
    causal: parameters.causal,
    keyMask: null,
    emptyRow: 'never',
    kind: 'self',
    heads: { queryHeads: parameters.heads, kvHeads: parameters.heads },
    named: anchor,
    interior: inside
      .filter(each => each !== output)
      .map(each => ({
        value: each,
        holds: probabilities.has(each) ? 'attention probabilities' : 'attention scores',
      })),
    nodes: new Set(inside.map(({ producer }) => producer!)),
    refusals: [],
  };
}
