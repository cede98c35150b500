import { float16ToFloat32, float32ToFloat16 } from '../../rewriter/onnx/float16.js';
import type { Tensor } from '../operator.js';
import { SeededRandom } from '../seeded-random.js';
import { type BilinearParameters, conventionalScale, levelSize } from './parameters.js';
import type { BilinearInputs } from './reference.js';

/** The cases on which every form of BilinearAttention is compared with `reference.ts`. */
export interface BilinearCase {
  readonly name: string;
  readonly batch: number;
  readonly length: number;
  readonly valueDim: number;
  readonly parameters: BilinearParameters;
  /** `random`: about a third hidden; `first`: the first keys, so that causal rows come out empty; `all`: those of the last batch row. */
  readonly keyMask: 'none' | 'random' | 'first' | 'all';
  /** Whether normalizations have gains of their own. */
  readonly gains: boolean;
  /** Inputs are rounded to float16 and given as such; compare at the float16 tolerance. */
  readonly float16: boolean;
}

type Shape = Partial<Omit<BilinearCase, 'name' | 'parameters'>>;

function complete(parameters: Omit<BilinearParameters, 'levelScale'>): BilinearParameters {
  return { ...parameters, levelScale: conventionalScale(parameters) };
}

/** Block Tensor Train of `features` channels in p input and q output pieces. */
export function trainParameters(
  heads: number,
  features: number,
  [p, q, s]: readonly [number, number, number],
  changes: Partial<BilinearParameters> = {},
): BilinearParameters {
  const pieces = { inputPieces: [p], outputPieces: [q], ranks: [s] };
  const fixed = { normalisation: 'layer', epsilon: 1e-5, causal: false } as const;
  return { ...complete({ kind: 'block-tensor-train', heads, features, ...pieces, ...fixed }), ...changes };
}

/** Levels of 1, 2, 4 ... pieces. */
export function levelParameters(
  heads: number,
  features: number,
  ranks: readonly number[],
  changes: Partial<BilinearParameters> = {},
): BilinearParameters {
  const pieces = ranks.map((_, level) => 2 ** level);
  const shape = { heads, features, inputPieces: pieces, outputPieces: pieces, ranks };
  const fixed = { normalisation: 'layer', epsilon: 1e-5, causal: false } as const;
  return { ...complete({ kind: 'multi-level-low-rank', ...shape, ...fixed }), ...changes };
}

/** The same case with and without causality. */
function both(name: string, parameters: BilinearParameters, shape: Shape = {}): BilinearCase[] {
  return [false, true].map(causal => ({
    name: `${causal ? 'causal' : 'acausal'} ${name}`,
    batch: 1,
    length: 70,
    valueDim: 8,
    keyMask: 'none',
    gains: true,
    float16: false,
    ...shape,
    parameters: { ...parameters, causal },
  }));
}

const TRAIN = trainParameters(2, 32, [4, 8, 1]);
const LEVELS = levelParameters(2, 32, [6, 3, 2, 1]);

/** Name, seed by name, inputs by {@link caseInputs}: add cases freely, none depends on another. */
export const BILINEAR_CASES: readonly BilinearCase[] = [
  ...both('tensor train', TRAIN),
  ...both('tensor train of rank two', trainParameters(3, 30, [5, 6, 2]), { batch: 2, length: 41 }),
  ...both('tensor train of odd pieces', trainParameters(2, 15, [3, 5, 1]), { valueDim: 1 }),
  ...both('tensor train of one piece', trainParameters(1, 12, [1, 1, 4])),
  ...both('tensor train without norm', { ...TRAIN, normalisation: 'none' }, { gains: false }),
  ...both('tensor train without gains', TRAIN, { gains: false }),
  ...both('tensor train, other scale', { ...TRAIN, levelScale: [0.01] }),
  ...both('levels', LEVELS),
  ...both('one level', levelParameters(4, 24, [5]), { batch: 2, valueDim: 20 }),
  ...both('levels, ragged', levelParameters(3, 40, [7, 2, 1]), { length: 131 }),
  ...both('levels without norm', { ...LEVELS, normalisation: 'none' }, { gains: false }),
  ...both('levels by root mean squares', { ...LEVELS, normalisation: 'root-mean-square' }),
  ...both('tensor train by root mean squares', { ...TRAIN, normalisation: 'root-mean-square' }),
  ...both('levels, other scales', { ...LEVELS, levelScale: [0.3, -0.2, 0.1, 1] }),
  ...both('levels, larger epsilon', { ...LEVELS, epsilon: 0.1 }, { gains: false }),
  ...both('several chunks of rows', TRAIN, { length: 600 }),
  ...both('several chunks of rows, levels', LEVELS, { length: 523, batch: 2, keyMask: 'random' }),
  ...both('random mask', TRAIN, { batch: 2, keyMask: 'random' }),
  ...both('first keys hidden', LEVELS, { keyMask: 'first' }),
  ...both('everything hidden', TRAIN, { batch: 2, keyMask: 'all' }),
  ...both('one token', TRAIN, { length: 1 }),
  ...both('no token', LEVELS, { length: 0 }),
  ...both('no token, tensor train', TRAIN, { length: 0, batch: 2 }),
  ...both('float16', TRAIN, { float16: true }),
  ...both('float16, levels', LEVELS, { float16: true }),
];

/** The inputs of a case, the same on every call. */
export function caseInputs(shared: BilinearCase): BilinearInputs {
  const { batch, length, valueDim, parameters, gains, float16 } = shared;
  const { kind, heads, features, inputPieces, outputPieces, ranks, normalisation } = parameters;
  const random = SeededRandom.named(shared.name);
  const tensor = (dims: readonly number[], spread: number, mean = 0): Tensor => {
    const data = random.normals(dims.reduce((product, dim) => product * dim, 1));
    const shifted = data.map(x => mean + x * spread);
    return { dims, data: float16 ? float16ToFloat32(float32ToFloat16(shifted)) : shifted };
  };
  const gain = (size: number) => (gains && normalisation !== 'none' ? tensor([size], 0.2, 1) : undefined);
  const norms = (name: string, size: number) => {
    const values = gain(size);
    return values === undefined ? {} : { [name]: values };
  };
  const mask = keyMask(shared, random);
  const common = {
    x: tensor([batch, length, features], 1),
    value: tensor([batch, heads, length, valueDim], 1),
    ...(mask && { keyMask: mask }),
  };
  if (kind === 'block-tensor-train') {
    const [p, q, s] = [inputPieces[0]!, outputPieces[0]!, ranks[0]!];
    const left = tensor([heads * q, p * s, features / q], (p * s) ** -0.5);
    const right = tensor([p, features / p, heads * q * s], (features / p) ** -0.5);
    return { ...common, train: { left, right, ...norms('keyNorm', features) } };
  }
  const levels = ranks.map((rank, level) => {
    const pieces = inputPieces[level]!;
    const weight = () => tensor([pieces, features / pieces, heads * rank], (features / pieces) ** -0.5);
    const size = levelSize(parameters, level);
    return { query: weight(), key: weight(), ...norms('queryNorm', size), ...norms('keyNorm', size) };
  });
  return { ...common, levels };
}

function keyMask({ batch, length, keyMask: kind }: BilinearCase, random: SeededRandom): Uint8Array | null {
  const visible: Record<BilinearCase['keyMask'], (b: number, n: number) => boolean> = {
    none: () => true,
    random: () => random.uniform() < 0.67,
    first: (_, n) => n >= 10,
    all: b => b < batch - 1,
  };
  if (kind === 'none') return null;
  return Uint8Array.from({ length: batch * length }, (_, at) =>
    Number(visible[kind](Math.floor(at / length), at % length)),
  );
}
