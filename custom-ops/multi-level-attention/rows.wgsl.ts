import {
  type FloatType,
  kernel,
  optional,
  storage,
  THREADS,
  tensorElements,
  variants,
} from '../runtime/web/wgsl.js';
import { arrangedQuads } from './levels.js';

/**
 * Rows in float32 with their columns in groups of four by level (levels.ts), each level multiplied by its number of
 * `factors`. A source row has the columns of `ranks`; it becomes the groups from `first_quad` on of row
 * `first_row` + its own number, among `target_rows` by head. One thread per (head, source row, group).
 */
export const arrange = variants(
  (type: FloatType, ranks: readonly number[], factors: readonly number[] | null) => {
    const groups = arrangedQuads(ranks);
    const columns = ranks.reduce((sum, rank) => sum + rank, 0);
    const list = (values: readonly number[]) => values.map(value => value.toString()).join(', ');
    const table = (name: string, element: string, values: readonly number[]) =>
      `const ${name} = array<${element}, ${groups.length}>(${list(values)});`;
    return kernel({
      label: 'columns by level',
      parameters: {
        rows: 'u32',
        target_rows: 'u32',
        first_row: 'u32',
        target_quads: 'u32',
        first_quad: 'u32',
        threads: 'u32',
      },
      bindings: { source: tensorElements(type), arranged: storage('read_write', 'vec4<f32>') },
      declarations: `${table(
        'COLUMNS',
        'u32',
        groups.map(({ column }) => column),
      )}
${table(
  'COUNTS',
  'u32',
  groups.map(({ count }) => count),
)}
${
  factors
    ? table(
        'FACTORS',
        'f32',
        groups.map(({ level }) => factors[level]!),
      )
    : ''
}`,
      body: `let index = group * ${THREADS}u + thread;
if (index >= params.threads) { return; }
let quad = index % ${groups.length}u;
let row = index / ${groups.length}u % params.rows;
let head = index / ${groups.length}u / params.rows;
let source_at = (head * params.rows + row) * ${columns}u + COLUMNS[quad];
var columns = vec4<f32>();
for (var i = 0u; i < COUNTS[quad]; i++) { columns[i] = read_source(source_at + i); }
let target_row = head * params.target_rows + params.first_row + row;
arranged[target_row * params.target_quads + params.first_quad + quad] = columns${factors ? ' * FACTORS[quad]' : ''};`,
    });
  },
);

/**
 * The last rows of a cache and of the tokens after it, [heads, past_kept + fresh_kept, columns]: `past_kept` rows
 * of `past` behind `past_skip` others, then as many columns, from `fresh_column` on, of the last `fresh_kept` rows
 * of `fresh`. One thread per 32-bit word.
 */
export const laterRows = variants((type: FloatType, past: boolean) => {
  const perWord = type === 'float32' ? 1 : 2;
  return kernel({
    label: 'rows for later tokens',
    parameters: {
      columns: 'u32',
      past_kept: 'u32',
      past_skip: 'u32',
      fresh_kept: 'u32',
      fresh_skip: 'u32',
      fresh_columns: 'u32',
      fresh_column: 'u32',
      elements: 'u32',
    },
    bindings: {
      fresh: tensorElements(type),
      result: storage('read_write', type === 'float32' ? 'f32' : 'u32'),
      ...optional(past, 'past', tensorElements(type)),
    },
    declarations: `fn element(index: u32) -> f32 {
  let column = index % params.columns;
  let rows = params.past_kept + params.fresh_kept;
  let row = index / params.columns % rows;
  let head = index / params.columns / rows;
${
  past
    ? `  if (row < params.past_kept) {
    let past_rows = params.past_kept + params.past_skip;
    return read_past((head * past_rows + params.past_skip + row) * params.columns + column);
  }`
    : ''
}
  let fresh_rows = params.fresh_kept + params.fresh_skip;
  let fresh_row = head * fresh_rows + params.fresh_skip + row - params.past_kept;
  return read_fresh(fresh_row * params.fresh_columns + params.fresh_column + column);
}`,
    body: `let word = group * ${THREADS}u + thread;
let index = word * ${perWord}u;
if (index >= params.elements) { return; }
${
  type === 'float32'
    ? 'result[word] = element(index);'
    : `let last = params.elements - 1u;
result[word] = pack2x16float(vec2<f32>(element(index), select(0.0, element(min(index + 1u, last)), index < last)));`
}`,
  });
});
