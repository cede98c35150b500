import type { ParameterType } from '../runtime/web/wgsl.js';

/** Run-time sizes of one call; the names that {@link geometry} reads from `params`. */
export const geometryParameters = {
  /** Query heads per batch row, and key/value heads. */
  heads: 'u32',
  kv_heads: 'u32',
  /** Heads of all batch rows before the first one of this dispatch. */
  head_base: 'u32',
  /** P + N */
  rows: 'u32',
  /** First row that is worked on: those before it serve only for centroids. */
  first_row: 'u32',
  /** S */
  keys: 'u32',
  /** Segments attended exactly besides the own one, no more than there are. */
  window: 'u32',
  /** Position of row 0. */
  origin: 'i32',
  /** 1 when a row has a segment of its own. */
  local: 'u32',
  /** 1 when every visible key is attended exactly. */
  exact: 'u32',
  /** Attributes. */
  causal: 'u32',
  segment: 'u32',
  key_clusters: 'u32',
  query_clusters: 'u32',
  /** Queries per pool. */
  pool_size: 'u32',
} as const satisfies Readonly<Record<string, ParameterType>>;

/** The factor on products, and which of the query centroids in memory count. */
export const centroidParameters = {
  scale: 'f32',
  /** Sets of centroids by head, and the one to use. */
  sets: 'u32',
  centroid_set: 'u32',
} as const;

/** A block of rows whose estimates are in memory together. */
export const blockParameters = {
  /** Rows [block_begin, block_end). */
  block_begin: 'u32',
  block_end: 'u32',
  /** Clusters of the summaries, and of estimates, whose rows are padded to fours. */
  clusters: 'u32',
} as const;

/** Groups of four clusters in a row of estimates. */
export const logitQuads = 'fn logit_quads() -> u32 { return (params.clusters + 3u) / 4u; }';

/**
 * `members_of(kv, cluster)`: the slots of `members` that hold the keys of a cluster, as a half-open range; needs the
 * bindings `starts` and `members` (see group.wgsl.ts) and `all_clusters`.
 */
export const clusterMembers = `fn members_of(kv: u32, cluster: u32) -> vec2<u32> {
  let unit = kv * (params.all_clusters / params.key_clusters) + cluster / params.key_clusters;
  let at = unit * (params.key_clusters + 1u) + cluster % params.key_clusters;
  return vec2<u32>(starts[at], starts[at + 1u]);
}`;

/** A number above that of every cluster. */
const NO_END = '0xffffffffu';

/**
 * Which keys and clusters a row sees (README, "Semantics"): `near_keys(row)` is X as a half-open range of
 * keys, `far_clusters(row)` is F as the clusters below its first number and those from its second one on, which
 * `is_far` tells; `kv_head(head)` is the key/value head of a head of the dispatch, counted over the whole batch, as
 * `query_head` is.
 */
export const geometry = `fn query_head(head: u32) -> u32 { return params.head_base + head; }

fn kv_head(head: u32) -> u32 {
  let all = query_head(head);
  return (all / params.heads) * params.kv_heads + (all % params.heads) / (params.heads / params.kv_heads);
}

fn is_row(row: u32) -> bool { return row < params.rows && i32(row) + params.origin >= 0; }

fn near_keys(row: u32) -> vec2<u32> {
  if (!is_row(row)) { return vec2<u32>(); }
  let position = u32(i32(row) + params.origin);
  if (params.exact != 0u) {
    return vec2<u32>(0u, select(params.keys, min(params.keys, position + 1u), params.causal != 0u));
  }
  if (params.local == 0u) { return vec2<u32>(); }
  let own = position / params.segment;
  let end = min(params.keys, select((own + params.window + 1u) * params.segment, position + 1u, params.causal != 0u));
  return vec2<u32>(min(end, (own - min(own, params.window)) * params.segment), end);
}

fn far_clusters(row: u32) -> vec2<u32> {
  if (!is_row(row)) { return vec2<u32>(0u, ${NO_END}); }
  if (params.local == 0u) { return vec2<u32>(${NO_END}); }
  let own = u32(i32(row) + params.origin) / params.segment;
  let before = (own - min(own, params.window)) * params.key_clusters;
  let after = (own + params.window + 1u) * params.key_clusters;
  return vec2<u32>(before, select(after, ${NO_END}, params.causal != 0u));
}

fn is_far(clusters: vec2<u32>, cluster: u32) -> bool { return cluster < clusters.x || cluster >= clusters.y; }
`;
