import { float16ToFloat32, float32ToFloat16 } from '../../rewriter/onnx/float16.js';
import type { Tensor } from '../operator.js';
import { SeededRandom } from '../seeded-random.js';
import type { LocalParameters } from './parameters.js';
import type { LocalInputs } from './reference.js';

/** The cases on which every form of LocalAttention is compared with `reference.ts`. */
export interface LocalCase {
  readonly name: string;
  readonly batch: number;
  readonly queryHeads: number;
  readonly kvHeads: number;
  readonly queries: number;
  readonly keys: number;
  readonly headDim: number;
  readonly valueDim: number;
  readonly parameters: LocalParameters;
  /**
   * `random`: about a third hidden; `first`: the first keys hidden, so that early rows come out empty; `all`:
   * everything of the last batch row hidden.
   */
  readonly keyMask: 'none' | 'random' | 'first' | 'all';
  /** Inputs are rounded to float16 and given as such; compare at the float16 tolerance. */
  readonly float16: boolean;
}

/**
 * The same sizes with a window to both sides and with one that ends at the row itself.
 * @param reach how far a row sees to a side
 */
function both(
  name: string,
  queries: number,
  reach: number,
  shape: Partial<Omit<LocalCase, 'name' | 'parameters'>> = {},
  changes: Partial<LocalParameters> = {},
): LocalCase[] {
  return [false, true].map(causal => ({
    name: `${causal ? 'causal' : 'acausal'} ${name}`,
    batch: 1,
    queryHeads: 2,
    kvHeads: 2,
    queries,
    keys: queries,
    headDim: 16,
    valueDim: 8,
    keyMask: 'none',
    float16: false,
    ...shape,
    parameters: { scale: null, left: reach, right: causal ? 0 : reach, offset: null, ...changes },
  }));
}

/** Name, seed by name, inputs by {@link caseInputs}: add cases freely, none depends on another. */
export const LOCAL_CASES: readonly LocalCase[] = [
  ...both('window', 200, 20),
  ...both('window of a chunk', 256, 64),
  ...both('window longer than a chunk', 700, 300),
  ...both('window longer than the sequence', 90, 1000),
  ...both('window of the row alone', 70, 0),
  ...both('window of a neighbor', 130, 1),
  ...both('ragged', 333, 57),
  ...both('uneven', 150, 30, {}, { right: 5 }),
  ...both('all before', 150, 30, {}, { left: null }),
  ...both('all after', 150, 30, {}, { right: null }),
  ...both('everything', 150, 30, {}, { left: null, right: null }),
  ...both('given scale', 100, 12, {}, { scale: 0.7 }),
  ...both('grouped heads', 110, 15, { batch: 2, queryHeads: 4, kvHeads: 2 }),
  ...both('one key head', 110, 15, { queryHeads: 3, kvHeads: 1 }),
  ...both('value size', 90, 15, { valueDim: 20 }),
  ...both('value size one', 90, 15, { valueDim: 1, headDim: 5 }),
  ...both('head of 64', 140, 40, { headDim: 64, valueDim: 64 }),
  ...both('random mask', 150, 25, { batch: 2, keyMask: 'random' }),
  ...both('random mask, grouped', 150, 25, { batch: 2, queryHeads: 4, keyMask: 'random' }),
  ...both('first keys hidden', 100, 8, { keyMask: 'first' }),
  ...both('everything hidden', 60, 8, { batch: 2, keyMask: 'all' }),
  ...both('nothing', 0, 8),
  ...both('one token', 1, 8),
  ...both('no queries', 0, 8, { keys: 40 }),
  ...both('no keys', 7, 8, { keys: 0 }),
  ...both('one query', 1, 33, { keys: 150 }),
  ...both('fewer queries', 30, 33, { keys: 150 }),
  ...both('many fewer queries', 130, 33, { keys: 1150 }),
  ...both('more queries than keys', 90, 20, { keys: 50 }),
  ...both('upper left', 60, 20, { keys: 150 }, { offset: 0 }),
  ...both('beyond the keys', 60, 20, { keys: 50 }, { offset: 40 }),
  ...both('float16', 150, 30, { float16: true }),
  ...both('float16, grouped', 150, 30, { float16: true, queryHeads: 4, keyMask: 'random' }),
];

/** The inputs of a case, the same on every call. */
export function caseInputs({ name, batch, queryHeads, kvHeads, ...shared }: LocalCase): LocalInputs {
  const random = SeededRandom.named(name);
  const { queries, keys, headDim, valueDim } = shared;
  const tensor = (heads: number, rows: number, size: number): Tensor => {
    const data = random.normals(batch * heads * rows * size);
    return {
      dims: [batch, heads, rows, size],
      data: shared.float16 ? float16ToFloat32(float32ToFloat16(data)) : data,
    };
  };
  const isVisible: Record<LocalCase['keyMask'], (b: number, n: number) => boolean> = {
    none: () => true,
    random: () => random.uniform() < 0.67,
    first: (_, n) => n >= 20,
    all: b => b < batch - 1,
  };
  const keyMask = Uint8Array.from({ length: batch * keys }, (_, at) =>
    Number(isVisible[shared.keyMask](Math.floor(at / keys), at % keys)),
  );
  return {
    query: tensor(queryHeads, queries, headDim),
    key: tensor(kvHeads, keys, headDim),
    value: tensor(kvHeads, keys, valueDim),
    ...(shared.keyMask === 'none' ? {} : { keyMask }),
  };
}
