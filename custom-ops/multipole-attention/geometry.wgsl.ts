import type { ParameterType } from '../runtime/web/wgsl.js';
import type { MultipoleParameters } from './parameters.js';

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
  /** Position of row 0. */
  origin: 'i32',
  /** 1 when a row has a segment of its own. */
  local: 'u32',
  /** 1 when every visible key is attended exactly. */
  exact: 'u32',
} as const satisfies Readonly<Record<string, ParameterType>>;

/**
 * Which keys and clusters a row sees (README, "Semantics"): `near_keys(row)` is X as a half-open range of
 * keys, `is_far(row, cluster)` tells F; `kv_head(head)` is the key/value head of a head of the dispatch, counted
 * over the whole batch, as `query_head` is.
 */
export function geometry({ segment, window, causal, keyClusters }: MultipoleParameters): string {
  return `const SEGMENT = ${segment}u;
const WINDOW = ${window}u;
const CAUSAL = ${causal};
const KEY_CLUSTERS = ${keyClusters}u;

fn query_head(head: u32) -> u32 { return params.head_base + head; }

fn kv_head(head: u32) -> u32 {
  let all = query_head(head);
  return (all / params.heads) * params.kv_heads + (all % params.heads) / (params.heads / params.kv_heads);
}

fn is_row(row: u32) -> bool { return row < params.rows && i32(row) + params.origin >= 0; }

fn near_keys(row: u32) -> vec2<u32> {
  if (!is_row(row)) { return vec2<u32>(); }
  let position = u32(i32(row) + params.origin);
  if (params.exact != 0u) {
    return vec2<u32>(0u, select(params.keys, min(params.keys, position + 1u), CAUSAL));
  }
  if (params.local == 0u) { return vec2<u32>(); }
  let own = position / max(SEGMENT, 1u);
  let end = min(params.keys, select((own + WINDOW + 1u) * SEGMENT, position + 1u, CAUSAL));
  return vec2<u32>(min(end, (own - min(own, WINDOW)) * SEGMENT), end);
}

fn is_far(row: u32, cluster: u32) -> bool {
  if (!is_row(row)) { return false; }
  if (params.local == 0u) { return true; }
  let own = u32(i32(row) + params.origin) / max(SEGMENT, 1u);
  let unit = cluster / KEY_CLUSTERS;
  return unit + WINDOW < own || (!CAUSAL && unit > own + WINDOW);
}
`;
}
