import { kernel, storage } from '../runtime/web/wgsl.js';
import { CHUNK } from './cluster.wgsl.js';

/**
 * Sorts the rows of sets by cluster, stably. Every cluster of a set gets a run of slots whose length is a
 * multiple of `align`; `order[slot]` is the row plus one, 0 where a slot is empty. Tables as in
 * cluster.wgsl.ts, with the first slot of a set in its fourth column.
 */

/** Members of each cluster by chunk. One group per (head, chunk). */
export const tally = (clusters: number) =>
  kernel({
    label: 'cluster sizes',
    parameters: { rows: 'u32', chunks: 'u32' },
    bindings: {
      chunk_table: storage('read', 'vec4<u32>'),
      assignment: storage('read', 'u32'),
      counts: storage('read_write', 'u32'),
    },
    declarations: `const CLUSTERS = ${clusters}u;
var<workgroup> chunk_clusters: array<u32, ${CHUNK}>;`,
    body: `let chunk = chunk_table[group % params.chunks];
let size = chunk.z - chunk.y;
if (thread < size) {
  chunk_clusters[thread] = assignment[group / params.chunks * params.rows + chunk.y + thread];
}
workgroupBarrier();
for (var cluster = thread; cluster < CLUSTERS; cluster += 256u) {
  var count = 0u;
  for (var n = 0u; n < size; n++) { count += u32(chunk_clusters[n] == cluster); }
  counts[group * CLUSTERS + cluster] = count;
}`,
  });

/**
 * First slot of every cluster (`starts`, [heads, sets, clusters + 1]) and, in place of its counts, of the part
 * of every cluster that comes from each chunk. One group per (head, set).
 */
export const offsets = (clusters: number) =>
  kernel({
    label: 'cluster offsets',
    parameters: { sets: 'u32', chunks: 'u32', align: 'u32' },
    bindings: {
      set_table: storage('read', 'vec4<u32>'),
      counts: storage('read_write', 'u32'),
      starts: storage('read_write', 'u32'),
    },
    declarations: `const CLUSTERS = ${clusters}u;
var<workgroup> cluster_starts: array<u32, ${clusters}>;`,
    body: `let head = group / params.sets;
let bounds = set_table[group % params.sets];
let chunks = (bounds.y - bounds.x + ${CHUNK - 1}u) / ${CHUNK}u;
let first = (head * params.chunks + bounds.z) * CLUSTERS;
for (var cluster = thread; cluster < CLUSTERS; cluster += 256u) {
  var count = 0u;
  for (var chunk = 0u; chunk < chunks; chunk++) { count += counts[first + chunk * CLUSTERS + cluster]; }
  cluster_starts[cluster] = count;
}
workgroupBarrier();
if (thread == 0u) {
  var slot = bounds.w;
  for (var cluster = 0u; cluster < CLUSTERS; cluster++) {
    let count = cluster_starts[cluster];
    cluster_starts[cluster] = slot;
    starts[group * (CLUSTERS + 1u) + cluster] = slot;
    slot += (count + params.align - 1u) / params.align * params.align;
  }
  starts[group * (CLUSTERS + 1u) + CLUSTERS] = slot;
}
workgroupBarrier();
for (var cluster = thread; cluster < CLUSTERS; cluster += 256u) {
  var slot = cluster_starts[cluster];
  for (var chunk = 0u; chunk < chunks; chunk++) {
    let count = counts[first + chunk * CLUSTERS + cluster];
    counts[first + chunk * CLUSTERS + cluster] = slot;
    slot += count;
  }
}`,
  });

/** Writes rows to their slots, `slots` of them per head. One group per (head, chunk). */
export const scatter = (clusters: number) =>
  kernel({
    label: 'rows by cluster',
    parameters: { rows: 'u32', chunks: 'u32', slots: 'u32' },
    bindings: {
      chunk_table: storage('read', 'vec4<u32>'),
      assignment: storage('read', 'u32'),
      first_slots: storage('read', 'u32'),
      order: storage('read_write', 'u32'),
    },
    declarations: `const CLUSTERS = ${clusters}u;
var<workgroup> chunk_clusters: array<u32, ${CHUNK}>;`,
    body: `let head = group / params.chunks;
let chunk = chunk_table[group % params.chunks];
let size = chunk.z - chunk.y;
if (thread < size) { chunk_clusters[thread] = assignment[head * params.rows + chunk.y + thread]; }
workgroupBarrier();
for (var cluster = thread; cluster < CLUSTERS; cluster += 256u) {
  var slot = head * params.slots + first_slots[group * CLUSTERS + cluster];
  for (var n = 0u; n < size; n++) {
    if (chunk_clusters[n] == cluster) {
      order[slot] = chunk.y + n + 1u;
      slot++;
    }
  }
}`,
  });
