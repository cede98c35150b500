import { AttentionTile, HIDDEN, type TileShape } from '../runtime/web/attention-tile.wgsl.js';
import { type FloatType, kernel, quads, storage, tensorRows, variants } from '../runtime/web/wgsl.js';
import { centroidParameters, clusterMembers, geometry, geometryParameters } from './geometry.wgsl.js';

/** Element type and columns of the rows of queries, which are padded and float32 when past_query was put in front. */
export interface QueryShape {
  readonly queryType: FloatType;
  readonly queryColumns: number;
  /** D */
  readonly headDim: number;
}

/** Element type and columns of query, key and value, and the tiles that fit the device. */
export interface HeadShape extends QueryShape {
  /** Type of key and value. */
  readonly type: FloatType;
  /** E */
  readonly valueDim: number;
  readonly tile: TileShape;
  /** For kernels where the rows of a high tile would have too little in common: few centroids, or several pools. */
  readonly lowTile: TileShape;
}

/** Of kernels that summarize the clusters that a block reaches. */
export const summaryParameters = {
  ...geometryParameters,
  ...centroidParameters,
  /** Clusters of a head, of which the first `clusters` are summarized. */
  all_clusters: 'u32',
  clusters: 'u32',
} as const;

/**
 * Stage 1 (README, step 5): for every query centroid and key cluster the log-weight and the tilted means of
 * keys and values, [heads, query clusters, clusters] and as many rows of columns padded to fours. A cluster
 * without members has the log-weight {@link HIDDEN}. One group per (head, tile of centroids, key cluster).
 */
export const summarize = variants((shape: HeadShape) => {
  const { headDim, valueDim } = shape;
  const tile = new AttentionTile(shape.lowTile);
  const keyQuads = quads(headDim);
  const columns = 4 * (keyQuads + quads(valueDim));
  const loadQuery = (row: string, quad: string) => `load_centroid(first + ${row}, origin + ${row}, ${quad})`;
  return kernel({
    label: 'cluster summaries',
    threads: tile.threads,
    parameters: summaryParameters,
    bindings: {
      centroids: storage('read', 'vec4<f32>'),
      key: tensorRows(shape.type, headDim),
      value: tensorRows(shape.type, valueDim),
      starts: storage('read', 'u32'),
      members: storage('read', 'u32'),
      summary_weights: storage('read_write', 'f32'),
      summary_keys: storage('read_write', 'vec4<f32>'),
      summary_values: storage('read_write', 'vec4<f32>'),
    },
    declarations: `${geometry}
${clusterMembers}
${tile.declarations}
var<workgroup> tile_keys: array<u32, ${shape.lowTile.keys}>;
fn load_centroid(cluster: u32, row: u32, quad: u32) -> vec4<f32> {
  if (cluster >= params.query_clusters) { return vec4<f32>(); }
  return centroids[row * ${keyQuads}u + quad];
}
fn load_key_and_value(row: u32, quad: u32) -> vec4<f32> {
  if (quad < ${keyQuads}u) { return read_key(row, quad); }
  return read_value(row, quad - ${keyQuads}u);
}`,
    body: `let cluster = group % params.clusters;
let tiles = (params.query_clusters + ${tile.height - 1}u) / ${tile.height}u;
let first = group / params.clusters % tiles * ${tile.height}u;
let head = group / params.clusters / tiles;
let kv = kv_head(head);
let origin = (head * params.sets + params.centroid_set) * params.query_clusters + first;
let run = members_of(kv, cluster);
${tile.start(columns)}
${tile.loadQuery(headDim, loadQuery)}
for (var base = run.x; base < run.y; base += ${shape.lowTile.keys}u) {
  let count = min(${shape.lowTile.keys}u, run.y - base);
  if (thread < ${shape.lowTile.keys}u) {
    tile_keys[thread] = kv * params.keys + members[kv * params.keys + base + min(thread, count - 1u)] - 1u;
  }
  workgroupBarrier();
  ${tile.logits(headDim, loadQuery, (key, quad) => `read_key(tile_keys[${key}], ${quad})`)}
  ${tile.weights(
    columns,
    () => 'params.scale',
    (_, key) => `${key} < count`,
  )}
  ${tile.accumulate(columns, (key, quad) => `load_key_and_value(tile_keys[${key}], ${quad})`)}
}
${tile.finishTotals}
${tile.rows
  .map(
    r => `if (tx == 0u && first + ${tile.row(r)} < params.query_clusters) {
  let index = (head * params.query_clusters + first + ${tile.row(r)}) * params.clusters + cluster;
  summary_weights[index] = select(${HIDDEN}, row_max[${r}] + log(row_total[${r}]), row_total[${r}] > 0.0);
}`,
  )
  .join('\n')}
let inverse = select(vec4<f32>(), 1.0 / row_total, row_total > vec4<f32>());
${tile.eachSum(
  columns,
  (sum, r, quad) => `{
  let row = first + ${tile.row(r)};
  if (row < params.query_clusters) {
    let index = (head * params.query_clusters + row) * params.clusters + cluster;
    if (${quad} < ${keyQuads}u) { summary_keys[index * ${keyQuads}u + ${quad}] = ${sum} * inverse[${r}]; }
    else { summary_values[index * ${quads(valueDim)}u + ${quad} - ${keyQuads}u] = ${sum} * inverse[${r}]; }
  }
}`,
)}`,
  });
});
