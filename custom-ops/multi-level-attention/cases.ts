import { float16ToFloat32, float32ToFloat16 } from '../../rewriter/onnx/float16.js';
import type { Tensor } from '../operator.js';
import { SeededRandom } from '../seeded-random.js';
import { type MultiLevelParameters, plainParameters } from './parameters.js';
import { type MultiLevelCache, type MultiLevelInputs, multiLevelAttention } from './reference.js';

/** The cases on which every form of MultiLevelAttention is compared with `reference.ts`. */
export interface MultiLevelCase {
  readonly name: string;
  readonly batch: number;
  readonly queryHeads: number;
  readonly kvHeads: number;
  readonly queries: number;
  /** Keys of this call, without those of the past. */
  readonly keys: number;
  /** Tokens in the cache; null = its inputs are not connected. */
  readonly past: number | null;
  readonly valueDim: number;
  readonly parameters: MultiLevelParameters;
  /**
   * `random`: about a third hidden; `first`: the first keys hidden, so that causal rows come out empty; `all`:
   * everything of the last batch row hidden.
   */
  readonly keyMask: 'none' | 'random' | 'first' | 'all';
  /** Inputs are rounded to float16 and given as such; compare at the float16 tolerance. */
  readonly float16: boolean;
}

type Shape = Partial<Omit<MultiLevelCase, 'name' | 'parameters'>>;

const EIGHT = [2, 2, 2, 2, 2, 2, 2, 2];
const FALLING = [10, 4, 1, 1];

function shapedCase(
  name: string,
  queries: number,
  ranks: readonly number[],
  block: number,
  shape: Shape = {},
  changes: Partial<MultiLevelParameters> = {},
): MultiLevelCase {
  return {
    name,
    batch: 1,
    queryHeads: 2,
    kvHeads: 2,
    queries,
    keys: queries,
    past: null,
    valueDim: 8,
    keyMask: 'none',
    float16: false,
    ...shape,
    parameters: plainParameters(ranks, block, changes),
  };
}

/** The same case with and without causality. */
function both(
  ...[name, queries, ranks, block, shape, changes]: Parameters<typeof shapedCase>
): MultiLevelCase[] {
  return [false, true].map(causal =>
    shapedCase(`${causal ? 'causal' : 'acausal'} ${name}`, queries, ranks, block, shape, {
      ...changes,
      causal,
    }),
  );
}

/** Name, seed by name, inputs by {@link caseInputs}: add cases freely, none depends on another. */
export const MULTI_LEVEL_CASES: readonly MultiLevelCase[] = [
  ...both('one level', 70, [16], 16),
  ...both('two levels', 128, [12, 4], 64),
  ...both('two levels, ragged', 117, [12, 4], 50),
  ...both('four levels', 160, FALLING, 20),
  ...both('four levels, small blocks', 150, FALLING, 5),
  ...both('eight levels', 256, EIGHT, 2),
  ...both('eight levels, ragged', 203, EIGHT, 3),
  ...both('eight levels, blocks of one', 131, EIGHT, 1),
  ...both('three levels', 90, [5, 3, 9], 16),
  ...both('past the last whole block', 300, [8, 4, 4], 32),
  ...both('more blocks than levels tell', 600, [8, 8], 64),
  ...both('level scale', 130, FALLING, 20, {}, { levelScale: [1, 0.5, 2, -1.5] }),
  ...both('given scale', 100, [8, 8], 32, {}, { scale: 0.7 }),
  ...both('divide by count', 130, FALLING, 20, {}, { divide: 'count' }),
  ...both('divide by shared', 130, FALLING, 20, {}, { divide: 'shared' }),
  ...both('divide by shared, small blocks', 150, EIGHT, 2, { keyMask: 'random' }, { divide: 'shared' }),
  ...both('grouped heads', 110, [8, 8], 32, { batch: 2, queryHeads: 4, kvHeads: 2 }),
  ...both('one key head', 110, [8, 4, 4], 16, { queryHeads: 3, kvHeads: 1 }),
  ...both('value size', 90, [8, 8], 32, { valueDim: 20 }),
  ...both('value size one', 90, [3, 2], 32, { valueDim: 1 }),
  ...both('random mask', 150, FALLING, 20, { batch: 2, keyMask: 'random' }),
  ...both('random mask, small blocks', 150, EIGHT, 3, { batch: 2, keyMask: 'random' }),
  ...both('first keys hidden', 100, [8, 8], 16, { keyMask: 'first' }),
  ...both('everything hidden', 60, [8, 8], 16, { batch: 2, keyMask: 'all' }),
  ...both('nothing', 0, [8, 8], 16),
  ...both('one token', 1, [8, 8], 16),
  ...both('two tokens', 2, [8, 8], 1),
  ...both('no queries', 0, [8, 8], 16, { keys: 40 }),
  ...both('no keys', 7, [8, 8], 16, { keys: 0 }),
  ...both('fewer queries', 30, FALLING, 16, { keys: 150 }),
  ...both('one query', 1, FALLING, 16, { keys: 150 }),
  ...both('more queries than keys', 90, FALLING, 8, { keys: 50 }),
  ...both('upper left', 60, FALLING, 8, { keys: 150 }, { causalOffset: 0 }),
  ...both('beyond the keys', 60, FALLING, 8, { keys: 50 }, { causalOffset: 70 }),
  ...both('empty cache', 40, FALLING, 8, { past: 0 }),
  ...both('chunk after a cache', 60, FALLING, 16, { past: 90 }),
  ...both('chunk across blocks', 100, FALLING, 16, { past: 33, batch: 2, queryHeads: 4, keyMask: 'random' }),
  ...both('step after whole blocks', 1, FALLING, 16, { past: 128 }),
  ...both('step before a block ends', 1, FALLING, 16, { past: 127 }),
  ...both('step, eight levels', 1, EIGHT, 2, { past: 200 }),
  ...both('step, one key head', 1, [8, 8], 16, { past: 40, queryHeads: 4, kvHeads: 1 }),
  ...both('float16', 150, FALLING, 20, { float16: true }),
  ...both('float16 with a cache', 30, FALLING, 20, { float16: true, past: 55 }),
];

/** The inputs of a case, the same on every call. */
export function caseInputs(shared: MultiLevelCase): MultiLevelInputs {
  const random = SeededRandom.named(shared.name);
  const { batch, queryHeads, kvHeads, queries, keys, past, valueDim, parameters } = shared;
  const headDim = parameters.ranks.reduce((sum, rank) => sum + rank, 0);
  const tensor = (heads: number, rows: number, size: number): Tensor => {
    const data = random.normals(batch * heads * rows * size);
    return {
      dims: [batch, heads, rows, size],
      data: shared.float16 ? float16ToFloat32(float32ToFloat16(data)) : data,
    };
  };
  const cache = past === null ? undefined : cacheOf(tensor, shared, headDim);
  const mask = keyMask(shared, random);
  return {
    query: tensor(queryHeads, queries, headDim),
    key: tensor(kvHeads, keys, headDim),
    value: tensor(kvHeads, keys, valueDim),
    ...(mask && { keyMask: mask }),
    ...(cache && { past: cache }),
  };
}

/** The cache that `past` random tokens leave. */
function cacheOf(
  tensor: (heads: number, rows: number, size: number) => Tensor,
  { kvHeads, queryHeads, past, valueDim, parameters }: MultiLevelCase,
  headDim: number,
): MultiLevelCache {
  const earlier = {
    query: tensor(queryHeads, 0, headDim),
    key: tensor(kvHeads, past ?? 0, headDim),
    value: tensor(kvHeads, past ?? 0, valueDim),
  };
  return multiLevelAttention(earlier, parameters).present;
}

function keyMask({ batch, keys, past, ...shared }: MultiLevelCase, random: SeededRandom): Uint8Array | null {
  const visible: Record<MultiLevelCase['keyMask'], (b: number, n: number) => boolean> = {
    none: () => true,
    random: () => random.uniform() < 0.67,
    first: (_, n) => n >= 10,
    all: b => b < batch - 1,
  };
  if (shared.keyMask === 'none') return null;
  const all = keys + (past ?? 0);
  return Uint8Array.from({ length: batch * all }, (_, at) =>
    Number(visible[shared.keyMask](Math.floor(at / all), at % all)),
  );
}
