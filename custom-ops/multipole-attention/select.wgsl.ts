import { stateQuads } from '../runtime/web/attention-state.wgsl.js';
import { HIDDEN } from '../runtime/web/attention-tile.wgsl.js';
import { kernel, optional, storage, variants } from '../runtime/web/wgsl.js';
import { blockParameters, geometry, geometryParameters, logitQuads } from './geometry.wgsl.js';
import { stateOf } from './near.wgsl.js';
import type { Selection } from './parameters.js';

/**
 * Selection (README, step 8). A pool is a run of rows (`tile`, `sliding`) or of slots of `pool_order`
 * (`cluster`); `chosen` has one bit per cluster for every pool from `pool_base` on.
 */

export const poolParameters = {
  /** Number of the first pool that `chosen` holds, pools it holds per head, and words of a pool. */
  pool_base: 'u32',
  pools: 'u32',
  words: 'u32',
} as const;

/** Bindings that {@link isRetrieved} reads. */
export const chosenBindings = (selection: Selection | null) => ({
  ...optional(selection !== null, 'chosen', storage('read', 'u32')),
  ...optional(selection === 'cluster', 'row_pools', storage('read', 'u32')),
});

/**
 * `choice_of(head, row)`, which stands for what a row retrieves in `chosen_word(choice, word)` and
 * `is_retrieved(choice, cluster)`; needs {@link geometry}. A row that belongs to no pool retrieves nothing.
 */
export const isRetrieved = (selection: Selection): string => `${poolOf(selection)}
const NO_CHOICE = 0xffffffffu;
fn choice_of(head: u32, row: u32) -> u32 {
  ${selection === 'cluster' ? 'if (row_pools[head * params.rows + row] == 0u) { return NO_CHOICE; }' : ''}
  return (head * params.pools + pool_of(head, row) - params.pool_base) * params.words;
}
fn chosen_word(choice: u32, word: u32) -> u32 {
  ${selection === 'cluster' ? 'if (choice == NO_CHOICE) { return 0u; }' : ''}
  return chosen[choice + word];
}
fn is_retrieved(choice: u32, cluster: u32) -> bool {
  return extractBits(chosen_word(choice, cluster / 32u), cluster % 32u, 1u) != 0u;
}`;

function poolOf(selection: Selection): string {
  const body = {
    sliding: 'return row;',
    cluster: 'return row_pools[head * params.rows + row] - 1u;',
    tile: `let position = u32(i32(row) + params.origin);
  if (params.local == 0u) { return position / params.pool_size; }
  return position / params.segment * pools_per_segment() + position % params.segment / params.pool_size;`,
  };
  return `${selection === 'tile' ? poolsPerSegment : ''}
fn pool_of(head: u32, row: u32) -> u32 {
  ${body[selection]}
}`;
}

/** `pool_rows(pool)`: the rows, or slots, of a pool as a half-open range. */
function poolRows(selection: Selection): string {
  const body = {
    sliding: `let first = u32(max(0, -params.origin));
  return vec2<u32>(max(first + params.pool_size - 1u, pool) - (params.pool_size - 1u), pool + 1u);`,
    cluster: `return vec2<u32>(pool, pool + 1u) * params.pool_size;`,
    tile: `var begin = pool * params.pool_size;
  var end = begin + params.pool_size;
  if (params.local != 0u) {
    let own = pool / pools_per_segment() * params.segment;
    begin = own + pool % pools_per_segment() * params.pool_size;
    end = min(begin + params.pool_size, own + params.segment);
  }
  let positions = vec2<i32>(i32(begin), i32(end));
  return vec2<u32>(clamp(positions - params.origin, vec2<i32>(max(0, -params.origin)), vec2<i32>(i32(params.rows))));`,
  };
  return `${selection === 'tile' ? poolsPerSegment : ''}
fn pool_rows(pool: u32) -> vec2<u32> {
  ${body[selection]}
}`;
}

const poolsPerSegment =
  'fn pools_per_segment() -> u32 { return (params.segment + params.pool_size - 1u) / params.pool_size; }';

/** What {@link scoresOf} reads. */
const scoreBindings = (byError: boolean) => ({
  far_logits: storage('read', 'vec4<f32>'),
  state: storage('read', 'vec4<f32>'),
  ...optional(byError, 'row_clusters', storage('read', 'u32')),
  ...optional(byError, 'summary_spreads', storage('read', 'vec4<f32>')),
});

/**
 * `scores_of(head, row, quad)`: what clusters are chosen by (README, step 8), of a row of the block for four clusters,
 * from its estimates: a_j, or e_j when `byError`.
 */
const scoresOf = (valueDim: number, byError: boolean): string => `${stateOf(valueDim)}
${logitQuads}
fn scores_of(head: u32, row: u32, quad: u32) -> vec4<f32> {
  let at = head * (params.block_end - params.block_begin) + row - params.block_begin;
  let logits = far_logits[at * logit_quads() + quad];
  let statistics = state[state_of(head, row) + ${stateQuads(valueDim) - 1}u];
  let masses = select(vec4<f32>(), exp(logits - statistics.z), logits > vec4<f32>(${HIDDEN}));
  ${
    byError
      ? `let summaries = head * params.query_clusters + row_clusters[head * params.rows + row];
  return masses * statistics.w * summary_spreads[summaries * logit_quads() + quad];`
      : 'return masses;'
  }
}`;

/** Threads of {@link poolMeans}: groups of four clusters that a workgroup takes. */
export const MEANS_THREADS = 64;

/**
 * Mean score of clusters over each pool of a block, [heads, block's pools, clusters padded to fours]. Rows before the
 * block come from `tail` (see {@link keepTail}). One group per (head, pool, panel of clusters).
 */
export const poolMeans = variants((selection: Selection, valueDim: number, byError: boolean) => {
  const sliding = selection === 'sliding';
  const clustered = selection === 'cluster';
  return kernel({
    label: 'pool means',
    threads: MEANS_THREADS,
    parameters: {
      ...geometryParameters,
      ...blockParameters,
      first_pool: 'u32',
      block_pools: 'u32',
      panels: 'u32',
      /** Groups of four clusters in each row of `tail`. */
      all_quads: 'u32',
      /** Slots of `pool_order` by head. */
      slots: 'u32',
    },
    bindings: {
      ...scoreBindings(byError),
      means: storage('read_write', 'vec4<f32>'),
      ...optional(sliding, 'tail', storage('read', 'vec4<f32>')),
      ...optional(clustered, 'pool_order', storage('read', 'u32')),
    },
    declarations: `${geometry}
${scoresOf(valueDim, byError)}
${poolRows(selection)}
fn scores(head: u32, row: u32, quad: u32) -> vec4<f32> {
  ${sliding ? 'if (row < params.block_begin) { return tail[(head * params.pool_size + row % params.pool_size) * params.all_quads + quad]; }' : ''}
  return scores_of(head, row, quad);
}`,
    body: `let panel = group % params.panels;
let pool = group / params.panels % params.block_pools;
let head = group / params.panels / params.block_pools;
let quad = panel * ${MEANS_THREADS}u + thread;
if (quad >= logit_quads()) { return; }
let members = pool_rows(params.first_pool + pool);
var sum = vec4<f32>();
var count = 0u;
for (var member = members.x; member < members.y; member++) {
${
  clustered
    ? `  let slot = pool_order[head * params.slots + member];
  if (slot == 0u) { continue; }
  sum += scores(head, slot - 1u, quad);`
    : '  sum += scores(head, member, quad);'
}
  count++;
}
means[(head * params.block_pools + pool) * logit_quads() + quad] = sum / f32(max(count, 1u));`,
  });
});

/**
 * Keeps the scores of a block's last rows, row r at place r modulo the group's size, for the pools of the next
 * block. One thread per (head, row, four clusters).
 */
export const keepTail = variants((valueDim: number, byError: boolean) =>
  kernel({
    label: 'scores of last rows',
    parameters: {
      ...geometryParameters,
      ...blockParameters,
      /** Rows to keep: at most a group. */
      kept: 'u32',
      all_quads: 'u32',
      threads: 'u32',
    },
    bindings: {
      ...scoreBindings(byError),
      tail: storage('read_write', 'vec4<f32>'),
    },
    declarations: scoresOf(valueDim, byError),
    body: `let index = group * 256u + thread;
if (index >= params.threads) { return; }
let quad = index % params.all_quads;
let row = params.block_end - 1u - index / params.all_quads % params.kept;
let head = index / params.all_quads / params.kept;
var scores = vec4<f32>();
if (quad < logit_quads()) { scores = scores_of(head, row, quad); }
tail[(head * params.pool_size + row % params.pool_size) * params.all_quads + quad] = scores;`,
  }),
);

/**
 * Marks the clusters of largest mean in `chosen`: `retrieve[head]` of them, of those that reach `retrieve_error`, or as
 * many as bring the mean mass that is left below `retrieve_mass`. They are put in order only where not all of them
 * can be taken; then the chosen ones are taken out of `means`. One group of `threads` threads, a power of two, per
 * (head, block's pool).
 */
export const choose = variants((threads: number) =>
  kernel({
    label: 'chosen clusters',
    threads,
    parameters: {
      ...blockParameters,
      ...poolParameters,
      first_pool: 'u32',
      block_pools: 'u32',
      /** 0 = off. */
      retrieve_mass: 'f32',
      retrieve_error: 'f32',
    },
    bindings: {
      retrieve: storage('read', 'u32'),
      means: storage('read_write', 'f32'),
      chosen: storage('read_write', 'u32'),
    },
    declarations: `${logitQuads}
var<workgroup> scores: array<f32, ${threads}>;
var<workgroup> clusters: array<u32, ${threads}>;
var<workgroup> mass_left: f32;
var<workgroup> candidates: u32;
fn is_candidate(mean: f32) -> bool { return mean > 0.0 && mean >= params.retrieve_error; }
fn largest(origin: u32, thread: u32) -> vec2<u32> {
  var mean = 0.0;
  var found = 0u;
  for (var cluster = thread; cluster < params.clusters; cluster += ${threads}u) {
    let candidate = means[origin + cluster];
    if (candidate > mean && is_candidate(candidate)) {
      mean = candidate;
      found = cluster;
    }
  }
  return vec2<u32>(bitcast<u32>(mean), found);
}
fn candidates_of(origin: u32, word: u32) -> u32 {
  var bits = 0u;
  for (var bit = 0u; bit < min(32u, params.clusters - min(params.clusters, word * 32u)); bit++) {
    if (is_candidate(means[origin + word * 32u + bit])) { bits |= 1u << bit; }
  }
  return bits;
}`,
    body: `let pool = group % params.block_pools;
let head = group / params.block_pools;
let origin = group * 4u * logit_quads();
let words = (head * params.pools + params.first_pool - params.pool_base + pool) * params.words;
var own = 0.0;
var own_candidates = 0u;
for (var cluster = thread; cluster < params.clusters; cluster += ${threads}u) {
  let mean = means[origin + cluster];
  own += mean;
  own_candidates += u32(is_candidate(mean));
}
scores[thread] = own;
clusters[thread] = own_candidates;
workgroupBarrier();
if (thread == 0u) {
  mass_left = 0.0;
  candidates = 0u;
  for (var i = 0u; i < ${threads}u; i++) {
    mass_left += scores[i];
    candidates += clusters[i];
  }
}
let by_mass = params.retrieve_mass > 0.0;
let limit = select(min(retrieve[head], params.clusters), params.clusters, by_mass);
let takes_all = workgroupUniformLoad(&candidates) <= limit && !by_mass;
for (var word = thread; word < params.words; word += ${threads}u) {
  chosen[words + word] = 0u;
  if (takes_all) { chosen[words + word] = candidates_of(origin, word); }
}
if (takes_all) { return; }
var best = largest(origin, thread);
storageBarrier();
for (var n = 0u; n < limit; n++) {
  scores[thread] = bitcast<f32>(best.x);
  clusters[thread] = best.y;
  workgroupBarrier();
  for (var half = ${threads / 2}u; half > 0u; half /= 2u) {
    if (thread < half) {
      let other = scores[thread + half];
      if (other > scores[thread] || (other == scores[thread] && clusters[thread + half] < clusters[thread])) {
        scores[thread] = other;
        clusters[thread] = clusters[thread + half];
      }
    }
    workgroupBarrier();
  }
  let score = workgroupUniformLoad(&scores[0]);
  let cluster = workgroupUniformLoad(&clusters[0]);
  if (score <= 0.0 || (by_mass && workgroupUniformLoad(&mass_left) < params.retrieve_mass)) { break; }
  if (thread == 0u) {
    mass_left -= score;
    chosen[words + cluster / 32u] |= 1u << (cluster % 32u);
  }
  if (cluster % ${threads}u == thread) {
    means[origin + cluster] = 0.0;
    best = largest(origin, thread);
  }
}`,
  }),
);

/** Pool plus one of every row that `pool_order` holds. One thread per (head, slot). */
export const rowPools = kernel({
  label: 'pools of rows',
  parameters: { rows: 'u32', slots: 'u32', pool_size: 'u32', threads: 'u32' },
  bindings: { pool_order: storage('read', 'u32'), row_pools: storage('read_write', 'u32') },
  body: `let index = group * 256u + thread;
if (index >= params.threads) { return; }
let slot = pool_order[index];
if (slot != 0u) {
  row_pools[index / params.slots * params.rows + slot - 1u] = index % params.slots / params.pool_size + 1u;
}`,
});
