import type { Tensor } from '../operator.js';
import { denseMatrix } from '../structured-matmul/reference.js';
import { blockTensorTrain } from '../structured-matmul/structures.js';
import type { BilinearParameters } from './parameters.js';

/**
 * BilinearAttention by its definition (README, "Semantics"): plain loops in float64, float32 in and out. The
 * oracle for the function body and for every kernel.
 */

/** Weights of one level of `multi-level-low-rank`. */
export interface LevelWeights {
  /** [p, X / p, H r]; columns of head h are h r ... h r + r - 1. */
  readonly query: Tensor;
  readonly key: Tensor;
  /** Gains [p r] of the normalization; all ones where absent. */
  readonly queryNorm?: Tensor;
  readonly keyNorm?: Tensor;
}

/** What scores are made of. */
export interface ScoreInputs {
  /** [B, N, X] */
  readonly x: Tensor;
  /** Of `block-tensor-train`: left [H q, p s, X / q], right [p, X / p, H q s], and the gain [X] of the norm. */
  readonly train?: { readonly left: Tensor; readonly right: Tensor; readonly keyNorm?: Tensor };
  /** Of `multi-level-low-rank`. */
  readonly levels?: readonly LevelWeights[];
}

export interface BilinearInputs extends ScoreInputs {
  /** [B, H, N, E] */
  readonly value: Tensor;
  /** [B, N], nonzero = visible. */
  readonly keyMask?: Uint8Array;
}

/** One head of one batch row: query and key vectors of each token, by level. */
type Vectors = readonly (readonly { readonly query: number[]; readonly key: number[] }[])[];

/** [B, H, N, E]; zeros for a row that sees no key. Nothing is checked that `operator.ts` or a kernel checks. */
export function bilinearAttention(inputs: BilinearInputs, parameters: BilinearParameters): Tensor {
  const { value, keyMask } = inputs;
  const [batch = 0, heads = 0, length = 0, valueDim = 0] = value.dims;
  const data = new Float32Array(value.data.length);
  const products = scoresOf(inputs, parameters);
  for (let part = 0; part < batch * heads; part++) {
    const [b, head] = [Math.floor(part / heads), part % heads];
    const score = (i: number, j: number) =>
      products(b, head, i, j).reduce((sum, product, l) => sum + parameters.levelScale[l]! * product, 0);
    for (let i = 0; i < length; i++) {
      const visible: number[] = [];
      for (let j = 0; j < length; j++) {
        if (keyMask?.[b * length + j] !== 0 && !(parameters.causal && j > i)) visible.push(j);
      }
      const scores = visible.map(j => score(i, j));
      const max = scores.reduce((most, x) => Math.max(most, x), Number.NEGATIVE_INFINITY);
      const weights = scores.map(x => Math.exp(x - max));
      const total = weights.reduce((sum, weight) => sum + weight, 0);
      for (let e = 0; e < valueDim; e++) {
        const sum = visible.reduce(
          (s, j, n) => s + weights[n]! * value.data[(part * length + j) * valueDim + e]!,
          0,
        );
        data[(part * length + i) * valueDim + e] = visible.length === 0 ? 0 : sum / total;
      }
    }
  }
  return { dims: value.dims, data };
}

/**
 * Products of query and key by batch row, head, row and key: one for each level, without its scale.
 */
export function scoresOf(
  inputs: ScoreInputs,
  parameters: BilinearParameters,
): (b: number, head: number, i: number, j: number) => number[] {
  const known = new Map<number, Vectors>();
  return (b, head, i, j) => {
    const part = b * parameters.heads + head;
    const vectors = known.get(part) ?? vectorsOf(inputs, parameters, b, head);
    known.set(part, vectors);
    return vectors[i]!.map(({ query }, level) => dot(query, vectors[j]![level]!.key));
  };
}

function vectorsOf(
  { x, train, levels }: ScoreInputs,
  parameters: BilinearParameters,
  batch: number,
  head: number,
): Vectors {
  const [, length = 0, features = 0] = x.dims;
  const token = (n: number) => {
    const start = (batch * length + n) * features;
    return Array.from(x.data.subarray(start, start + features));
  };
  const tokens = Array.from({ length }, (_, n) => token(n));
  if (train) {
    const matrix = trainMatrix(train.left, train.right, parameters, head);
    return tokens.map(given => {
      const key = Array.from({ length: features }, (_, row) =>
        dot(matrix.subarray(row * features, (row + 1) * features), given),
      );
      return [{ query: given, key: normalized(key, parameters, train.keyNorm) }];
    });
  }
  return tokens.map(given =>
    (levels ?? []).map(({ query, key, queryNorm, keyNorm }, l) => ({
      query: normalized(image(given, query, parameters, l, head), parameters, queryNorm),
      key: normalized(image(given, key, parameters, l, head), parameters, keyNorm),
    })),
  );
}

/** M_h [X, X]: its Block Tensor Train has the blocks of `left`, and the columns of `right`, that are the head's. */
function trainMatrix(
  left: Tensor,
  right: Tensor,
  { heads, features, inputPieces, outputPieces, ranks }: BilinearParameters,
  head: number,
): Float64Array {
  const [p, q, s] = [inputPieces[0]!, outputPieces[0]!, ranks[0]!];
  const block = p * s * (features / q);
  const own = right.data.filter((_, n) => Math.floor((n % (heads * q * s)) / (q * s)) === head);
  return denseMatrix(blockTensorTrain(features, features, p, q, s), [
    { dims: [q, p * s, features / q], data: left.data.slice(head * q * block, (head + 1) * q * block) },
    { dims: [p, features / p, q * s], data: own },
  ]);
}

/** [p r]: piece by piece, the product with the head's columns of a weight [p, X / p, H r]. */
function image(
  token: readonly number[],
  weight: Tensor,
  { heads, inputPieces, ranks }: BilinearParameters,
  level: number,
  head: number,
): number[] {
  const [pieces, rank] = [inputPieces[level]!, ranks[level]!];
  const size = token.length / pieces;
  return Array.from({ length: pieces * rank }, (_, n) => {
    const [piece, column] = [Math.floor(n / rank), head * rank + (n % rank)];
    let sum = 0;
    for (let d = 0; d < size; d++) {
      sum += token[piece * size + d]! * weight.data[(piece * size + d) * heads * rank + column]!;
    }
    return sum;
  });
}

function normalized(
  vector: number[],
  { normalisation, epsilon }: BilinearParameters,
  gain: Tensor | undefined,
): number[] {
  if (normalisation === 'none') return vector;
  const mean = normalisation === 'layer' ? vector.reduce((sum, x) => sum + x, 0) / vector.length : 0;
  const variance = vector.reduce((sum, x) => sum + (x - mean) ** 2, 0) / vector.length;
  const deviation = Math.sqrt(variance + epsilon);
  return vector.map((x, n) => ((x - mean) / deviation) * (gain?.data[n] ?? 1));
}

function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let n = 0; n < a.length; n++) sum += a[n]! * b[n]!;
  return sum;
}
