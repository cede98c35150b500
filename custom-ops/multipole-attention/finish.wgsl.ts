import { type FloatType, kernel, storage, variants } from '../runtime/web/wgsl.js';
import { stateQuads } from './near.wgsl.js';

/** Which rows of the state a dispatch gives out, and where they go. */
const outputParameters = {
  /** Rows of the state by head, and the first one that is given out. */
  state_rows: 'u32',
  state_skip: 'u32',
  /** N */
  queries: 'u32',
  /** Heads of all batch rows before the first one of this dispatch, and heads of this dispatch. */
  head_base: 'u32',
  head_count: 'u32',
  /** What a row that saw no key gets. */
  empty: 'f32',
} as const;

/**
 * Writes a tensor [all heads, N, columns] of the heads of this dispatch. `element(state row, column)` is an
 * f32 expression. A thread owns one 32-bit word; float16 words that other dispatches share keep their half.
 */
function writeTensor(
  label: string,
  type: FloatType,
  columns: number,
  element: (state: string, column: string) => string,
) {
  const perWord = type === 'float32' ? 1 : 2;
  const word = type === 'float32' ? 'f32' : 'u32';
  return kernel({
    label,
    parameters: outputParameters,
    bindings: { state: storage('read', 'vec4<f32>'), result: storage('read_write', word) },
    declarations: `fn element(index: u32) -> f32 {
  let row = index / ${columns}u;
  let head = row / params.queries - params.head_base;
  let state_row = head * params.state_rows + params.state_skip + row % params.queries;
  return ${element('state_row', `index % ${columns}u`)};
}`,
    body: `let begin = params.head_base * params.queries * ${columns}u;
let end = begin + params.head_count * params.queries * ${columns}u;
let word = begin / ${perWord}u + group * 256u + thread;
let index = word * ${perWord}u;
if (index >= end) { return; }
${
  type === 'float32'
    ? 'result[word] = element(index);'
    : `var halves = unpack2x16float(result[word]);
if (index >= begin) { halves.x = element(index); }
if (index + 1u < end) { halves.y = element(index + 1u); }
result[word] = pack2x16float(halves);`
}`,
  });
}

/** Weighted means from the state; zeros for a row that saw no key. One thread per word of `result`. */
export const finishOutput = variants((type: FloatType, valueDim: number) => {
  const width = stateQuads(valueDim);
  return writeTensor('attention output', type, valueDim, (row, column) => {
    const total = `state[${row} * ${width}u + ${width - 1}u].y`;
    const sum = `state[${row} * ${width}u + ${column} / 4u][${column} % 4u]`;
    return `select(params.empty, ${sum} / ${total}, ${total} > 0.0)`;
  });
});

/** Log-sum-exp of all logits of a row, -inf for a row that saw no key. One thread per word of `result`. */
export const finishLse = variants((type: FloatType, valueDim: number) => {
  const width = stateQuads(valueDim);
  return writeTensor('attention lse', type, 1, row => {
    const statistics = `state[${row} * ${width}u + ${width - 1}u]`;
    return `select(params.empty, ${statistics}.x + log(${statistics}.y), ${statistics}.y > 0.0)`;
  });
});
