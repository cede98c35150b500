import { float16ToFloat32, float32ToFloat16 } from '../../rewriter/onnx/float16.js';
import type { Tensor } from '../operator.js';
import { SeededRandom } from '../seeded-random.js';
import { factorShapes, type Structure } from './parameters.js';
import { blockTensorTrain, butterfly, kronecker, lowRank, monarch, multiLevelLowRank } from './structures.js';

/** The cases on which every form of StructuredMatMul is compared with `reference.ts`. */
export interface StructuredMatMulCase {
  readonly name: string;
  readonly structure: Structure;
  /** Of x before its last axis. */
  readonly leading: readonly number[];
  /** Inputs are rounded to float16 and given as such; compare at the float16 tolerance. */
  readonly float16: boolean;
}

function shaped(
  name: string,
  structure: Structure,
  leading: readonly number[] = [2, 17],
  float16 = false,
): StructuredMatMulCase {
  return { name, structure, leading, float16 };
}

/** Permuted and block-diagonal levels of different scales in one sum. */
const CONTRACTION: Structure = {
  kind: 'multi-level-block-tensor-contraction',
  inFeatures: 24,
  outFeatures: 36,
  levels: [
    { inputPieces: 4, outputPieces: 6, rank: 2, permuted: true, scale: 1 },
    { inputPieces: 1, outputPieces: 1, rank: 3, permuted: false, scale: -0.5 },
    { inputPieces: 12, outputPieces: 12, rank: 1, permuted: false, scale: 2 },
    { inputPieces: 3, outputPieces: 2, rank: 1, permuted: true, scale: 0.25 },
  ],
};

/** Name, seed by name, inputs by {@link caseInputs}: add cases freely, none depends on another. */
export const STRUCTURED_MATMUL_CASES: readonly StructuredMatMulCase[] = [
  shaped('low-rank', lowRank(32, 32, 5)),
  shaped('low-rank, wide', lowRank(20, 7, 3)),
  shaped('low-rank of rank one', lowRank(5, 9, 1)),
  shaped('multi-level low-rank', multiLevelLowRank(32, 32, [8, 4, 2, 2])),
  shaped('multi-level low-rank, rectangular', multiLevelLowRank(24, 40, [3, 2, 1, 1])),
  shaped('Block Tensor Train', blockTensorTrain(64, 64, 4, 16, 2)),
  shaped('Block Tensor Train, rectangular', blockTensorTrain(30, 42, 5, 7, 3)),
  shaped('Block Tensor Train, one piece', blockTensorTrain(12, 10, 1, 1, 4)),
  shaped('monarch', monarch(64, 64, 8, 8)),
  shaped('monarch, rectangular', monarch(18, 20, 6, 4)),
  shaped('Kronecker', kronecker(64, 64, 8, 8)),
  shaped('Kronecker, rectangular', kronecker(30, 28, 5, 4)),
  shaped('butterfly', butterfly(64)),
  shaped('butterfly of two', butterfly(2)),
  shaped('contraction of several levels', CONTRACTION),
  shaped('a vector', monarch(64, 64, 8, 8), []),
  shaped('one row', blockTensorTrain(30, 42, 5, 7, 3), [1]),
  shaped('four axes', multiLevelLowRank(24, 40, [3, 2]), [2, 3, 5]),
  shaped('no rows', lowRank(20, 7, 3), [0]),
  shaped('no rows of several axes', monarch(18, 20, 6, 4), [2, 0, 3]),
  shaped('no rows through a butterfly', butterfly(8), [3, 0]),
  shaped('many rows', blockTensorTrain(96, 80, 8, 10, 2), [3, 211]),
  shaped('float16', blockTensorTrain(64, 64, 4, 16, 1), [2, 17], true),
];

/** Numbers of one input that a factor sums up. */
function terms({ kind }: Structure, dims: readonly number[]): number {
  return kind === 'butterfly' ? 2 : dims[1]!;
}

/** The inputs of a case, the same on every call: x of unit variance, factors that keep it near that. */
export function caseInputs({ name, structure, leading, float16 }: StructuredMatMulCase): {
  readonly x: Tensor;
  readonly factors: readonly Tensor[];
} {
  const random = SeededRandom.named(name);
  const tensor = (dims: readonly number[], spread: number): Tensor => {
    const data = random.normals(dims.reduce((product, dim) => product * dim, 1)).map(x => x * spread);
    return { dims, data: float16 ? float16ToFloat32(float32ToFloat16(data)) : data };
  };
  return {
    x: tensor([...leading, structure.inFeatures], 1),
    factors: factorShapes(structure).map(dims => tensor(dims, 1 / Math.sqrt(terms(structure, dims)))),
  };
}
