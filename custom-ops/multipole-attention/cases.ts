import { float16ToFloat32, float32ToFloat16 } from '../../rewriter/onnx/float16.js';
import type { Tensor } from '../operator.js';
import { SeededRandom } from '../seeded-random.js';
import { defaultParameters, type MultipoleParameters, PAPER_PARAMETERS } from './parameters.js';
import type { MultipoleInputs } from './reference.js';

/**
 * The cases on which every form of MultipoleAttention (function body, CPU, CUDA, WebGPU) is compared with
 * `reference.ts`. Sizes stay small enough for a software GPU unless `large` is set.
 */
export interface MultipoleCase {
  readonly name: string;
  readonly batch: number;
  readonly queryHeads: number;
  readonly kvHeads: number;
  readonly queries: number;
  readonly keys: number;
  /** Rows of past_query; 0 = input not connected. */
  readonly past: number;
  readonly headDim: number;
  readonly valueDim: number;
  readonly parameters: MultipoleParameters;
  /**
   * `random`: about a third hidden; `padding`: batch row b loses its last keys; `segment`: the second segment
   * hidden; `first`: the first keys hidden, so that causal rows come out empty; `all`: everything of the last
   * batch row hidden.
   */
  readonly keyMask: 'none' | 'random' | 'padding' | 'segment' | 'first' | 'all';
  /** `clustered`: points far closer to their cluster than clusters to each other, so no choice is close. */
  readonly data: 'normal' | 'clustered';
  /** Inputs are rounded to float16 and given as such; compare at the float16 tolerance. */
  readonly float16: boolean;
  /** Too slow for a software GPU. */
  readonly large: boolean;
}

type Shape = Partial<Omit<MultipoleCase, 'name' | 'parameters'>>;

const SMALL = {
  segment: 32,
  keyClusters: 4,
  keyGrouping: 'kmeans',
  queryClusters: 8,
  retrieve: [4],
  retrieveError: 0,
  group: 8,
} satisfies Partial<MultipoleParameters>;

/** A self-attention case of SMALL parameters; `queries` stands for the keys too unless they are given. */
function small(
  name: string,
  causal: boolean,
  queries: number,
  shape: Shape = {},
  changes: Partial<MultipoleParameters> = {},
): MultipoleCase {
  return {
    name: `${causal ? 'causal' : 'acausal'} ${name}`,
    batch: 1,
    queryHeads: 2,
    kvHeads: 2,
    queries,
    keys: queries,
    past: 0,
    headDim: 16,
    valueDim: 16,
    keyMask: 'none',
    data: 'normal',
    float16: false,
    large: false,
    ...shape,
    parameters: { ...defaultParameters(causal), ...SMALL, window: causal ? 0 : 1, ...changes },
  };
}

const acausal = (name: string, queries: number, shape?: Shape, changes?: Partial<MultipoleParameters>) =>
  small(name, false, queries, shape, changes);
const causal = (name: string, queries: number, shape?: Shape, changes?: Partial<MultipoleParameters>) =>
  small(name, true, queries, shape, changes);

const GLOBAL = { segment: 0, window: 0, keyClusters: 16 } satisfies Partial<MultipoleParameters>;
const CONTRACTED = {
  ...GLOBAL,
  retrieve: [0],
  order: 1,
  contracted: true,
} satisfies Partial<MultipoleParameters>;
const CLUSTERED = { data: 'clustered', valueDim: 8 } satisfies Shape;

/** Name, seed by name, inputs by {@link caseInputs}: add cases freely, none depends on another. */
export const MULTIPOLE_CASES: readonly MultipoleCase[] = [
  acausal('whole segments', 160),
  acausal('ragged', 151),
  acausal('narrow window', 143, {}, { window: 0 }),
  acausal('wide window', 203, {}, { window: 2 }),
  acausal('group not dividing the segment', 133, {}, { segment: 20, group: 8 }),
  acausal('group larger than the segment', 133, {}, { segment: 20, group: 64 }),
  acausal('segment of one key', 19, {}, { segment: 1, keyClusters: 2, group: 4 }),
  acausal(
    'default parameters',
    600,
    { headDim: 8, valueDim: 8 },
    { ...defaultParameters(false), window: 0, retrieve: [3] },
  ),
  acausal('grouped heads', 130, { batch: 2, queryHeads: 4, kvHeads: 2 }),
  acausal('one key head', 101, { queryHeads: 3, kvHeads: 1, headDim: 8 }),
  acausal('value size', 150, { headDim: 8, valueDim: 20 }),
  acausal('value size one', 120, { headDim: 5, valueDim: 1 }),
  acausal('given scale', 150, {}, { scale: 0.7 }),
  acausal('one iteration', 150, {}, { iterations: 1 }),
  acausal('one cluster', 150, {}, { keyClusters: 1, queryClusters: 1, retrieve: [1] }),
  acausal('contiguous', 151, {}, { keyGrouping: 'contiguous' }),
  acausal('contiguous ragged runs', 131, {}, { keyGrouping: 'contiguous', segment: 20, keyClusters: 8 }),
  acausal('no retrieval', 151, {}, { retrieve: [0] }),
  acausal('retrieve all', 90, {}, { retrieve: [1000] }),
  acausal('retrieve exact', 90, { keyMask: 'random' }, { retrieve: [-1] }),
  acausal('retrieve per head', 151, { queryHeads: 4, kvHeads: 2 }, { retrieve: [0, 3, 5, 16] }),
  acausal('retrieve per head, some exact', 151, { queryHeads: 4, kvHeads: 2 }, { retrieve: [-1, 3, -1, 0] }),
  acausal('retrieve mass', 151, {}, { retrieveMass: 0.1 }),
  acausal('retrieve error', 151, { queryHeads: 4, kvHeads: 2 }, { retrieve: [20], retrieveError: 0.01 }),
  acausal('retrieve error, most', 151, { keyMask: 'random' }, { retrieve: [-1, 3], retrieveError: 1e-9 }),
  acausal('cluster, error', 151, {}, { selection: 'cluster', retrieveError: 0.02 }),
  acausal('sliding, error', 151, {}, { selection: 'sliding', retrieveError: 0.02 }),
  acausal(
    'sliding, error, most',
    151,
    { keyMask: 'random' },
    { selection: 'sliding', retrieve: [3], retrieveError: 1e-6 },
  ),
  acausal('sliding', 151, {}, { selection: 'sliding' }),
  acausal('cluster', 151, {}, { selection: 'cluster' }),
  acausal('cluster, masked', 151, { batch: 2, keyMask: 'random' }, { selection: 'cluster', group: 16 }),
  acausal('cluster, mass', 151, {}, { selection: 'cluster', retrieveMass: 0.2 }),
  acausal('random mask', 151, { batch: 2, keyMask: 'random' }),
  acausal('random mask, contiguous', 151, { batch: 2, keyMask: 'random' }, { keyGrouping: 'contiguous' }),
  acausal('padding', 151, { batch: 3, keyMask: 'padding' }),
  acausal('a hidden segment', 151, { keyMask: 'segment' }),
  acausal('everything hidden', 100, { batch: 2, keyMask: 'all' }),
  acausal('below exact_below', 90, { keyMask: 'random' }, { exactBelow: 91 }),
  acausal('at exact_below', 90, {}, { exactBelow: 90 }),
  acausal('below exact_below_rows', 40, { keys: 90 }, { exactBelowRows: 41 }),
  acausal('nothing', 0),
  acausal('one token', 1),
  acausal('two tokens', 2),
  acausal('three tokens', 3, { keyMask: 'random' }),
  acausal('shorter than a segment', 27),
  acausal('fewer keys than clusters', 38, {}, { window: 0 }),
  acausal('no queries', 0, { keys: 40 }),
  acausal('no keys', 7, { keys: 0 }),
  acausal('cross, longer keys', 50, { keys: 150 }),
  acausal('cross, longer queries', 150, { keys: 50, keyMask: 'random' }),
  acausal('cross, one query', 1, { keys: 70 }),
  acausal('cross, one key', 40, { keys: 1 }),
  acausal('cross, sliding', 70, { keys: 90 }, { selection: 'sliding' }),
  acausal('cross, cluster', 70, { keys: 90 }, { selection: 'cluster' }),
  acausal('past queries', 60, { keys: 150, past: 90 }),
  acausal('global', 150, {}, { ...GLOBAL, retrieve: [0] }),
  acausal('global with retrieval', 150, { batch: 2, keyMask: 'padding' }, GLOBAL),
  acausal('global, error', 151, { batch: 2, keyMask: 'padding' }, { ...GLOBAL, retrieveError: 0.03 }),
  acausal('global, cluster', 150, {}, { ...GLOBAL, selection: 'cluster' }),
  acausal('global, contiguous', 151, {}, { ...GLOBAL, keyGrouping: 'contiguous' }),
  acausal('global, fewer keys than clusters', 11, {}, GLOBAL),
  acausal('paper preset', 200, { headDim: 8, valueDim: 8 }, PAPER_PARAMETERS),
  acausal('clustered', 160, CLUSTERED),
  acausal('clustered, ragged and masked', 150, { ...CLUSTERED, keyMask: 'padding', batch: 2 }),
  acausal('clustered, cluster', 160, CLUSTERED, { selection: 'cluster' }),
  acausal('clustered, global', 160, CLUSTERED, { ...GLOBAL, retrieve: [2] }),
  acausal('float16', 150, { float16: true }),
  acausal('float16, clustered', 150, { ...CLUSTERED, float16: true, keyMask: 'padding', batch: 2 }),
  acausal('order 1', 120, {}, { order: 1 }),
  acausal('order 2', 120, {}, { order: 2 }),
  acausal('contracted', 120, {}, CONTRACTED),
  acausal('dyadic', 290, { headDim: 8, valueDim: 8 }, { segment: 16, hierarchy: 'dyadic' }),
  acausal(
    'dyadic, contiguous, masked',
    290,
    { headDim: 8, valueDim: 8, keyMask: 'random' },
    {
      segment: 16,
      hierarchy: 'dyadic',
      keyGrouping: 'contiguous',
      window: 0,
    },
  ),
  acausal(
    'dyadic, more segments than retrieve',
    290,
    { headDim: 8, valueDim: 8, queryHeads: 3, kvHeads: 1 },
    { segment: 8, hierarchy: 'dyadic', keyGrouping: 'contiguous', retrieve: [1, 3, 11] },
  ),
  acausal('contracted, masked', 130, { batch: 2, queryHeads: 4, keyMask: 'all' }, CONTRACTED),
  acausal('contracted, cross', 90, { keys: 140, valueDim: 8 }, CONTRACTED),
  acausal('dyadic, short', 90, {}, { hierarchy: 'dyadic' }),
  acausal('dyadic, cross', 60, { keys: 150 }, { segment: 16, hierarchy: 'dyadic' }),
  acausal('dyadic, grouped heads', 170, { queryHeads: 4 }, { segment: 8, window: 2, hierarchy: 'dyadic' }),
  acausal('dyadic, sliding', 170, {}, { segment: 8, hierarchy: 'dyadic', selection: 'sliding' }),
  acausal('dyadic, cluster', 170, {}, { segment: 8, hierarchy: 'dyadic', selection: 'cluster' }),
  acausal(
    'large',
    1100,
    { queryHeads: 4, kvHeads: 2, headDim: 64, valueDim: 64, large: true },
    {
      ...defaultParameters(false),
      keyGrouping: 'kmeans',
      window: 0,
      retrieve: [8],
    },
  ),

  causal('whole segments', 160),
  causal('ragged', 151),
  causal('many blocks', 203, { headDim: 8, valueDim: 8 }, { segment: 8, keyClusters: 2, retrieve: [6] }),
  causal('window', 203, {}, { window: 2 }),
  causal('group larger than the segment', 101, {}, { segment: 8, keyClusters: 2, group: 20 }),
  causal('group of one', 151, {}, { group: 1 }),
  causal('grouped heads', 130, { batch: 2, queryHeads: 4, kvHeads: 2 }),
  causal('value size', 150, { headDim: 8, valueDim: 20 }),
  causal('contiguous', 151, {}, { keyGrouping: 'contiguous' }),
  causal('no retrieval', 151, {}, { retrieve: [0] }),
  causal('retrieve exact', 90, { keyMask: 'random' }, { retrieve: [-1] }),
  causal('retrieve per head, some exact', 151, { queryHeads: 4, kvHeads: 2 }, { retrieve: [4, -1, 0, 8] }),
  causal('retrieve mass', 151, {}, { retrieveMass: 0.1 }),
  causal('retrieve error', 203, { keyMask: 'random' }, { segment: 16, retrieve: [20], retrieveError: 0.01 }),
  causal(
    'retrieve error per head',
    203,
    { queryHeads: 4, kvHeads: 2 },
    { segment: 16, retrieve: [2, -1, 0, 40], retrieveError: 0.001 },
  ),
  causal('retrieve error, contiguous', 151, {}, { keyGrouping: 'contiguous', retrieveError: 0.05 }),
  causal('retrieve error, no prefix', 60, { keys: 150 }, { retrieveError: 0.05 }),
  causal('tile, error', 151, {}, { selection: 'tile', retrieveError: 0.05 }),
  causal('tile', 151, {}, { selection: 'tile' }),
  causal('cluster', 151, {}, { selection: 'cluster' }),
  causal('random mask', 151, { batch: 2, keyMask: 'random' }),
  causal('padding', 151, { batch: 3, keyMask: 'padding' }),
  causal('first keys hidden', 151, { keyMask: 'first' }),
  causal('everything hidden', 100, { batch: 2, keyMask: 'all' }),
  causal('below exact_below', 90, { keyMask: 'first' }, { exactBelow: 1000 }),
  causal('nothing', 0),
  causal('one token', 1),
  causal('two tokens', 2),
  causal('shorter than a segment', 27),
  causal('one token after a segment', 33),
  causal('no queries', 0, { keys: 40 }),
  causal('no keys', 7, { keys: 0 }),
  causal('chunk without past', 60, { keys: 150 }),
  causal('chunk with past', 60, { keys: 150, past: 90 }),
  causal('chunk with short past', 60, { keys: 150, past: 20 }),
  causal('chunk, tile', 60, { keys: 150, past: 90 }, { selection: 'tile' }),
  causal('one query after many', 1, { keys: 150, past: 149 }),
  causal('chunk below exact_below_rows', 30, { keys: 150, queryHeads: 4 }, { exactBelowRows: 31 }),
  causal('chunk at exact_below_rows', 30, { keys: 150, keyMask: 'random' }, { exactBelowRows: 30 }),
  causal('more queries than keys', 90, { keys: 50 }),
  causal('upper left', 60, { keys: 150 }, { causalOffset: 0 }),
  causal('beyond the keys', 60, { keys: 50 }, { causalOffset: 70 }),
  causal('clustered', 160, CLUSTERED, { queryClusters: 2 }),
  causal('clustered, masked', 150, { ...CLUSTERED, keyMask: 'padding', batch: 2 }, { queryClusters: 2 }),
  causal('float16', 150, { float16: true }),
  causal('order 1', 120, {}, { order: 1 }),
  causal('dyadic', 290, { headDim: 8, valueDim: 8 }, { segment: 16, hierarchy: 'dyadic' }),
  causal('dyadic, no retrieval', 150, {}, { segment: 8, retrieve: [0], hierarchy: 'dyadic' }),
  causal(
    'dyadic, masked',
    203,
    { batch: 2, keyMask: 'random' },
    { segment: 8, hierarchy: 'dyadic', keyGrouping: 'contiguous' },
  ),
  causal('dyadic, window', 203, {}, { segment: 8, window: 2, hierarchy: 'dyadic', group: 20 }),
  causal(
    'dyadic, more segments than retrieve',
    203,
    { queryHeads: 3, kvHeads: 1, keyMask: 'random' },
    { segment: 8, hierarchy: 'dyadic', retrieve: [1, 3, 11] },
  ),
  causal('dyadic, mass', 150, {}, { segment: 8, hierarchy: 'dyadic', retrieveMass: 0.1 }),
  causal('dyadic, error', 150, {}, { segment: 8, hierarchy: 'dyadic', retrieve: [9], retrieveError: 0.02 }),
  causal('dyadic, tile', 150, {}, { segment: 16, hierarchy: 'dyadic', selection: 'tile' }),
  causal('dyadic, chunk with past', 60, { keys: 190, past: 130 }, { segment: 8, hierarchy: 'dyadic' }),
  causal('dyadic, beyond the keys', 60, { keys: 50 }, { segment: 8, hierarchy: 'dyadic', causalOffset: 70 }),
  causal(
    'large',
    1100,
    { queryHeads: 4, kvHeads: 2, headDim: 64, valueDim: 64, large: true },
    {
      ...defaultParameters(true),
      keyGrouping: 'kmeans',
      retrieve: [8],
    },
  ),
];

/** The inputs of a case, the same on every call. */
export function caseInputs(shared: MultipoleCase): MultipoleInputs {
  const random = SeededRandom.named(shared.name);
  const { batch, queryHeads, kvHeads, queries, keys, past, headDim, valueDim } = shared;
  const mask = keyMask(shared, random);
  const rows = past + queries;
  const points = shared.data === 'clustered' ? clusteredPoints(shared, mask, random) : null;
  const allQueries = points?.queries ?? random.normals(batch * queryHeads * rows * headDim);
  const heads = (from: number, to: number): Tensor => ({
    dims: [batch, queryHeads, to - from, headDim],
    data: finish(
      rowsOf(allQueries, batch * queryHeads, rows * headDim, from * headDim, to * headDim),
      shared,
    ),
  });
  return {
    query: heads(past, rows),
    key: {
      dims: [batch, kvHeads, keys, headDim],
      data: finish(points?.keys ?? random.normals(batch * kvHeads * keys * headDim), shared),
    },
    value: {
      dims: [batch, kvHeads, keys, valueDim],
      data: finish(random.normals(batch * kvHeads * keys * valueDim), shared),
    },
    ...(mask && { keyMask: mask }),
    ...(past > 0 && { pastQuery: heads(0, past) }),
  };
}

/** Elements [from, to) of each of `count` parts of `size` elements. */
function rowsOf(data: Float32Array, count: number, size: number, from: number, to: number): Float32Array {
  const result = new Float32Array(count * (to - from));
  for (let n = 0; n < count; n++) {
    result.set(data.subarray(n * size + from, n * size + to), n * (to - from));
  }
  return result;
}

function finish(data: Float32Array, shared: MultipoleCase): Float32Array {
  return shared.float16 ? float16ToFloat32(float32ToFloat16(data)) : data;
}

function keyMask(shared: MultipoleCase, random: SeededRandom): Uint8Array | undefined {
  const { batch, keys } = shared;
  const segment = shared.parameters.segment || keys;
  const visible: Record<MultipoleCase['keyMask'], (b: number, n: number) => boolean> = {
    none: () => true,
    random: () => random.uniform() < 0.67,
    padding: (b, n) => n < keys - b * 37 - 5,
    segment: (_, n) => Math.floor(n / segment) !== 1,
    first: (_, n) => n >= 10,
    all: b => b < batch - 1,
  };
  if (shared.keyMask === 'none') return undefined;
  return Uint8Array.from({ length: batch * keys }, (_, at) =>
    Number(visible[shared.keyMask](Math.floor(at / keys), at % keys)),
  );
}

/**
 * Points around well separated centers, laid out so that the evenly spaced seeds of k-means fall on different
 * centers: by rank among the visible keys of a unit, and by row. Causal rows alternate between two centers
 * (Thue-Morse sequence) so that this holds for each doubling prefix with two query clusters.
 */
function clusteredPoints(
  shared: MultipoleCase,
  mask: Uint8Array | undefined,
  random: SeededRandom,
): { queries: Float32Array; keys: Float32Array } {
  const { batch, queryHeads, kvHeads, keys, headDim, parameters } = shared;
  const rows = shared.past + shared.queries;
  const segment = parameters.segment || Math.max(1, keys);
  const around = (centers: Float32Array, center: number, target: Float32Array, at: number) => {
    for (let d = 0; d < headDim; d++) {
      target[at * headDim + d] = centers[center * headDim + d]! + 0.02 * random.normal();
    }
  };

  const keyPoints = new Float32Array(batch * kvHeads * keys * headDim);
  for (let part = 0; part < batch * kvHeads; part++) {
    for (let start = 0; start < keys; start += segment) {
      const centers = random.normals(parameters.keyClusters * headDim);
      const members: number[] = [];
      for (let n = start; n < Math.min(start + segment, keys); n++) {
        if (mask?.[Math.floor(part / kvHeads) * keys + n] !== 0) members.push(n);
      }
      members.forEach((n, rank) => {
        around(
          centers,
          seedsUpTo(rank, members.length, parameters.keyClusters) - 1,
          keyPoints,
          part * keys + n,
        );
      });
    }
  }

  const queryPoints = new Float32Array(batch * queryHeads * rows * headDim);
  for (let part = 0; part < batch * queryHeads; part++) {
    const centers = random.normals(parameters.queryClusters * headDim);
    for (let row = 0; row < rows; row++) {
      const center = parameters.causal
        ? bitCount(Math.floor(row / (segment / 2))) % 2
        : seedsUpTo(row, rows, parameters.queryClusters) - 1;
      around(centers, center, queryPoints, part * rows + row);
    }
  }
  return { queries: queryPoints, keys: keyPoints };
}

/** How many of the evenly spaced seeds floor(m * n / count) are at or before `rank`. */
function seedsUpTo(rank: number, n: number, count: number): number {
  let seeds = 0;
  while (seeds < count && Math.floor((seeds * n) / count) <= rank) seeds++;
  return seeds;
}

function bitCount(n: number): number {
  let bits = 0;
  for (let left = n; left > 0; left >>= 1) bits += left & 1;
  return bits;
}
