import { stateQuads, writeState } from '../runtime/web/attention-state.wgsl.js';
import { AttentionTile, type TileShape } from '../runtime/web/attention-tile.wgsl.js';
import {
  booleans,
  type FloatType,
  kernel,
  optional,
  storage,
  tensorRows,
  variants,
} from '../runtime/web/wgsl.js';

/** What the kernel depends on besides run-time sizes. */
export interface LocalShape {
  readonly type: FloatType;
  readonly headDim: number;
  readonly valueDim: number;
  readonly tile: TileShape;
  readonly masked: boolean;
}

/**
 * Softmax attention of a tile of rows to the keys that any of them sees (README, "Semantics"). Writes states
 * [heads, rows]. One group per (head, tile of rows).
 */
export const attend = variants((shape: LocalShape) => {
  const { type, headDim, valueDim, masked } = shape;
  const tile = new AttentionTile(shape.tile);
  const loadQuery = (row: string, quad: string) =>
    `read_query(query_head * params.queries + min(first + ${row}, params.queries - 1u), ${quad})`;
  const keyRow = (key: string) => `kv * params.keys + min(base + ${key}, params.keys - 1u)`;
  return kernel({
    label: 'local attention',
    threads: tile.threads,
    parameters: {
      /** Query heads per batch row, and key/value heads. */
      heads: 'u32',
      kv_heads: 'u32',
      /** Heads of all batch rows before the first one of this dispatch. */
      head_base: 'u32',
      queries: 'u32',
      keys: 'u32',
      /** Position of row 0. */
      origin: 'i32',
      left: 'i32',
      right: 'i32',
      scale: 'f32',
      tiles: 'u32',
    },
    bindings: {
      query: tensorRows(type, headDim),
      key: tensorRows(type, headDim),
      value: tensorRows(type, valueDim),
      state: storage('read_write', 'vec4<f32>'),
      ...optional(masked, 'mask', booleans),
    },
    declarations: `${tile.declarations}
// The keys that a row sees.
fn window_of(row: u32) -> vec2<u32> {
  let position = i32(min(row, params.queries - 1u)) + params.origin;
  let keys = vec2<i32>(i32(params.keys));
  return vec2<u32>(clamp(vec2<i32>(position - params.left, position + params.right + 1), vec2<i32>(), keys));
}
fn state_of(head: u32, row: u32) -> u32 { return (head * params.queries + row) * ${stateQuads(valueDim)}u; }`,
    body: `let head = group / params.tiles;
let query_head = params.head_base + head;
let batch = query_head / params.heads;
let kv = batch * params.kv_heads + query_head % params.heads / (params.heads / params.kv_heads);
let first = group % params.tiles * ${tile.height}u;
let begin = window_of(first).x;
let end = window_of(first + ${tile.height - 1}u).y;
${tile.start(valueDim)}
${tile.rows.map(r => `let range_${r} = window_of(first + ${tile.row(r)});`).join('\n')}
${tile.loadQuery(headDim, loadQuery)}
for (var base = begin; base < end; base += ${shape.tile.keys}u) {
  ${tile.logits(headDim, loadQuery, (key, quad) => `read_key(${keyRow(key)}, ${quad})`)}
  ${tile.weights(
    valueDim,
    () => 'params.scale',
    (r, key) =>
      `base + ${key} >= range_${r}.x && base + ${key} < range_${r}.y${masked ? ` && read_mask(batch * params.keys + min(base + ${key}, params.keys - 1u))` : ''}`,
  )}
  ${tile.accumulate(valueDim, (key, quad) => `read_value(${keyRow(key)}, ${quad})`)}
}
${tile.finishTotals}
${writeState(tile, valueDim, r => `(first + ${tile.row(r)})`, 'params.queries')}`,
  });
});
