import { stateQuads } from '../runtime/web/attention-state.wgsl.js';
import {
  AttentionTile,
  HIDDEN,
  KEYS_PER_THREAD,
  visible,
  withFourKeys,
} from '../runtime/web/attention-tile.wgsl.js';
import { kernel, optional, quads, storage, THREADS, tensorRows, variants } from '../runtime/web/wgsl.js';
import {
  blockParameters,
  centroidParameters,
  geometry,
  geometryParameters,
  logitQuads,
} from './geometry.wgsl.js';
import { stateOf } from './near.wgsl.js';
import type { Selection } from './parameters.js';
import { chosenBindings, isRetrieved, poolParameters } from './select.wgsl.js';
import type { HeadShape, QueryShape } from './summarize.wgsl.js';

/** Clusters that one workgroup of {@link estimates} goes through. */
export const PANEL = 1024;

/**
 * Rows of a tile: `order` sorts the block's rows by query cluster and starts every cluster at a multiple of the
 * tile's rows, so all rows of a tile share their cluster, and only the last ones may be missing.
 */
const tileRows = (rows: number): string => `var<workgroup> slot_rows: array<u32, ${rows}>;`;
/** `logits_of(head, slot)`: where the logits of the row of a slot that is not empty start. */
const logitsOf = `fn logits_of(head: u32, slot: u32) -> u32 {
  return (head * (params.block_end - params.block_begin) + slot - 1u - params.block_begin) * logit_quads();
}`;
/**
 * The place in a tile of clusters holds another cluster than its number, so that the four of a thread are neighbors,
 * from `first_cluster` on, which share a vector of estimates.
 */
const clusterAt = (place: string, across: number): string =>
  `(${place} % ${across}u * ${KEYS_PER_THREAD}u + ${place} / ${across}u)`;
const firstCluster = `let first_cluster = base + tx * ${KEYS_PER_THREAD}u;`;

const loadTileRows = (rows: number): string => `let first_slot = (head * params.tiles + tile) * ${rows}u;
if (order[first_slot] == 0u) { return; }
if (thread < ${rows}u) { slot_rows[thread] = order[first_slot + thread]; }
let query_cluster = row_clusters[head * params.rows + order[first_slot] - 1u];
workgroupBarrier();`;

/**
 * Estimated logits of a block's rows over their far field (README, step 6), [heads, block, clusters padded to
 * fours], hidden outside, and their log-sum-exp by panel of clusters. One group per (head, tile of `order`, panel).
 */
export const estimates = variants((shape: HeadShape) => {
  const { headDim } = shape;
  const tile = new AttentionTile(withFourKeys(shape.tile));
  const keyQuads = quads(headDim);
  const { across, keys } = tile.shape;
  const rows = tile.height;
  const loadQuery = (row: string, quad: string) =>
    `load_residual(head, query_cluster, slot_rows[${row}], ${quad})`;
  const loadKey = (place: string, quad: string) =>
    `summary_keys[(summaries + min(base + ${clusterAt(place, across)}, params.clusters - 1u)) * ${keyQuads}u + ${quad}]`;
  const estimate = (r: number) => `vec4<f32>(${tile.keys.map(c => `logit_${c}[${r}]`).join(', ')})`;
  return kernel({
    label: 'far estimates',
    threads: tile.threads,
    parameters: {
      ...geometryParameters,
      ...blockParameters,
      ...centroidParameters,
      /** Tiles and panels by head. */
      tiles: 'u32',
      panels: 'u32',
    },
    bindings: {
      query: tensorRows(shape.queryType, shape.queryColumns),
      centroids: storage('read', 'vec4<f32>'),
      order: storage('read', 'u32'),
      row_clusters: storage('read', 'u32'),
      summary_weights: storage('read', 'f32'),
      summary_keys: storage('read', 'vec4<f32>'),
      far_logits: storage('read_write', 'vec4<f32>'),
      panel_lse: storage('read_write', 'f32'),
    },
    declarations: `${geometry}
${tile.logitDeclarations}
${tileRows(rows)}
${logitQuads}
${logitsOf}
fn load_residual(head: u32, query_cluster: u32, slot: u32, quad: u32) -> vec4<f32> {
  if (slot == 0u) { return vec4<f32>(); }
  let centroid = (head * params.sets + params.centroid_set) * params.query_clusters + query_cluster;
  return params.scale *
    (read_query(query_head(head) * params.rows + slot - 1u, quad) - centroids[centroid * ${keyQuads}u + quad]);
}
fn are_far(clusters: vec2<u32>, tested: vec4<u32>) -> vec4<bool> {
  return (tested < vec4<u32>(clusters.x)) | (tested >= vec4<u32>(clusters.y));
}`,
    body: `let panel = group % params.panels;
let tile = group / params.panels % params.tiles;
let head = group / params.panels / params.tiles;
${loadTileRows(rows)}
${tile.start(0)}
let summaries = (head * params.query_clusters + query_cluster) * params.clusters;
${tile.rows
  .map(
    r => `let slot_${r} = slot_rows[${tile.row(r)}];
let far_${r} = far_clusters(max(slot_${r}, 1u) - 1u);`,
  )
  .join('\n')}
let end = min((panel + 1u) * ${PANEL}u, params.clusters);
${tile.loadQuery(headDim, loadQuery)}
for (var base = panel * ${PANEL}u; base < end; base += ${keys}u) {
  ${tile.logits(headDim, loadQuery, loadKey)}
  ${firstCluster}
  if (first_cluster < end) {
    let tested = vec4<u32>(first_cluster) + vec4<u32>(0u, 1u, 2u, 3u);
    var weights = vec4<f32>(${HIDDEN});
    for (var i = 0u; i < min(${KEYS_PER_THREAD}u, end - first_cluster); i++) { weights[i] = summary_weights[summaries + first_cluster + i]; }
${tile.rows
  .map(
    r => `    if (slot_${r} != 0u) {
      let seen = ${visible('weights')} & are_far(far_${r}, tested);
      let logits = select(vec4<f32>(${HIDDEN}), weights + ${estimate(r)}, seen);
      far_logits[logits_of(head, slot_${r}) + first_cluster / ${KEYS_PER_THREAD}u] = logits;
      if (any(seen)) {
        let next = max(row_max[${r}], max(max(logits.x, logits.y), max(logits.z, logits.w)));
        row_total[${r}] = row_total[${r}] * exp(row_max[${r}] - next) + dot(exp(logits - next), vec4<f32>(1.0));
        row_max[${r}] = next;
      }
    }`,
  )
  .join('\n')}
  }
}
${tile.joinMaxima}
${tile.finishTotals}
if (tx == 0u) {
${tile.rows
  .map(
    r => `  if (slot_${r} != 0u) {
    let row = head * (params.block_end - params.block_begin) + slot_${r} - 1u - params.block_begin;
    panel_lse[row * params.panels + panel] =
      select(${HIDDEN}, row_max[${r}] + log(row_total[${r}]), row_total[${r}] > 0.0);
  }`,
  )
  .join('\n')}
}`,
  });
});

/**
 * Notes the log-sum-exp over a row's near keys and estimates (README, step 8) in the row's state: with it, an
 * estimated logit is the logarithm of a_j. With the `shape` of queries also s^2 |q - c_i|^2 / 2, the row's part of
 * expected errors, behind it. One thread per (head, row of the block).
 */
export const jointStatistics = variants((valueDim: number, shape: QueryShape | null) => {
  const keyQuads = quads(shape?.headDim ?? 0);
  return kernel({
    label: 'far lse',
    parameters: {
      ...geometryParameters,
      ...blockParameters,
      ...centroidParameters,
      panels: 'u32',
      threads: 'u32',
    },
    bindings: {
      panel_lse: storage('read', 'f32'),
      state: storage('read_write', 'vec4<f32>'),
      ...optional(
        shape !== null,
        'query',
        tensorRows(shape?.queryType ?? 'float32', shape?.queryColumns ?? 0),
      ),
      ...optional(shape !== null, 'centroids', storage('read', 'vec4<f32>')),
      ...optional(shape !== null, 'row_clusters', storage('read', 'u32')),
    },
    declarations: `${stateOf(valueDim)}
${shape ? geometry : ''}`,
    body: `let index = group * ${THREADS}u + thread;
if (index >= params.threads) { return; }
let size = params.block_end - params.block_begin;
let head = index / size;
let row = params.block_begin + index % size;
let statistics = state_of(head, row) + ${stateQuads(valueDim) - 1}u;
let near_lse = state[statistics].z;
var top = near_lse;
for (var panel = 0u; panel < params.panels; panel++) { top = max(top, panel_lse[index * params.panels + panel]); }
var total = select(0.0, exp(near_lse - top), near_lse > ${HIDDEN});
for (var panel = 0u; panel < params.panels; panel++) {
  let lse = panel_lse[index * params.panels + panel];
  total += select(0.0, exp(lse - top), lse > ${HIDDEN});
}
state[statistics].z = select(${HIDDEN}, top + log(total), total > 0.0);
${
  shape
    ? `let centroid = (head * params.sets + params.centroid_set) * params.query_clusters + row_clusters[head * params.rows + row];
var square = 0.0;
for (var quad = 0u; quad < ${keyQuads}u; quad++) {
  let residual = params.scale *
    (read_query(query_head(head) * params.rows + row, quad) - centroids[centroid * ${keyQuads}u + quad]);
  square += dot(residual, residual);
}
state[statistics].w = square / 2.0;`
    : ''
}`,
  });
});

/**
 * Adds the summaries of the far field, without the retrieved clusters, to the state of a block's rows. One
 * group per (head, tile of `order`).
 */
export const farValues = variants((shape: HeadShape, selection: Selection | null) => {
  const { valueDim } = shape;
  const tile = new AttentionTile(withFourKeys(shape.tile));
  const { across, keys } = tile.shape;
  const rows = tile.height;
  const width = stateQuads(valueDim);
  const loadValue = (place: string, quad: string) =>
    `summary_values[(summaries + min(base + ${clusterAt(place, across)}, params.clusters - 1u)) * ${quads(valueDim)}u + ${quad}]`;
  return kernel({
    label: 'far values',
    threads: tile.threads,
    parameters: { ...geometryParameters, ...blockParameters, ...poolParameters, tiles: 'u32' },
    bindings: {
      order: storage('read', 'u32'),
      row_clusters: storage('read', 'u32'),
      far_logits: storage('read', 'vec4<f32>'),
      summary_values: storage('read', 'vec4<f32>'),
      state: storage('read_write', 'vec4<f32>'),
      ...chosenBindings(selection),
    },
    declarations: `${geometry}
${stateOf(valueDim)}
${tile.valueDeclarations}
${selection ? isRetrieved(selection) : ''}
${tileRows(rows)}
${logitQuads}
${logitsOf}
fn masses(slot: u32, first: u32, choice: u32, lse: f32, first_cluster: u32) -> vec4<f32> {
  if (slot == 0u || first_cluster >= params.clusters) { return vec4<f32>(); }
  let logits = far_logits[first + first_cluster / ${KEYS_PER_THREAD}u];
  var kept = logits > vec4<f32>(${HIDDEN});
  ${
    selection
      ? `// Four clusters from a multiple of four on are within one word.
  let chosen_bits = vec4<u32>(chosen_word(choice, first_cluster / 32u) >> (first_cluster % 32u));
  kept &= (chosen_bits & vec4<u32>(1u, 2u, 4u, 8u)) == vec4<u32>();`
      : ''
  }
  return select(vec4<f32>(), exp(logits - lse), kept);
}`,
    body: `let tile = group % params.tiles;
let head = group / params.tiles;
${loadTileRows(rows)}
${tile.start(valueDim)}
let summaries = (head * params.query_clusters + query_cluster) * params.clusters;
${tile.rows
  .map(
    r => `let slot_${r} = slot_rows[${tile.row(r)}];
let known_${r} = max(slot_${r}, params.block_begin + 1u);
let first_${r} = logits_of(head, known_${r});
let before_${r} = state_of(head, known_${r} - 1u);
let near_${r} = state[before_${r} + ${width - 1}u];
let choice_${r} = ${selection ? `choice_of(head, known_${r} - 1u)` : '0u'};`,
  )
  .join('\n')}
for (var base = 0u; base < params.clusters; base += ${keys}u) {
  ${firstCluster}
${tile.rows
  .map(r => `  let masses_${r} = masses(slot_${r}, first_${r}, choice_${r}, near_${r}.z, first_cluster);`)
  .join('\n')}
${tile.keys
  .map(c => tile.storeWeights(c, `vec4<f32>(${tile.rows.map(r => `masses_${r}[${c}]`).join(', ')})`))
  .join('\n')}
  ${tile.accumulate(valueDim, loadValue)}
}
${tile.finishTotals}
${tile.rows
  .map(
    r => `let joint_${r} = max(near_${r}.x, near_${r}.z);
let keep_${r} = exp(near_${r}.x - joint_${r});
let add_${r} = exp(near_${r}.z - joint_${r});`,
  )
  .join('\n')}
workgroupBarrier();
${tile.eachSum(
  valueDim,
  (sum, r, quad) => `if (slot_${r} != 0u) {
  state[before_${r} + ${quad}] = state[before_${r} + ${quad}] * keep_${r} + ${sum} * add_${r};
}`,
)}
if (tx == 0u) {
${tile.rows
  .map(
    r => `  if (slot_${r} != 0u) {
    state[before_${r} + ${width - 1}u] =
      vec4<f32>(joint_${r}, near_${r}.y * keep_${r} + row_total[${r}] * add_${r}, near_${r}.z, 0.0);
  }`,
  )
  .join('\n')}
}`,
  });
});
