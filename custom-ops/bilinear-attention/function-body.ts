import { DataType, type FunctionSpec } from '../../rewriter/onnx/spec.js';
import { GraphBuilder, type Value } from '../graph-builder.js';
import { type BodyContext, DOMAIN } from '../operator.js';
import { atLeastOne, HIDDEN, softmaxPart, VISIBLE_ABOVE } from '../softmax-part.js';
import { permutedPieces, pieces } from '../structured-matmul/function-body.js';
import { type BilinearParameters, levelSize, MOST_LEVELS } from './parameters.js';

export const OP_TYPE = 'BilinearAttention';

/** Inputs of the operator, in order. left and right belong to a Block Tensor Train, the rest to levels. */
export const INPUT_NAMES: readonly string[] = [
  'x',
  'value',
  'key_mask',
  'left',
  'right',
  ...Array.from({ length: MOST_LEVELS }, (_, n) => n + 1).flatMap(level => [
    `query_${level}`,
    `key_${level}`,
    `query_norm_${level}`,
    `key_norm_${level}`,
  ]),
];

/** Most rows whose scores over all keys exist at once. */
const CHUNK_ROWS = 256;

/** Sizes known at run time only, vectors of one. */
interface Sizes {
  readonly batch: Value;
  /** Tokens, at least one. */
  readonly length: Value;
}

/**
 * The operator in standard ONNX operators: transforms of all tokens, then attention over chunks of
 * {@link CHUNK_ROWS} rows, so that no number per pair of tokens outlives its chunk.
 * @param connected names of the inputs that the node connects
 */
export function bilinearFunctionBody(
  parameters: BilinearParameters,
  connected: readonly string[],
  { opset, elementType }: BodyContext,
): FunctionSpec {
  const inputs = INPUT_NAMES.slice(0, INPUT_NAMES.findLastIndex(name => connected.includes(name)) + 1);
  const b = new GraphBuilder(opset);
  // The element type is the node's: UNDEFINED stands for it until the cast.
  const given = { name: 'x', type: DataType.UNDEFINED };
  const widened = (name: string): Value | null =>
    connected.includes(name) ? b.cast({ name, type: DataType.UNDEFINED }, DataType.FLOAT) : null;
  const tokens = b.dim(given, 1);
  const sizes = { batch: b.dim(given, 0), length: b.max(tokens, 1) };
  const x = atLeastOne(b, widened('x')!, 3, 1, tokens, 0);
  const value = atLeastOne(b, widened('value')!, 4, 2, tokens, 0);
  const mask = connected.includes('key_mask') ? { name: 'key_mask', type: DataType.BOOL } : null;
  const transforms = parameters.kind === 'block-tensor-train' ? trainVectors : levelVectors;
  const { query, key } = transforms(b, x, widened, parameters, sizes);
  const bias = mask && b.where(mask, b.constant(0, DataType.FLOAT), HIDDEN);
  const keyBias = bias && b.unsqueeze(atLeastOne(b, bias, 2, 1, tokens, HIDDEN), 1, 2);
  const output = attention(b, query, key, value, keyBias, parameters, sizes);
  const present = b.slice(output, 2, 0, tokens);
  b.output(b.castLike(present, given, elementType), 'output');
  return {
    domain: DOMAIN,
    name: OP_TYPE,
    inputs,
    outputs: ['output'],
    opsetImports: { '': opset },
    nodes: b.nodes,
  };
}

/** Queries [B, 1 or H, N, D], scaled, and keys [B, H, N, D]. */
interface Vectors {
  readonly query: Value;
  readonly key: Value;
}

type Transforms = (
  b: GraphBuilder,
  x: Value,
  weight: (name: string) => Value | null,
  parameters: BilinearParameters,
  sizes: Sizes,
) => Vectors;

/** The tokens themselves, shared by all heads, and their images by each head's Block Tensor Train. */
const trainVectors: Transforms = (b, x, weight, parameters, { batch, length }) => {
  const { heads, features, inputPieces, outputPieces, ranks, levelScale } = parameters;
  const [p, q, s] = [inputPieces[0]!, outputPieces[0]!, ranks[0]!];
  // One matrix for all heads: each has output pieces of its own.
  const level = { inputPieces: p, outputPieces: heads * q, rank: s };
  const images = permutedPieces(b, x, weight('left')!, weight('right')!, level, features);
  const apart = b.reshape(images, [heads, q, batch, length, features / q]);
  const key = b.reshape(b.transpose(apart, [2, 0, 3, 4, 1]), [batch, heads, length, features]);
  return {
    query: b.unsqueeze(b.mul(x, levelScale[0]!), 1),
    key: normalized(b, key, weight('key_norm_1'), parameters),
  };
};

/** Levels side by side. */
const levelVectors: Transforms = (b, x, weight, parameters, { batch, length }) => {
  const { heads, features, inputPieces, ranks, levelScale } = parameters;
  const image = (level: number, side: 'query' | 'key') => {
    const [p, rank] = [inputPieces[level]!, ranks[level]!];
    const products = b.matMul(pieces(b, x, p, features), weight(`${side}_${level + 1}`)!);
    const apart = b.transpose(b.reshape(products, [p, batch, length, heads, rank]), [1, 3, 2, 0, 4]);
    const vectors = b.reshape(apart, [batch, heads, length, levelSize(parameters, level)]);
    return normalized(b, vectors, weight(`${side}_norm_${level + 1}`), parameters);
  };
  return {
    query: b.concat(
      ranks.map((_, level) => b.mul(image(level, 'query'), levelScale[level]!)),
      3,
    ),
    key: b.concat(
      ranks.map((_, level) => image(level, 'key')),
      3,
    ),
  };
};

function normalized(
  b: GraphBuilder,
  vectors: Value,
  gain: Value | null,
  { normalisation, epsilon }: BilinearParameters,
): Value {
  if (normalisation === 'none') return vectors;
  const centered = normalisation === 'layer' ? b.sub(vectors, mean(b, vectors)) : vectors;
  const variance = mean(b, b.mul(centered, centered));
  const scaled = b.div(centered, b.sqrt(b.add(variance, epsilon)));
  return gain === null ? scaled : b.mul(scaled, gain);
}

function mean(b: GraphBuilder, x: Value): Value {
  return b.div(b.reduceSum(x, -1), b.cast(b.dim(x, -1), DataType.FLOAT));
}

/** @returns [B, H, N, E] */
function attention(
  b: GraphBuilder,
  query: Value,
  key: Value,
  value: Value,
  keyBias: Value | null,
  { causal, heads }: BilinearParameters,
  { batch, length }: Sizes,
): Value {
  const valueDim = b.dim(value, 3);
  const rows = b.min(length, CHUNK_ROWS);
  const chunks = b.ceilDiv(length, rows);
  const padded = b.pad(query, 4, 2, 0, b.sub(b.mul(chunks, rows), length));
  const transposed = b.transpose(key, [0, 1, 3, 2]);
  const { stacked } = b.loop(chunks, [], (inner, iteration) => {
    const start = inner.mul(iteration, rows);
    const end = inner.add(start, rows);
    const seen = causal ? inner.min(end, length) : length;
    const keys = inner.slice(transposed, 3, 0, seen);
    let logits = inner.matMul(inner.slice(padded, 2, start, end), keys);
    if (keyBias) logits = inner.add(logits, inner.slice(keyBias, 3, 0, seen));
    if (causal) {
      const position = inner.reshape(inner.add(inner.range(rows), start), [rows, 1]);
      const visible = inner.lessOrEqual(inner.range(seen), position);
      logits = inner.add(logits, inner.where(visible, 0, inner.constant(HIDDEN, DataType.FLOAT)));
    }
    const { output, lse } = softmaxPart(inner, logits, inner.slice(value, 2, 0, seen));
    // Without a mask every row sees a key.
    const visible = keyBias && inner.where(inner.greater(lse, VISIBLE_ABOVE), output, 0);
    return { state: [], stacked: [visible ?? output] };
  });
  const byHead = b.transpose(stacked[0]!, [1, 2, 0, 3, 4]);
  return b.slice(b.reshape(byHead, [batch, heads, -1, valueDim]), 2, 0, length);
}
