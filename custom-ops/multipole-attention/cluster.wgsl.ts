import {
  booleans,
  type FloatType,
  kernel,
  optional,
  quads,
  storage,
  tensorRows,
  variants,
} from '../runtime/web/wgsl.js';

/**
 * k-means over sets of rows (README, steps 3 and 4). A set is a range of rows of every head: the keys of a
 * segment, all queries, or the queries of a prefix. Sets are cut in chunks of {@link CHUNK} rows. `set_table`
 * holds (begin, end, first chunk, first slot) of every set, `chunk_table` (set, begin, end, place) of every
 * chunk, `place` being where the cluster of its first row stands in `assignment`. Points are the rows of the
 * heads from row `point_base` on, `rows` by head.
 */

/** Rows of a chunk, and threads that go through them. */
export const CHUNK = 256;
const THREADS = 64;
/** Cluster of a row that belongs to none. */
export const NO_CLUSTER = 0xffffffff;

export interface ClusterShape {
  readonly type: FloatType;
  /** Columns of the points. */
  readonly columns: number;
  /** Whether a key mask hides rows. */
  readonly masked: boolean;
}

/** `visible(head, row)` under the mask, whose rows are those of `heads_per_mask` heads each. */
const visibility = (masked: boolean) =>
  `fn visible(head: u32, row: u32) -> bool { return ${
    masked ? 'read_mask(head / params.heads_per_mask * params.rows + row)' : 'true'
  }; }`;

/** Initial centroids: visible rows of evenly spaced rank; zeros for a set without any. One group per (head, set). */
export const seeds = variants((shape: ClusterShape) =>
  kernel({
    label: 'cluster seeds',
    threads: THREADS,
    parameters: { point_base: 'u32', rows: 'u32', sets: 'u32', clusters: 'u32', heads_per_mask: 'u32' },
    bindings: {
      points: tensorRows(shape.type, shape.columns),
      set_table: storage('read', 'vec4<u32>'),
      centroids: storage('read_write', 'vec4<f32>'),
      ...optional(shape.masked, 'mask', booleans),
    },
    declarations: `const QUADS = ${quads(shape.columns)}u;
var<workgroup> counts: array<u32, ${THREADS}>;
${visibility(shape.masked)}`,
    body: `let head = group / params.sets;
let bounds = set_table[group % params.sets].xy;
let strip = (bounds.y - bounds.x + ${THREADS - 1}u) / ${THREADS}u;
let begin = bounds.x + thread * strip;
var count = 0u;
for (var row = begin; row < min(begin + strip, bounds.y); row++) { count += u32(visible(head, row)); }
counts[thread] = count;
workgroupBarrier();
var total = 0u;
for (var i = 0u; i < ${THREADS}u; i++) { total += counts[i]; }
for (var cluster = thread; cluster < params.clusters; cluster += ${THREADS}u) {
  let into = (group * params.clusters + cluster) * QUADS;
  if (total == 0u) {
    for (var quad = 0u; quad < QUADS; quad++) { centroids[into + quad] = vec4<f32>(); }
    continue;
  }
  var rank = cluster * total / params.clusters;
  var owner = 0u;
  while (rank >= counts[owner]) {
    rank -= counts[owner];
    owner++;
  }
  var row = bounds.x + owner * strip;
  loop {
    if (visible(head, row)) {
      if (rank == 0u) { break; }
      rank--;
    }
    row++;
  }
  for (var quad = 0u; quad < QUADS; quad++) {
    centroids[into + quad] = read_points(params.point_base + head * params.rows + row, quad);
  }
}`,
  }),
);

/** Workgroup memory for centroids. */
const CENTROID_QUADS = 512;

/** Nearest centroid of every row, the lowest one among equals. One group per (head, chunk). */
export const assign = variants((shape: ClusterShape) => {
  const width = quads(shape.columns);
  const held = Math.max(1, Math.floor(CENTROID_QUADS / width));
  const columns = Array.from({ length: width }, (_, quad) => quad);
  return kernel({
    label: 'nearest centroids',
    threads: THREADS,
    parameters: {
      point_base: 'u32',
      rows: 'u32',
      assigned: 'u32',
      sets: 'u32',
      chunks: 'u32',
      clusters: 'u32',
      heads_per_mask: 'u32',
    },
    bindings: {
      points: tensorRows(shape.type, shape.columns),
      chunk_table: storage('read', 'vec4<u32>'),
      centroids: storage('read', 'vec4<f32>'),
      assignment: storage('read_write', 'u32'),
      ...optional(shape.masked, 'mask', booleans),
    },
    declarations: `const QUADS = ${width}u;
const HELD = ${held}u;
var<workgroup> held: array<vec4<f32>, ${held * width}>;
${visibility(shape.masked)}`,
    body: `let head = group / params.chunks;
let chunk = chunk_table[group % params.chunks];
for (var strip = chunk.y; strip < chunk.z; strip += ${THREADS}u) {
  let row = strip + thread;
  let source = params.point_base + head * params.rows + min(row, chunk.z - 1u);
${columns.map(quad => `  let point_${quad} = read_points(source, ${quad}u);`).join('\n')}
  var nearest = 0u;
  var least = 3e38;
  for (var first = 0u; first < params.clusters; first += HELD) {
    let count = min(HELD, params.clusters - first);
    let origin = ((head * params.sets + chunk.x) * params.clusters + first) * QUADS;
    workgroupBarrier();
    for (var i = thread; i < count * QUADS; i += ${THREADS}u) { held[i] = centroids[origin + i]; }
    workgroupBarrier();
    for (var c = 0u; c < count; c++) {
      var distance = 0.0;
${columns
  .map(quad => `      { let d = point_${quad} - held[c * QUADS + ${quad}u]; distance += dot(d, d); }`)
  .join('\n')}
      if (distance < least) {
        least = distance;
        nearest = first + c;
      }
    }
  }
  if (row < chunk.z) {
    assignment[head * params.assigned + chunk.w + row - chunk.y] = select(${NO_CLUSTER}u, nearest, visible(head, row));
  }
}`,
  });
});

/** Clusters that are runs of `run` neighboring rows of a set. One group per (head, chunk). */
export const runs = variants((masked: boolean) =>
  kernel({
    label: 'contiguous clusters',
    parameters: { rows: 'u32', assigned: 'u32', chunks: 'u32', heads_per_mask: 'u32', run: 'u32' },
    bindings: {
      set_table: storage('read', 'vec4<u32>'),
      chunk_table: storage('read', 'vec4<u32>'),
      assignment: storage('read_write', 'u32'),
      ...optional(masked, 'mask', booleans),
    },
    declarations: visibility(masked),
    body: `let head = group / params.chunks;
let chunk = chunk_table[group % params.chunks];
let row = chunk.y + thread;
if (row < chunk.z) {
  let cluster = (row - set_table[chunk.x].x) / params.run;
  assignment[head * params.assigned + chunk.w + thread] = select(${NO_CLUSTER}u, cluster, visible(head, row));
}`,
  }),
);

/** Sums and counts of the members of each cluster by chunk. One group per (head, chunk, cluster). */
export const chunkSums = variants((shape: ClusterShape) => {
  const width = quads(shape.columns);
  const lanes = Math.min(THREADS, 2 ** Math.ceil(Math.log2(width)));
  return kernel({
    label: 'cluster sums',
    threads: THREADS,
    parameters: { point_base: 'u32', rows: 'u32', assigned: 'u32', chunks: 'u32', clusters: 'u32' },
    bindings: {
      points: tensorRows(shape.type, shape.columns),
      chunk_table: storage('read', 'vec4<u32>'),
      assignment: storage('read', 'u32'),
      sums: storage('read_write', 'vec4<f32>'),
      counts: storage('read_write', 'u32'),
    },
    declarations: `const QUADS = ${width}u;
const LANES = ${lanes}u;
const STRIPS = ${THREADS / lanes}u;
// One bit for every row of the chunk.
var<workgroup> members: array<atomic<u32>, ${CHUNK / 32}>;
var<workgroup> partial: array<vec4<f32>, ${THREADS}>;
var<workgroup> partial_counts: array<u32, ${THREADS}>;`,
    body: `let cluster = group % params.clusters;
let part = group / params.clusters;
let head = part / params.chunks;
let chunk = chunk_table[part % params.chunks];
let size = chunk.z - chunk.y;
let origin = params.point_base + head * params.rows + chunk.y;
let place = head * params.assigned + chunk.w;
if (thread < ${CHUNK / 32}u) { atomicStore(&members[thread], 0u); }
workgroupBarrier();
for (var n = thread; n < size; n += ${THREADS}u) {
  if (assignment[place + n] == cluster) { atomicOr(&members[n / 32u], 1u << (n % 32u)); }
}
workgroupBarrier();
let lane = thread % LANES;
let strip = thread / LANES;
for (var first = 0u; first < QUADS; first += LANES) {
  let quad = first + lane;
  var sum = vec4<f32>();
  var count = 0u;
  for (var word = strip; word < ${CHUNK / 32}u; word += STRIPS) {
    var bits = atomicLoad(&members[word]);
    count += countOneBits(bits);
    while (bits != 0u) {
      let n = word * 32u + firstTrailingBit(bits);
      bits &= bits - 1u;
      if (quad < QUADS) { sum += read_points(origin + n, quad); }
    }
  }
  partial[thread] = sum;
  partial_counts[thread] = count;
  workgroupBarrier();
  if (strip == 0u && quad < QUADS) {
    for (var s = 1u; s < STRIPS; s++) {
      sum += partial[s * LANES + lane];
      count += partial_counts[s * LANES + lane];
    }
    sums[group * QUADS + quad] = sum;
    if (quad == 0u) { counts[group] = count; }
  }
  workgroupBarrier();
}`,
  });
});

/** Centroids as the means of their members; without members they stay. One thread per (head, set, cluster, quad). */
export const means = variants((shape: Pick<ClusterShape, 'columns'>) =>
  kernel({
    label: 'cluster means',
    parameters: { sets: 'u32', chunks: 'u32', clusters: 'u32', threads: 'u32' },
    bindings: {
      set_table: storage('read', 'vec4<u32>'),
      sums: storage('read', 'vec4<f32>'),
      counts: storage('read', 'u32'),
      centroids: storage('read_write', 'vec4<f32>'),
    },
    declarations: `const QUADS = ${quads(shape.columns)}u;`,
    body: `let index = group * 256u + thread;
if (index >= params.threads) { return; }
let quad = index % QUADS;
let cluster = index / QUADS % params.clusters;
let member_set = index / (QUADS * params.clusters) % params.sets;
let head = index / (QUADS * params.clusters * params.sets);
let bounds = set_table[member_set];
let chunks = (bounds.y - bounds.x + ${CHUNK - 1}u) / ${CHUNK}u;
var sum = vec4<f32>();
var count = 0u;
for (var chunk = 0u; chunk < chunks; chunk++) {
  let part = (head * params.chunks + bounds.z + chunk) * params.clusters + cluster;
  sum += sums[part * QUADS + quad];
  count += counts[part];
}
if (count > 0u) { centroids[index] = sum / f32(count); }`,
  }),
);
