import type { Attributes } from '../operator.js';

/** What scores are divided by: nothing, the number of levels, or the number of levels that two tokens share. */
export type Divide = 'none' | 'count' | 'shared';

/** Most levels of one node: past and present keys have one input and one output per level. */
export const MOST_LEVELS = 8;

/** The attributes of one MultiLevelAttention node (README, "Attributes"), typed. */
export interface MultiLevelParameters {
  /** Factor on every score; null = 1 / sqrt(D). */
  readonly scale: number | null;
  readonly causal: boolean;
  /** Position of row 0; null = the rows are the last of the keys. */
  readonly causalOffset: number | null;
  /** Dimensions of each level, the global level first; their sum is D. */
  readonly ranks: readonly number[];
  /** Tokens in a block of the last level; a block of the level before holds twice as many, and so on. */
  readonly block: number;
  /** Factor on the scores of each level. */
  readonly levelScale: readonly number[];
  readonly divide: Divide;
}

/** Parameters with every level weighted alike. */
export function plainParameters(
  ranks: readonly number[],
  block: number,
  changes: Partial<MultiLevelParameters> = {},
): MultiLevelParameters {
  return {
    scale: null,
    causal: false,
    causalOffset: null,
    ranks,
    block,
    levelScale: ranks.map(() => 1),
    divide: 'none',
    ...changes,
  };
}

/**
 * In place of softmax attention, unless told otherwise: half of a head counts everywhere, and all of it between the
 * tokens of a block of 1024 (README, "In place of softmax attention").
 */
export function softmaxParameters(headDim: number): MultiLevelParameters {
  const leading = Math.ceil(headDim / 2);
  return plainParameters([leading, headDim - leading], 1024);
}

/** Tokens in a block of a level (counted from 0); the global level has one block of any length. */
export function blockLength({ ranks, block }: MultiLevelParameters, level: number): number {
  return level === 0 ? Number.POSITIVE_INFINITY : block * 2 ** (ranks.length - 1 - level);
}

/** The first dimension of each level, and D after the last. */
export function levelOffsets({ ranks }: MultiLevelParameters): number[] {
  const offsets = [0];
  for (const rank of ranks) offsets.push(offsets.at(-1)! + rank);
  return offsets;
}

/** Keys that the cache of a level holds after `position` tokens: those of the block that is not yet full. */
export function cachedKeys(parameters: MultiLevelParameters, level: number, position: number): number {
  return level === 0 ? position : position % blockLength(parameters, level);
}

/**
 * Attributes as they stand on a node. `scale` and `causal_offset` are left out when they follow from the
 * shapes at run time.
 */
export function attributesOf(parameters: MultiLevelParameters): Attributes {
  return {
    ...(parameters.scale === null ? {} : { scale: parameters.scale }),
    causal: Number(parameters.causal),
    ...(parameters.causalOffset === null ? {} : { causal_offset: parameters.causalOffset }),
    ranks: parameters.ranks,
    block: parameters.block,
    level_scale: parameters.levelScale,
    divide: parameters.divide,
  };
}

/** Inverse of {@link attributesOf}, for attributes that `operator.ts` has validated. */
export function parametersOf(attributes: Attributes): MultiLevelParameters {
  const optional = (name: string) => (attributes[name] === undefined ? null : Number(attributes[name]));
  return {
    scale: optional('scale'),
    causal: Number(attributes.causal) !== 0,
    causalOffset: optional('causal_offset'),
    ranks: attributes.ranks as readonly number[],
    block: Number(attributes.block),
    levelScale: attributes.level_scale as readonly number[],
    divide: attributes.divide as Divide,
  };
}
