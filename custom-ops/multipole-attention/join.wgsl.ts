import { type FloatType, kernel, quads, storage, tensorRows, variants } from '../runtime/web/wgsl.js';

/**
 * past_query and query as one tensor, [heads, P + N, columns padded to fours] in float32. One thread per four
 * columns.
 */
export const joinRows = variants((type: FloatType, columns: number) =>
  kernel({
    label: 'past and present queries',
    parameters: { past: 'u32', queries: 'u32', threads: 'u32' },
    bindings: {
      past_query: tensorRows(type, columns),
      query: tensorRows(type, columns),
      joined: storage('read_write', 'vec4<f32>'),
    },
    body: `let index = group * 256u + thread;
if (index >= params.threads) { return; }
let quad = index % ${quads(columns)}u;
let rows = params.past + params.queries;
let row = index / ${quads(columns)}u % rows;
let head = index / ${quads(columns)}u / rows;
if (row < params.past) { joined[index] = read_past_query(head * params.past + row, quad); }
else { joined[index] = read_query(head * params.queries + row - params.past, quad); }`,
  }),
);
