import { kernel, storage } from '../runtime/web/wgsl.js';
import { CHUNK } from './cluster.wgsl.js';

/**
 * Sorts the rows of sets by cluster, stably. Every cluster of a set gets a run of slots whose length is a
 * multiple of `align`; `order[slot]` is the row plus one, 0 where a slot is empty. Tables as in
 * cluster.wgsl.ts, with the first slot of a set in its fourth column.
 */

/** Members of each cluster by chunk. One group per (head, chunk). */
export const tally = kernel({
  label: 'cluster sizes',
  parameters: { assigned: 'u32', chunks: 'u32', clusters: 'u32' },
  bindings: {
    chunk_table: storage('read', 'vec4<u32>'),
    assignment: storage('read', 'u32'),
    counts: storage('read_write', 'u32'),
  },
  declarations: `var<workgroup> chunk_clusters: array<u32, ${CHUNK}>;`,
  body: `let chunk = chunk_table[group % params.chunks];
let size = chunk.z - chunk.y;
if (thread < size) {
  chunk_clusters[thread] = assignment[group / params.chunks * params.assigned + chunk.w + thread];
}
workgroupBarrier();
for (var cluster = thread; cluster < params.clusters; cluster += 256u) {
  var count = 0u;
  for (var n = 0u; n < size; n++) { count += u32(chunk_clusters[n] == cluster); }
  counts[group * params.clusters + cluster] = count;
}`,
});

/**
 * First slot of every cluster (`starts`, [heads, sets, clusters + 1]) and, in place of its counts, of the part
 * of every cluster that comes from each chunk. One group per (head, set).
 */
export const offsets = kernel({
  label: 'cluster offsets',
  parameters: { sets: 'u32', chunks: 'u32', clusters: 'u32', align: 'u32' },
  bindings: {
    set_table: storage('read', 'vec4<u32>'),
    counts: storage('read_write', 'u32'),
    starts: storage('read_write', 'u32'),
  },
  declarations: `var<workgroup> cluster_starts: array<u32, 257>;`,
  body: `let head = group / params.sets;
let bounds = set_table[group % params.sets];
let chunks = (bounds.y - bounds.x + ${CHUNK - 1}u) / ${CHUNK}u;
let first = (head * params.chunks + bounds.z) * params.clusters;
if (thread == 0u) { cluster_starts[256] = bounds.w; }
for (var panel = 0u; panel < params.clusters; panel += 256u) {
  let cluster = panel + thread;
  var count = 0u;
  if (cluster < params.clusters) {
    for (var chunk = 0u; chunk < chunks; chunk++) { count += counts[first + chunk * params.clusters + cluster]; }
  }
  cluster_starts[thread] = count;
  workgroupBarrier();
  if (thread == 0u) {
    var slot = cluster_starts[256];
    for (var i = 0u; i < 256u; i++) {
      let taken = (cluster_starts[i] + params.align - 1u) / params.align * params.align;
      cluster_starts[i] = slot;
      slot += taken;
    }
    cluster_starts[256] = slot;
  }
  workgroupBarrier();
  if (cluster < params.clusters) {
    var slot = cluster_starts[thread];
    starts[group * (params.clusters + 1u) + cluster] = slot;
    for (var chunk = 0u; chunk < chunks; chunk++) {
      let size = counts[first + chunk * params.clusters + cluster];
      counts[first + chunk * params.clusters + cluster] = slot;
      slot += size;
    }
  }
  workgroupBarrier();
}
if (thread == 0u) { starts[group * (params.clusters + 1u) + params.clusters] = cluster_starts[256]; }`,
});

/** Writes rows to their slots, `slots` of them per head. One group per (head, chunk). */
export const scatter = kernel({
  label: 'rows by cluster',
  parameters: { assigned: 'u32', chunks: 'u32', clusters: 'u32', slots: 'u32' },
  bindings: {
    chunk_table: storage('read', 'vec4<u32>'),
    assignment: storage('read', 'u32'),
    first_slots: storage('read', 'u32'),
    order: storage('read_write', 'u32'),
  },
  declarations: `var<workgroup> chunk_clusters: array<u32, ${CHUNK}>;`,
  body: `let head = group / params.chunks;
let chunk = chunk_table[group % params.chunks];
let size = chunk.z - chunk.y;
if (thread < size) { chunk_clusters[thread] = assignment[head * params.assigned + chunk.w + thread]; }
workgroupBarrier();
for (var cluster = thread; cluster < params.clusters; cluster += 256u) {
  var slot = head * params.slots + first_slots[group * params.clusters + cluster];
  for (var n = 0u; n < size; n++) {
    if (chunk_clusters[n] == cluster) {
      order[slot] = chunk.y + n + 1u;
      slot++;
    }
  }
}`,
});
