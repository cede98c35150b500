import { stateQuads } from '../runtime/web/attention-state.wgsl.js';
import { AttentionTile, HIDDEN } from '../runtime/web/attention-tile.wgsl.js';
import { kernel, quads, storage, tensorRows, variants } from '../runtime/web/wgsl.js';
import { blockParameters, geometry, geometryParameters } from './geometry.wgsl.js';
import { stateOf } from './near.wgsl.js';
import type { Selection } from './parameters.js';
import { chosenBindings, isRetrieved, poolParameters } from './select.wgsl.js';
import type { HeadShape } from './summarize.wgsl.js';

/** Clusters that one workgroup of {@link estimates} goes through. */
export const PANEL = 256;

/**
 * Rows of a tile: `order` sorts the block's rows by query cluster and starts every cluster at a multiple of the
 * tile's rows, so all rows of a tile share their cluster, and only the last ones may be missing.
 */
const tileRows = (rows: number): string => `var<workgroup> slot_rows: array<u32, ${rows}>;`;
/** `logits_of(head, slot)`: where the logits of the row of a slot that is not empty start. */
const logitsOf = `fn logits_of(head: u32, slot: u32) -> u32 {
  return (head * (params.block_end - params.block_begin) + slot - 1u - params.block_begin) * params.clusters;
}`;
const loadTileRows = (rows: number): string => `let first_slot = (head * params.tiles + tile) * ${rows}u;
if (order[first_slot] == 0u) { return; }
if (thread < ${rows}u) { slot_rows[thread] = order[first_slot + thread]; }
let query_cluster = row_clusters[head * params.rows + order[first_slot] - 1u];
workgroupBarrier();`;

/**
 * Estimated logits of a block's rows over their far field (README, step 6), [heads, block, clusters], hidden
 * outside. One group per (head, tile of `order`, panel of clusters).
 */
export const estimates = variants((shape: HeadShape) => {
  const { headDim } = shape;
  const tile = new AttentionTile(shape.logitTile);
  const keyQuads = quads(headDim);
  const { keys } = shape.logitTile;
  const rows = tile.height;
  const loadQuery = (row: string, quad: string) =>
    `load_residual(head, query_cluster, slot_rows[${row}], ${quad})`;
  return kernel({
    label: 'far estimates',
    threads: tile.threads,
    parameters: {
      ...geometryParameters,
      ...blockParameters,
      scale: 'f32',
      sets: 'u32',
      centroid_set: 'u32',
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
      far_logits: storage('read_write', 'f32'),
    },
    declarations: `${geometry}
${tile.logitDeclarations}
${tileRows(rows)}
${logitsOf}
fn load_residual(head: u32, query_cluster: u32, slot: u32, quad: u32) -> vec4<f32> {
  if (slot == 0u) { return vec4<f32>(); }
  let centroid = (head * params.sets + params.centroid_set) * params.query_clusters + query_cluster;
  return params.scale *
    (read_query(query_head(head) * params.rows + slot - 1u, quad) - centroids[centroid * ${keyQuads}u + quad]);
}`,
    body: `let panel = group % params.panels;
let tile = group / params.panels % params.tiles;
let head = group / params.panels / params.tiles;
${loadTileRows(rows)}
${tile.coordinates}
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
  ${tile.logits(headDim, loadQuery, (key, quad) => `summary_keys[(summaries + min(base + ${key}, end - 1u)) * ${keyQuads}u + ${quad}]`)}
${tile.keys
  .map(
    c => `  {
    let cluster = base + ${tile.key(c)};
    if (cluster < end) {
      let weight = summary_weights[summaries + cluster];
${tile.rows
  .map(
    r => `      if (slot_${r} != 0u) {
        let seen = weight > ${HIDDEN} && is_far(far_${r}, cluster);
        far_logits[logits_of(head, slot_${r}) + cluster] = select(${HIDDEN}, weight + logit_${c}[${r}], seen);
      }`,
  )
  .join('\n')}
    }
  }`,
  )
  .join('\n')}
}`,
  });
});

/**
 * Notes the log-sum-exp over a row's near keys and estimates (README, step 8) in the row's state: with it, an
 * estimated logit is the logarithm of a_j. One group per (head, row of the block).
 */
export const jointLse = variants((valueDim: number) =>
  kernel({
    label: 'far lse',
    threads: 64,
    parameters: { ...geometryParameters, ...blockParameters },
    bindings: {
      far_logits: storage('read', 'f32'),
      state: storage('read_write', 'vec4<f32>'),
    },
    declarations: `${geometry}
${stateOf(valueDim)}
var<workgroup> tops: array<f32, 64>;
var<workgroup> totals: array<f32, 64>;`,
    body: `let size = params.block_end - params.block_begin;
let head = group / size;
let first = group * params.clusters;
var top = ${HIDDEN};
var total = 0.0;
for (var cluster = thread; cluster < params.clusters; cluster += 64u) {
  let logit = far_logits[first + cluster];
  if (logit > ${HIDDEN}) {
    let next = max(top, logit);
    total = total * exp(top - next) + exp(logit - next);
    top = next;
  }
}
tops[thread] = top;
totals[thread] = total;
workgroupBarrier();
for (var half = 32u; half > 0u; half /= 2u) {
  if (thread < half) {
    let next = max(tops[thread], tops[thread + half]);
    totals[thread] = totals[thread] * exp(tops[thread] - next) + totals[thread + half] * exp(tops[thread + half] - next);
    tops[thread] = next;
  }
  workgroupBarrier();
}
if (thread == 0u) {
  let statistics = state_of(head, params.block_begin + group % size) + ${stateQuads(valueDim) - 1}u;
  let near_lse = state[statistics].z;
  top = max(near_lse, tops[0]);
  total = totals[0] * exp(tops[0] - top) + select(0.0, exp(near_lse - top), near_lse > ${HIDDEN});
  state[statistics].z = select(${HIDDEN}, top + log(total), total > 0.0);
}`,
  }),
);

/**
 * Adds the summaries of the far field, without the retrieved clusters, to the state of a block's rows. One
 * group per (head, tile of `order`).
 */
export const farValues = variants((shape: HeadShape, selection: Selection | null) => {
  const { valueDim } = shape;
  const tile = new AttentionTile(shape.tile);
  const { keys } = shape.tile;
  const rows = tile.height;
  const width = stateQuads(valueDim);
  return kernel({
    label: 'far values',
    threads: tile.threads,
    parameters: { ...geometryParameters, ...blockParameters, ...poolParameters, tiles: 'u32' },
    bindings: {
      order: storage('read', 'u32'),
      row_clusters: storage('read', 'u32'),
      far_logits: storage('read', 'f32'),
      summary_values: storage('read', 'vec4<f32>'),
      state: storage('read_write', 'vec4<f32>'),
      ...chosenBindings(selection),
    },
    declarations: `${geometry}
${stateOf(valueDim)}
${tile.declarations}
${selection ? isRetrieved(selection) : ''}
${tileRows(rows)}
${logitsOf}
fn mass(slot: u32, first: u32, retrieved: u32, lse: f32, cluster: u32) -> f32 {
  if (slot == 0u || cluster >= params.clusters) { return 0.0; }
  if (extractBits(retrieved, cluster % 32u, 1u) != 0u) { return 0.0; }
  let logit = far_logits[first + cluster];
  return select(0.0, exp(logit - lse), logit > ${HIDDEN});
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
  // The keys of a tile share a word: their number divides 32.
${tile.rows
  .map(r => `  let retrieved_${r} = ${selection ? `chosen_word(choice_${r}, base / 32u)` : '0u'};`)
  .join('\n')}
${tile.keys
  .map(
    c => `  {
    let weights = vec4<f32>(${tile.rows.map(r => `mass(slot_${r}, first_${r}, retrieved_${r}, near_${r}.z, base + ${tile.key(c)})`).join(', ')});
    row_total += weights;
    weight_tile[${tile.key(c)} * ${shape.tile.side}u + ty] = weights;
  }`,
  )
  .join('\n')}
  ${tile.accumulate(valueDim, (key, quad) => `summary_values[(summaries + min(base + ${key}, params.clusters - 1u)) * ${quads(valueDim)}u + ${quad}]`)}
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
