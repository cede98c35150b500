import {
  booleans,
  type FloatType,
  kernel,
  optional,
  storage,
  tensorElements,
  variants,
} from '../runtime/web/wgsl.js';

/** Threads of a workgroup: so many channels side by side, each thread with four rows of one channel. */
const CHANNELS = 32;
const ROW_GROUPS = 8;
export const TILE_CHANNELS = CHANNELS;
export const TILE_ROWS = 4 * ROW_GROUPS;

/** Keys that a thread looks at before it shrinks what it summed. */
const STEP = 8;
/** Distance of a row that has seen no key: its square is a finite number. */
const FAR = '1e18';

/**
 * Order 0: every row by every key, weights exp(-(q - k)^2) kept relative to the nearest key so far. One group per
 * (batch row, tile of rows, tile of channels).
 */
export const exact = variants((type: FloatType, masked: boolean, causal: boolean) => {
  const steps = Array.from({ length: STEP }, (_, n) => n);
  const seen = (n: number) => (causal ? `(hidden_${n} | (vec4<u32>(token + ${n}u) > rows))` : `hidden_${n}`);
  return kernel({
    label: 'elementwise attention',
    threads: CHANNELS * ROW_GROUPS,
    parameters: {
      channels: 'u32',
      rows: 'u32',
      keys: 'u32',
      row_tiles: 'u32',
      channel_tiles: 'u32',
    },
    bindings: {
      query: tensorElements(type),
      key: tensorElements(type),
      value: tensorElements(type),
      output: storage('read_write', 'f32'),
      ...optional(masked, 'mask', booleans),
    },
    declarations: `fn is_hidden(batch: u32, token: u32) -> bool {
  return token >= params.keys${masked ? ' || !read_mask(batch * params.keys + token)' : ''};
}`,
    body: `let channel = group % params.channel_tiles * ${CHANNELS}u + thread % ${CHANNELS}u;
let tile = group / params.channel_tiles % params.row_tiles;
let batch = group / params.channel_tiles / params.row_tiles;
let first = tile * ${TILE_ROWS}u + thread / ${CHANNELS}u * 4u;
if (channel >= params.channels || first >= params.rows) { return; }
let rows = vec4<u32>(first, first + 1u, first + 2u, first + 3u);
let places = (batch * params.rows + min(rows, vec4<u32>(params.rows - 1u))) * params.channels + channel;
let queries = vec4<f32>(read_query(places.x), read_query(places.y), read_query(places.z), read_query(places.w));
var nearest = vec4<f32>(${FAR});
var numerator = vec4<f32>();
var denominator = vec4<f32>();
let end = ${causal ? 'min(params.keys, first + 4u)' : 'params.keys'};
for (var token = 0u; token < end; token += ${STEP}u) {
${steps
  .map(
    n => `  let place_${n} = (batch * params.keys + min(token + ${n}u, params.keys - 1u)) * params.channels + channel;
  let hidden_${n} = vec4<bool>(is_hidden(batch, token + ${n}u));
  let distance_${n} = select(abs(queries - read_key(place_${n})), vec4<f32>(${FAR}), ${seen(n)});`,
  )
  .join('\n')}
  let least = ${steps.map(n => `distance_${n}`).reduce((a, b) => `min(${a}, ${b})`, 'nearest')};
  let shrink = exp((least - nearest) * (least + nearest));
  nearest = least;
  numerator *= shrink;
  denominator *= shrink;
${steps
  .map(
    n => `  let weight_${n} = exp((least - distance_${n}) * (least + distance_${n}));
  numerator += select(weight_${n} * read_value(place_${n}), vec4<f32>(), ${seen(n)});
  denominator += select(weight_${n}, vec4<f32>(), ${seen(n)});`,
  )
  .join('\n')}
}
let means = select(vec4<f32>(), numerator / denominator, denominator > vec4<f32>());
for (var r = 0u; r < 4u; r++) { if (rows[r] < params.rows) { output[places[r]] = means[r]; } }`,
  });
});
