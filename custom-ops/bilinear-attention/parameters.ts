import type { Attributes } from '../operator.js';

/** How keys are made of tokens. */
export type BilinearKind = 'block-tensor-train' | 'multi-level-low-rank';

/**
 * What is done to transformed keys (and, with levels, queries): nothing, layer normalization, or division by the root
 * mean square.
 */
export const NORMALISATIONS = ['none', 'layer', 'root-mean-square'] as const;

export type Normalisation = (typeof NORMALISATIONS)[number];

/** Most levels of one node: four inputs each. */
export const MOST_LEVELS = 8;

/** The attributes of one BilinearAttention node (README, "Attributes"), typed. */
export interface BilinearParameters {
  readonly kind: BilinearKind;
  readonly heads: number;
  /** Channels of a token: X. */
  readonly features: number;
  /**
   * By level, pieces of a token that have weights of their own. A Block Tensor Train has one level.
   */
  readonly inputPieces: readonly number[];
  /** Pieces of a transformed key, of a Block Tensor Train only; otherwise the same as `inputPieces`. */
  readonly outputPieces: readonly number[];
  /** By level: dimensions of each piece's image; of a Block Tensor Train what joins two pieces. */
  readonly ranks: readonly number[];
  /** By level, the factor on the product of query and key. */
  readonly levelScale: readonly number[];
  readonly normalisation: Normalisation;
  /** Added to variances, or mean squares, before the root is taken. */
  readonly epsilon: number;
  readonly causal: boolean;
}

/** Dimensions of a level's queries and keys. */
export function levelSize({ kind, features, inputPieces, ranks }: BilinearParameters, level: number): number {
  return kind === 'block-tensor-train' ? features : inputPieces[level]! * ranks[level]!;
}

/** Factors on the scores of each level by convention: the inverse square root of its dimensions. */
export function conventionalScale(parameters: Omit<BilinearParameters, 'levelScale'>): number[] {
  const complete = { ...parameters, levelScale: [] };
  return parameters.ranks.map((_, level) => 1 / Math.sqrt(levelSize(complete, level)));
}

/** Why there is no such attention; null where there is. */
export function bilinearProblem(parameters: BilinearParameters): string | null {
  const { kind, features, inputPieces, outputPieces, ranks, levelScale } = parameters;
  const most = kind === 'block-tensor-train' ? 1 : MOST_LEVELS;
  if (ranks.length < 1 || ranks.length > most) return `${kind} has 1 to ${most} levels`;
  if ([inputPieces, outputPieces, levelScale].some(list => list.length !== ranks.length)) {
    return 'pieces, ranks and scales are not as many';
  }
  const uneven = [...inputPieces, ...outputPieces].find(pieces => features % pieces !== 0);
  return uneven === undefined ? null : `${features} channels do not fall into ${uneven} pieces`;
}

export function attributesOf(parameters: BilinearParameters): Attributes {
  const { kind, heads, features, inputPieces, outputPieces, ranks, levelScale } = parameters;
  const { normalisation, epsilon, causal } = parameters;
  return {
    kind,
    heads,
    features,
    input_pieces: inputPieces,
    output_pieces: outputPieces,
    ranks,
    level_scale: levelScale,
    normalisation,
    epsilon,
    causal: Number(causal),
  };
}

/** Inverse of {@link attributesOf}, for attributes that `operator.ts` has validated. */
export function parametersOf(attributes: Attributes): BilinearParameters {
  const list = (name: string) => attributes[name] as readonly number[];
  return {
    kind: attributes.kind as BilinearKind,
    heads: Number(attributes.heads),
    features: Number(attributes.features),
    inputPieces: list('input_pieces'),
    outputPieces: list('output_pieces'),
    ranks: list('ranks'),
    levelScale: list('level_scale'),
    normalisation: attributes.normalisation as Normalisation,
    epsilon: Number(attributes.epsilon),
    causal: Number(attributes.causal) !== 0,
  };
}
