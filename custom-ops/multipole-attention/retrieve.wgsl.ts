import { stateQuads, writeState } from '../runtime/web/attention-state.wgsl.js';
import { AttentionTile } from '../runtime/web/attention-tile.wgsl.js';
import { kernel, storage, tensorRows, variants } from '../runtime/web/wgsl.js';
import { clusterMembers, geometry, geometryParameters } from './geometry.wgsl.js';
import { stateOf } from './near.wgsl.js';
import type { Selection } from './parameters.js';
import { chosenBindings, isRetrieved, poolParameters } from './select.wgsl.js';
import type { HeadShape } from './summarize.wgsl.js';

/** Clusters that a workgroup takes up at a time, and words of `chosen` that it scans for them at most. */
const BATCH = 96;
const MAX_WORDS = 128;

/**
 * Exact attention to the members of retrieved clusters (README, step 9), added to the state of a block's rows.
 * A workgroup goes through the clusters that any of its rows retrieves, in batches; the members of a batch are
 * laid end to end, and each row looks at those of its own clusters. Causal rows must not know what later rows of
 * their tile retrieve: there every cluster starts a tile of keys, so that a row's own clusters alone decide in
 * which order it sums. One group per (head, tile of rows).
 */
export const retrieved = variants((shape: HeadShape, selection: Selection) => {
  const { headDim, valueDim } = shape;
  const { keys } = shape.lowTile;
  const tile = new AttentionTile(shape.lowTile);
  const rows = tile.height;
  const words = Math.min(tile.threads, MAX_WORDS);
  const loadQuery = (row: string, quad: string) => `load_query(head, first + ${row}, ${quad})`;
  return kernel({
    label: 'retrieved attention',
    threads: tile.threads,
    parameters: {
      ...geometryParameters,
      ...poolParameters,
      scale: 'f32',
      block_begin: 'u32',
      block_end: 'u32',
      /** Clusters that may be retrieved, and all of a head. */
      clusters: 'u32',
      all_clusters: 'u32',
      tiles: 'u32',
    },
    bindings: {
      query: tensorRows(shape.queryType, shape.queryColumns),
      key: tensorRows(shape.type, headDim),
      value: tensorRows(shape.type, valueDim),
      starts: storage('read', 'u32'),
      members: storage('read', 'u32'),
      state: storage('read_write', 'vec4<f32>'),
      ...chosenBindings(selection),
    },
    declarations: `${geometry}
${stateOf(valueDim)}
${clusterMembers}
${isRetrieved(selection)}
${tile.declarations}
// Clusters of the tile's rows by bitmap word, how many come before each word, and how many there are.
var<workgroup> any_row: array<atomic<u32>, ${words}>;
var<workgroup> before_word: array<u32, ${words}>;
var<workgroup> found: u32;
var<workgroup> any_found: atomic<u32>;
// The batch: its clusters, where the members of each start, how many they are, the places they take and how many
// come before, and which rows take which.
var<workgroup> batch_clusters: array<u32, ${BATCH}>;
var<workgroup> batch_starts: array<u32, ${BATCH}>;
var<workgroup> batch_sizes: array<u32, ${BATCH}>;
var<workgroup> batch_room: array<u32, ${BATCH}>;
var<workgroup> batch_members: array<u32, ${BATCH + 1}>;
var<workgroup> shares: array<u32, ${(rows * BATCH) / 32}>;
var<workgroup> tile_keys: array<u32, ${keys}>;
var<workgroup> tile_places: array<u32, ${keys}>;
const NO_PLACE = 0xffffffffu;
fn load_query(head: u32, row: u32, quad: u32) -> vec4<f32> {
  return read_query(query_head(head) * params.rows + min(row, params.rows - 1u), quad);
}
fn shares_in(row: u32, place: u32) -> bool {
  if (place == NO_PLACE) { return false; }
  return extractBits(shares[row * ${BATCH / 32}u + place / 32u], place % 32u, 1u) != 0u;
}`,
    body: `let head = group / params.tiles;
let kv = kv_head(head);
let first = params.block_begin + group % params.tiles * ${rows}u;
let end = min(first + ${rows}u, params.block_end);
var own_found = 0u;
for (var i = thread; i < (end - first) * params.words; i += ${tile.threads}u) {
  own_found |= chosen_word(choice_of(head, first + i / params.words), i % params.words);
}
if (own_found != 0u) { atomicStore(&any_found, 1u); }
workgroupBarrier();
if (thread == 0u) { found = atomicLoad(&any_found); }
if (workgroupUniformLoad(&found) == 0u) { return; }
${tile.start(valueDim)}
${tile.rows.map(r => `let state_${r} = state_of(head, min(first + ${tile.row(r)}, end - 1u));`).join('\n')}
{
${tile.rows
  .map(
    r => `  let statistics_${r} = state[state_${r} + ${stateQuads(valueDim) - 1}u];
  row_max[${r}] = statistics_${r}.x;
  if (tx == 0u) { row_total[${r}] = statistics_${r}.y; }`,
  )
  .join('\n')}
}
${tile.eachSum(valueDim, (sum, r, quad) => `${sum} = state[state_${r} + ${quad}];`)}
workgroupBarrier();
${tile.loadQuery(headDim, loadQuery)}
for (var first_word = 0u; first_word < params.words; first_word += ${words}u) {
  let scanned = min(${words}u, params.words - first_word);
  if (thread < ${words}u) { atomicStore(&any_row[thread], 0u); }
  workgroupBarrier();
  for (var i = thread; i < (end - first) * scanned; i += ${tile.threads}u) {
    let bits = chosen_word(choice_of(head, first + i / scanned), first_word + i % scanned);
    if (bits != 0u) { atomicOr(&any_row[i % scanned], bits); }
  }
  workgroupBarrier();
  if (thread == 0u) {
    found = 0u;
    for (var i = 0u; i < scanned; i++) {
      before_word[i] = found;
      found += countOneBits(atomicLoad(&any_row[i]));
    }
  }
  let total = workgroupUniformLoad(&found);
  for (var batch = 0u; batch < total; batch += ${BATCH}u) {
    let batch_size = min(${BATCH}u, total - batch);
    var place = 0u;
    var bits = 0u;
    if (thread < scanned) {
      place = before_word[thread];
      bits = atomicLoad(&any_row[thread]);
    }
    while (bits != 0u) {
      let bit = firstTrailingBit(bits);
      bits &= bits - 1u;
      if (place >= batch && place < batch + batch_size) { batch_clusters[place - batch] = (first_word + thread) * 32u + bit; }
      place++;
    }
    workgroupBarrier();
    for (var i = thread; i < batch_size; i += ${tile.threads}u) {
      let run = members_of(kv, batch_clusters[i]);
      batch_starts[i] = run.x;
      batch_sizes[i] = run.y - run.x;
      batch_room[i] = select(batch_sizes[i], (batch_sizes[i] + ${keys - 1}u) / ${keys}u * ${keys}u, params.causal != 0u);
    }
    workgroupBarrier();
    for (var i = thread; i <= batch_size; i += ${tile.threads}u) {
      var before = 0u;
      for (var earlier = 0u; earlier < i; earlier++) { before += batch_room[earlier]; }
      batch_members[i] = before;
    }
    for (var i = thread; i < ${(rows * BATCH) / 32}u; i += ${tile.threads}u) {
      let row = first + i / ${BATCH / 32}u;
      var share = 0u;
      let places = i % ${BATCH / 32}u * 32u;
      let known = min(row, end - 1u);
      let choice = choice_of(head, known);
      let far = far_clusters(known);
      for (var place = places; row < end && place < min(places + 32u, batch_size); place++) {
        let cluster = batch_clusters[place];
        if (is_retrieved(choice, cluster) && is_far(far, cluster)) { share |= 1u << (place % 32u); }
      }
      shares[i] = share;
    }
    workgroupBarrier();
    let batch_keys = workgroupUniformLoad(&batch_members[batch_size]);
    for (var base = 0u; base < batch_keys; base += ${keys}u) {
      if (thread < ${keys}u) {
        let member = min(base + thread, batch_keys - 1u);
        var low = 0u;
        var high = batch_size;
        while (high - low > 1u) {
          let middle = (low + high) / 2u;
          if (batch_members[middle] <= member) { low = middle; } else { high = middle; }
        }
        let within = member - batch_members[low];
        let is_member = base + thread < batch_keys && within < batch_sizes[low];
        let slot = batch_starts[low] + select(0u, within, is_member);
        tile_keys[thread] = kv * params.keys + members[kv * params.keys + slot] - 1u;
        tile_places[thread] = select(NO_PLACE, low, is_member);
      }
      workgroupBarrier();
      ${tile.logits(headDim, loadQuery, (key, quad) => `read_key(tile_keys[${key}], ${quad})`)}
      ${tile.weights(
        valueDim,
        () => 'params.scale',
        (r, key) => `shares_in(${tile.row(r)}, tile_places[${key}])`,
      )}
      ${tile.accumulate(valueDim, (key, quad) => `read_value(tile_keys[${key}], ${quad})`)}
    }
  }
}
${tile.finishTotals}
${writeState(tile, valueDim, r => `(first + ${tile.row(r)})`, 'end')}`,
  });
});
