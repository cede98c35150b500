import { kernel, quads, storage, tensorRows, variants } from '../runtime/web/wgsl.js';
import { CHUNK, type ClusterShape } from './cluster.wgsl.js';
import { clusterMembers, geometry, logitQuads } from './geometry.wgsl.js';
import { type HeadShape, summaryParameters } from './summarize.wgsl.js';

/** What choosing by expected error needs to know of queries and keys (README, steps 5 and 8). */

const THREADS = 64;

/**
 * Squares of the points of each chunk, added up by column: [heads, chunks, columns padded to fours]. Chunks and points
 * as in cluster.wgsl.ts. One group per (head, chunk).
 */
export const chunkSquares = variants((shape: Pick<ClusterShape, 'type' | 'columns'>) => {
  const width = quads(shape.columns);
  const lanes = Math.min(THREADS, 2 ** Math.ceil(Math.log2(width)));
  return kernel({
    label: 'squares of queries',
    threads: THREADS,
    parameters: { point_base: 'u32', rows: 'u32', chunks: 'u32' },
    bindings: {
      points: tensorRows(shape.type, shape.columns),
      chunk_table: storage('read', 'vec4<u32>'),
      squares: storage('read_write', 'vec4<f32>'),
    },
    declarations: `var<workgroup> partial: array<vec4<f32>, ${THREADS}>;`,
    body: `let chunk = chunk_table[group % params.chunks];
let origin = params.point_base + group / params.chunks * params.rows;
let lane = thread % ${lanes}u;
for (var first = 0u; first < ${width}u; first += ${lanes}u) {
  let quad = first + lane;
  var sum = vec4<f32>();
  if (quad < ${width}u) {
    for (var row = chunk.y + thread / ${lanes}u; row < chunk.z; row += ${THREADS / lanes}u) {
      let point = read_points(origin + row, quad);
      sum += point * point;
    }
  }
  partial[thread] = sum;
  workgroupBarrier();
  if (thread < ${lanes}u && quad < ${width}u) {
    for (var strip = 1u; strip < ${THREADS / lanes}u; strip++) { sum += partial[strip * ${lanes}u + lane]; }
    squares[group * ${width}u + quad] = sum;
  }
  workgroupBarrier();
}`,
  });
});

/**
 * Share of each column in the squares of a set's points, equal shares where these are zero: [heads, sets, columns
 * padded to fours]. One group per (head, set).
 */
export const dimensionShares = variants((columns: number) => {
  const width = quads(columns);
  return kernel({
    label: 'shares of dimensions',
    threads: THREADS,
    parameters: { sets: 'u32', chunks: 'u32' },
    bindings: {
      set_table: storage('read', 'vec4<u32>'),
      squares: storage('read', 'vec4<f32>'),
      shares: storage('read_write', 'vec4<f32>'),
    },
    declarations: `var<workgroup> totals: array<f32, ${THREADS}>;
fn sum_of(first: u32, chunks: u32, quad: u32) -> vec4<f32> {
  var sum = vec4<f32>();
  for (var chunk = 0u; chunk < chunks; chunk++) { sum += squares[(first + chunk) * ${width}u + quad]; }
  return sum;
}`,
    body: `let bounds = set_table[group % params.sets];
let chunks = (bounds.y - bounds.x + ${CHUNK - 1}u) / ${CHUNK}u;
let first = group / params.sets * params.chunks + bounds.z;
var own = 0.0;
for (var quad = thread; quad < ${width}u; quad += ${THREADS}u) { own += dot(sum_of(first, chunks, quad), vec4<f32>(1.0)); }
totals[thread] = own;
workgroupBarrier();
var total = 0.0;
for (var i = 0u; i < ${THREADS}u; i++) { total += totals[i]; }
for (var quad = thread; quad < ${width}u; quad += ${THREADS}u) {
  var share = vec4<f32>(${1 / columns});
  if (total > 0.0) { share = sum_of(first, chunks, quad) / total; }
  shares[group * ${width}u + quad] = share;
}`,
  });
});

/** Query clusters that a workgroup of {@link spreads} takes, and keys at a time. */
export const SPREAD_CENTROIDS = 8;
const KEYS = 16;

/**
 * u_ij of README, step 5: how far the members of a key cluster are spread around its tilted key, by query cluster:
 * [heads, query clusters, clusters padded to fours], zeros for clusters without members. One group per (head, tile of
 * query clusters, cluster or padding).
 */
export const spreads = variants((shape: Pick<HeadShape, 'type' | 'headDim'>) => {
  const width = quads(shape.headDim);
  const threads = SPREAD_CENTROIDS * KEYS;
  return kernel({
    label: 'cluster spreads',
    threads,
    parameters: summaryParameters,
    bindings: {
      centroids: storage('read', 'vec4<f32>'),
      key: tensorRows(shape.type, shape.headDim),
      starts: storage('read', 'u32'),
      members: storage('read', 'u32'),
      shares: storage('read', 'vec4<f32>'),
      summary_weights: storage('read', 'f32'),
      summary_keys: storage('read', 'vec4<f32>'),
      summary_spreads: storage('read_write', 'f32'),
    },
    declarations: `${geometry}
${clusterMembers}
${logitQuads}
// One column of padding, so that neighboring keys differ in banks.
var<workgroup> keys: array<vec4<f32>, ${KEYS * (width + 1)}>;
var<workgroup> partial: array<f32, ${threads}>;`,
    body: `let padded = 4u * logit_quads();
let cluster = group % padded;
let tiles = (params.query_clusters + ${SPREAD_CENTROIDS - 1}u) / ${SPREAD_CENTROIDS}u;
let head = group / padded / tiles;
let kv = kv_head(head);
let query_cluster = group / padded % tiles * ${SPREAD_CENTROIDS}u + thread / ${KEYS}u;
let lane = thread % ${KEYS}u;
let known = min(query_cluster, params.query_clusters - 1u);
let centroid = ((head * params.sets + params.centroid_set) * params.query_clusters + known) * ${width}u;
let shared_by = (head * params.sets + params.centroid_set) * ${width}u;
let summary = (head * params.query_clusters + known) * params.clusters + min(cluster, params.clusters - 1u);
let run = select(vec2<u32>(), members_of(kv, cluster), cluster < params.clusters);
var spread = 0.0;
for (var base = run.x; base < run.y; base += ${KEYS}u) {
  let count = min(${KEYS}u, run.y - base);
  workgroupBarrier();
  for (var i = thread; i < count * ${width}u; i += ${threads}u) {
    let row = kv * params.keys + members[kv * params.keys + base + i / ${width}u] - 1u;
    keys[i / ${width}u * ${width + 1}u + i % ${width}u] = read_key(row, i % ${width}u);
  }
  workgroupBarrier();
  if (lane < count) {
    var product = vec4<f32>();
    var distance = vec4<f32>();
    for (var quad = 0u; quad < ${width}u; quad++) {
      let columns = keys[lane * ${width + 1}u + quad];
      let delta = columns - summary_keys[summary * ${width}u + quad];
      product += centroids[centroid + quad] * columns;
      distance += shares[shared_by + quad] * delta * delta;
    }
    let logit = params.scale * dot(product, vec4<f32>(1.0));
    spread += exp(logit - summary_weights[summary]) * dot(distance, vec4<f32>(1.0));
  }
}
partial[thread] = spread;
workgroupBarrier();
if (lane == 0u && query_cluster < params.query_clusters) {
  for (var i = 1u; i < ${KEYS}u; i++) { spread += partial[thread + i]; }
  summary_spreads[(head * params.query_clusters + query_cluster) * padded + cluster] = spread;
}`,
  });
});
