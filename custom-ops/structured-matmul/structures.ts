import type { Level, Structure } from './parameters.js';

/** Structures by name, each for a matrix of `outFeatures` rows and `inFeatures` columns. */

const WHOLE: Level = { inputPieces: 1, outputPieces: 1, rank: 1, permuted: false, scale: 1 };

/** L R^T of rank `rank`. */
export function lowRank(inFeatures: number, outFeatures: number, rank: number): Structure {
  return { kind: 'low-rank', inFeatures, outFeatures, levels: [{ ...WHOLE, rank }] };
}

/**
 * The sum over levels l of block-diagonal matrices of 2^l blocks, each of rank ranks[l]: papers' MLR.
 * 2^(levels - 1) has to divide both sizes.
 */
export function multiLevelLowRank(
  inFeatures: number,
  outFeatures: number,
  ranks: readonly number[],
): Structure {
  const levels = ranks.map((rank, level) => {
    const pieces = 2 ** level;
    return { ...WHOLE, inputPieces: pieces, outputPieces: pieces, rank };
  });
  return { kind: 'multi-level-low-rank', inFeatures, outFeatures, levels };
}

/** Block Tensor Train: each block that joins an input and an output piece has rank `rank`. */
export function blockTensorTrain(
  inFeatures: number,
  outFeatures: number,
  inputPieces: number,
  outputPieces: number,
  rank: number,
): Structure {
  const level = { inputPieces, outputPieces, rank, permuted: true, scale: 1 };
  return { kind: 'block-tensor-train', inFeatures, outFeatures, levels: [level] };
}

/** A Block Tensor Train of rank 1. */
export function monarch(
  inFeatures: number,
  outFeatures: number,
  inputPieces: number,
  outputPieces: number,
): Structure {
  return { ...blockTensorTrain(inFeatures, outFeatures, inputPieces, outputPieces, 1), kind: 'monarch' };
}

/** A (x) B with A [outFeatures / outputPieces, inputPieces] and B [outputPieces, inFeatures / inputPieces]. */
export function kronecker(
  inFeatures: number,
  outFeatures: number,
  inputPieces: number,
  outputPieces: number,
): Structure {
  return { ...monarch(inFeatures, outFeatures, inputPieces, outputPieces), kind: 'kronecker' };
}

/** log2(size) stages of 2 x 2 blocks; stage s joins entries whose indices differ in bit s. */
export function butterfly(size: number): Structure {
  return { kind: 'butterfly', inFeatures: size, outFeatures: size, levels: [] };
}
