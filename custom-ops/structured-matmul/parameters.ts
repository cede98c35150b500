import type { Attributes } from '../operator.js';

/** Names of structures, as the attribute `kind` has them. */
export const STRUCTURE_KINDS = [
  'low-rank',
  'kronecker',
  'monarch',
  'block-tensor-train',
  'multi-level-low-rank',
  'multi-level-block-tensor-contraction',
  'butterfly',
] as const;

export type StructureKind = (typeof STRUCTURE_KINDS)[number];

/**
 * One level of a Multi-Level Block Tensor Contraction: the input in `inputPieces` pieces, each mapped by a block
 * of the right factor; the results, regrouped where `permuted`, mapped by the blocks of the left factor to
 * `outputPieces` pieces of the output.
 */
export interface Level {
  readonly inputPieces: number;
  readonly outputPieces: number;
  /** Of each block where not permuted; of each pair of an input and an output piece where permuted. */
  readonly rank: number;
  /** Whether every output piece takes from every input piece, and output pieces lie interleaved. */
  readonly permuted: boolean;
  readonly scale: number;
}

/** The attributes of one StructuredMatMul node (README, "Attributes"), typed. */
export interface Structure {
  readonly kind: StructureKind;
  readonly inFeatures: number;
  readonly outFeatures: number;
  /** Empty for a butterfly. */
  readonly levels: readonly Level[];
}

/** Levels that one node may have: two inputs each. */
export const MOST_LEVELS = 8;

/** Dimensions of the factors, in the order of the operator's inputs after x. */
export function factorShapes(structure: Structure): readonly (readonly number[])[] {
  const { kind, inFeatures, outFeatures, levels } = structure;
  if (kind === 'butterfly') return [[stages(structure), inFeatures / 2, 2, 2]];
  return levels.flatMap(({ inputPieces, outputPieces, rank, permuted }) => {
    const [piece, outputPiece] = [inFeatures / inputPieces, outFeatures / outputPieces];
    if (kind === 'kronecker') {
      return [
        [outputPiece, inputPieces],
        [outputPieces, piece],
      ];
    }
    return [
      [outputPieces, permuted ? inputPieces * rank : rank, outputPiece],
      [inputPieces, piece, permuted ? outputPieces * rank : rank],
    ];
  });
}

/** Stages of a butterfly: log2 of its size. */
export function stages({ inFeatures }: Structure): number {
  return Math.log2(inFeatures);
}

/** Numbers that the factors hold. */
export function parameterCount(structure: Structure): number {
  const sizes = factorShapes(structure).map(dims => dims.reduce((product, dim) => product * dim, 1));
  return sizes.reduce((sum, size) => sum + size, 0);
}

/** Multiply-adds of one product with a vector. */
export function multiplyAdds(structure: Structure): number {
  const { kind, inFeatures, levels } = structure;
  if (kind !== 'kronecker') return parameterCount(structure);
  const { inputPieces, outputPieces } = levels[0]!;
  return inFeatures * outputPieces + inputPieces * outputPieces * (structure.outFeatures / outputPieces);
}

/** Why there is no such structure; null where there is one. */
export function structureProblem({ kind, inFeatures, outFeatures, levels }: Structure): string | null {
  if (kind === 'butterfly') {
    const powerOfTwo = inFeatures >= 2 && Number.isInteger(Math.log2(inFeatures));
    if (!powerOfTwo || inFeatures !== outFeatures) return 'a butterfly is square, its size a power of two';
    return levels.length > 0 ? 'a butterfly has no levels' : null;
  }
  const most = kind.startsWith('multi-level') ? MOST_LEVELS : 1;
  if (levels.length < 1 || levels.length > most) return `${kind} has 1 to ${most} levels`;
  for (const { inputPieces, outputPieces, rank, permuted } of levels) {
    if (inFeatures % inputPieces !== 0) return `${inFeatures} inputs do not fall into ${inputPieces} pieces`;
    if (outFeatures % outputPieces !== 0) {
      return `${outFeatures} outputs do not fall into ${outputPieces} pieces`;
    }
    if (!permuted && inputPieces !== outputPieces) {
      return 'a level that is not permuted has as many output pieces as input pieces';
    }
    if (kind === 'low-rank' && (inputPieces !== 1 || outputPieces !== 1)) {
      return 'low-rank has one piece on either side';
    }
    if ((kind === 'monarch' || kind === 'kronecker') && rank !== 1) return `${kind} has rank 1`;
    const expected = PERMUTED[kind];
    if (expected !== undefined && permuted !== expected) {
      return `levels of ${kind} are ${expected ? '' : 'not '}permuted`;
    }
  }
  return null;
}

/** Whether the levels of a kind are permuted; absent where each may be or not. */
const PERMUTED: Readonly<Partial<Record<StructureKind, boolean>>> = {
  'low-rank': false,
  kronecker: true,
  monarch: true,
  'block-tensor-train': true,
  'multi-level-low-rank': false,
};

export function attributesOf({ kind, inFeatures, outFeatures, levels }: Structure): Attributes {
  return {
    kind,
    in_features: inFeatures,
    out_features: outFeatures,
    input_pieces: levels.map(level => level.inputPieces),
    output_pieces: levels.map(level => level.outputPieces),
    ranks: levels.map(level => level.rank),
    permuted: levels.map(level => Number(level.permuted)),
    level_scale: levels.map(level => level.scale),
  };
}

/** Inverse of {@link attributesOf}, for attributes that `operator.ts` has validated. */
export function structureOf(attributes: Attributes): Structure {
  const list = (name: string) => attributes[name] as readonly number[];
  return {
    kind: attributes.kind as StructureKind,
    inFeatures: Number(attributes.in_features),
    outFeatures: Number(attributes.out_features),
    levels: list('ranks').map((rank, n) => ({
      inputPieces: list('input_pieces')[n]!,
      outputPieces: list('output_pieces')[n]!,
      rank,
      permuted: list('permuted')[n] !== 0,
      scale: list('level_scale')[n]!,
    })),
  };
}
