import { stateQuads, writeState } from '../runtime/web/attention-state.wgsl.js';
import { AttentionTile } from '../runtime/web/attention-tile.wgsl.js';
import { booleans, kernel, optional, storage, tensorRows, variants } from '../runtime/web/wgsl.js';
import { geometry, geometryParameters } from './geometry.wgsl.js';
import type { HeadShape } from './summarize.wgsl.js';

/**
 * Exact attention over the keys near a row (README, step 7), or over all keys it may see when `exact` is set;
 * writes the state of the rows from `first_row` on. One group per (head, tile of rows).
 */
export const near = variants((shape: HeadShape, masked: boolean) => {
  const { headDim, valueDim } = shape;
  const tile = new AttentionTile(shape.tile);
  const loadQuery = (row: string, quad: string) => `load_query(head, first + ${row}, ${quad})`;
  return kernel({
    label: 'near attention',
    threads: tile.threads,
    parameters: { ...geometryParameters, scale: 'f32', tiles: 'u32' },
    bindings: {
      query: tensorRows(shape.queryType, shape.queryColumns),
      key: tensorRows(shape.type, headDim),
      value: tensorRows(shape.type, valueDim),
      state: storage('read_write', 'vec4<f32>'),
      ...optional(masked, 'mask', booleans),
    },
    declarations: `${geometry}
${stateOf(valueDim)}
${tile.declarations}
fn load_query(head: u32, row: u32, quad: u32) -> vec4<f32> {
  return read_query(query_head(head) * params.rows + min(row, params.rows - 1u), quad);
}
fn is_visible(kv: u32, key: u32) -> bool {
  return ${masked ? 'read_mask(kv / params.kv_heads * params.keys + key)' : 'true'};
}`,
    body: `let head = group / params.tiles;
let kv = kv_head(head);
let first = params.first_row + group % params.tiles * ${tile.height}u;
let last = min(first + ${tile.height}u, params.rows) - 1u;
let begin = near_keys(first).x;
let end = near_keys(last).y;
${tile.start(valueDim)}
${tile.rows.map(r => `let range_${r} = near_keys(first + ${tile.row(r)});`).join('\n')}
${tile.loadQuery(headDim, loadQuery)}
for (var base = begin; base < end; base += ${shape.tile.keys}u) {
  ${tile.logits(headDim, loadQuery, (key, quad) => `read_key(kv * params.keys + min(base + ${key}, params.keys - 1u), ${quad})`)}
  ${tile.weights(
    valueDim,
    () => 'params.scale',
    (r, key) =>
      `base + ${key} >= range_${r}.x && base + ${key} < range_${r}.y && is_visible(kv, base + ${key})`,
  )}
  ${tile.accumulate(valueDim, (key, quad) => `read_value(kv * params.keys + min(base + ${key}, params.keys - 1u), ${quad})`)}
}
${tile.finishTotals}
${writeState(tile, valueDim, r => `(first + ${tile.row(r)})`, 'params.rows')}`,
  });
});

/** `state_of(head, row)`: where the state of a row starts. */
export const stateOf = (valueDim: number): string =>
  `fn state_of(head: u32, row: u32) -> u32 {
  return (head * (params.rows - params.first_row) + row - params.first_row) * ${stateQuads(valueDim)}u;
}`;
