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
import { levelQuads } from './levels.js';

/** What the attention kernel depends on besides run-time sizes. */
export interface LevelShape {
  readonly ranks: readonly number[];
  /** Of the values. */
  readonly type: FloatType;
  readonly valueDim: number;
  readonly tile: TileShape;
  readonly masked: boolean;
  readonly causal: boolean;
  /** Whether scores are divided by the number of levels that two tokens share. */
  readonly divided: boolean;
}

/** Number of the finest block of a position before the first token: it shares none with any token. */
const BEFORE_ALL = '0x80000000u';

/**
 * Softmax attention where a score has the columns of the levels that two tokens share. Blocks nest, so those are
 * the first columns; how many follows from the finest blocks that hold the two tokens, whose numbers agree but for
 * their last bits. Most tiles of rows and keys share the same levels throughout, and only the tiles at the
 * borders of blocks look at each pair. Queries and keys are arranged (rows.wgsl.ts), queries scaled. Writes states
 * [parts, heads, rows], each over `part_keys` keys. One group per (head, part, tile of rows).
 */
export const attend = variants((shape: LevelShape) => {
  const { ranks, valueDim, masked, causal, divided } = shape;
  const levels = ranks.length;
  const tile = new AttentionTile(shape.tile);
  const { keys } = shape.tile;
  const starts = levelQuads(ranks);
  const width = starts[levels]!;
  const loadQuery = (row: string, quad: string) =>
    `arranged_query[(query_head * params.queries + min(first + ${row}, params.queries - 1u)) * ${width}u + ${quad}]`;
  const rowBlocks = `vec4<u32>(${tile.rows.map(r => `row_block_${r}`).join(', ')})`;
  const share = (c: number) =>
    `let levels_${c} = levels_by(${rowBlocks}, vec4<u32>((base + ${tile.key(c)}) / params.block));`;
  const partial = {
    quads: 'end_quad',
    uneven: 'least != most',
    prepare: share,
    counts: (c: number, quad: string) => `levels_${c} > vec4<u32>(level_of(${quad}))`,
  };
  const divisors = divided ? tile.keys.map(share).join('\n') : '';
  return kernel({
    label: 'multi-level attention',
    threads: tile.threads,
    parameters: {
      /** Query heads per batch row, and key/value heads. */
      heads: 'u32',
      kv_heads: 'u32',
      /** Heads of all batch rows before the first one of this dispatch, and heads of this dispatch. */
      head_base: 'u32',
      head_count: 'u32',
      queries: 'u32',
      keys: 'u32',
      /** Position of row 0. */
      origin: 'i32',
      /** Tokens in a block of the last level. */
      block: 'u32',
      tiles: 'u32',
      parts: 'u32',
      /** A multiple of the tile's keys. */
      part_keys: 'u32',
    },
    bindings: {
      arranged_query: storage('read', 'vec4<f32>'),
      arranged_key: storage('read', 'vec4<f32>'),
      value: tensorRows(shape.type, valueDim),
      state: storage('read_write', 'vec4<f32>'),
      ...optional(masked, 'mask', booleans),
    },
    declarations: `${tile.declarations}
fn position_of(row: u32) -> i32 { return i32(min(row, params.queries - 1u)) + params.origin; }
fn block_of(position: i32) -> u32 {
  return select(u32(position) / params.block, ${BEFORE_ALL}, position < 0);
}
// Levels that tokens in two of the finest blocks share.
fn levels_by(a: vec4<u32>, b: vec4<u32>) -> vec4<u32> {
  let unlike = vec4<i32>(firstLeadingBit(a ^ b));
  return vec4<u32>(max(vec4<i32>(1), vec4<i32>(${levels - 1}) - unlike));
}
fn levels_of(a: u32, b: u32) -> u32 { return levels_by(vec4<u32>(a), vec4<u32>(b)).x; }
fn level_of(quad: u32) -> u32 {
  return ${['0u', ...starts.slice(1, levels).map(start => `u32(quad >= ${start}u)`)].join(' + ')};
}
fn quads_of(levels: u32) -> u32 {
  return ${starts.slice(1, levels).reduceRight((rest, start, n) => `select(${rest}, ${start}u, levels == ${n + 1}u)`, `${width}u`)};
}
fn state_of(head: u32, row: u32) -> u32 { return (head * params.queries + row) * ${stateQuads(valueDim)}u; }
// Where the keys that a row sees end.
fn end_of(row: u32) -> u32 {
  return ${causal ? 'u32(clamp(position_of(row) + 1, 0, i32(params.keys)))' : 'params.keys'};
}`,
    body: `let part = group / params.tiles % params.parts;
let own_head = group / params.tiles / params.parts;
let query_head = params.head_base + own_head;
let batch = query_head / params.heads;
let kv = batch * params.kv_heads + query_head % params.heads / (params.heads / params.kv_heads);
let first = group % params.tiles * ${tile.height}u;
let last = min(first + ${tile.height}u, params.queries) - 1u;
// Blocks of the tile's rows at positions from 0 on; whether there are others, or none at all.
let first_block = u32(max(position_of(first), 0)) / params.block;
let last_block = u32(max(position_of(last), 0)) / params.block;
let some_before = position_of(first) < 0;
let all_before = position_of(last) < 0;
let begin = part * params.part_keys;
let end = min(begin + params.part_keys, end_of(last));
${tile.start(valueDim)}
${tile.rows
  .map(
    r => `let row_block_${r} = block_of(position_of(first + ${tile.row(r)}));
let end_${r} = end_of(first + ${tile.row(r)});`,
  )
  .join('\n')}
${tile.loadQuery(4 * width, loadQuery)}
for (var base = begin; base < end; base += ${keys}u) {
  let near_block = base / params.block;
  let far_block = (min(base + ${keys}u, params.keys) - 1u) / params.block;
  let apart = first_block > far_block || near_block > last_block;
  let nearest = select(
    levels_of(last_block, near_block), levels_of(first_block, far_block), first_block > far_block);
  let most = select(select(${levels}u, nearest, apart), 1u, all_before);
  let least = select(
    levels_of(min(first_block, near_block), max(last_block, far_block)), 1u, some_before);
  let end_quad = quads_of(most);
  ${tile.logits(
    4 * width,
    loadQuery,
    (key, quad) =>
      `arranged_key[(kv * params.keys + min(base + ${key}, params.keys - 1u)) * ${width}u + ${quad}]`,
    partial,
  )}
  ${divisors}
  ${tile.weights(
    valueDim,
    c => (divided ? `(1.0 / vec4<f32>(levels_${c}))` : '1.0'),
    (r, key) =>
      `base + ${key} < end_${r}${masked ? ` && read_mask(batch * params.keys + min(base + ${key}, params.keys - 1u))` : ''}`,
  )}
  ${tile.accumulate(valueDim, (key, quad) => `read_value(kv * params.keys + min(base + ${key}, params.keys - 1u), ${quad})`)}
}
${tile.finishTotals}
let head = part * params.head_count + own_head;
${writeState(tile, valueDim, r => `(first + ${tile.row(r)})`, 'params.queries')}`,
  });
});
