import { type AttentionTile, HIDDEN } from './attention-tile.wgsl.js';
import type { GpuRange, GpuRecorder } from './gpu-recorder.js';
import type { GpuTensor } from './operator.js';
import { type FloatType, kernel, quads, storage, THREADS, variants } from './wgsl.js';

/**
 * State of a row between kernels: quads(E) groups of value columns, summed with weights relative to a maximum,
 * then (maximum, sum of weights, log-sum-exp of all logits that the weights are part of, 0).
 */
export const stateQuads = (valueDim: number): number => quads(valueDim) + 1;

/**
 * Writes sums, maximum, total and log-sum-exp of the thread's rows; `row(r)` is an expression of the row, and
 * the kernel has a function `state_of(head, row)`. Rows from `end` on are left out.
 */
export function writeState(
  tile: AttentionTile,
  valueDim: number,
  row: (r: number) => string,
  end: string,
): string {
  const width = stateQuads(valueDim);
  return `${tile.eachSum(
    valueDim,
    (sum, r, quad) => `if (${row(r)} < ${end}) { state[state_of(head, ${row(r)}) + ${quad}] = ${sum}; }`,
  )}
if (tx == 0u) {
${tile.rows
  .map(
    r => `  if (${row(r)} < ${end}) {
    let lse = select(${HIDDEN}, row_max[${r}] + log(row_total[${r}]), row_total[${r}] > 0.0);
    state[state_of(head, ${row(r)}) + ${width - 1}u] = vec4<f32>(row_max[${r}], row_total[${r}], lse, 0.0);
  }`,
  )
  .join('\n')}
}`;
}

/**
 * Merges `parts` states of every row into the first, each over other keys: [parts, rows]. One thread per (row,
 * group of columns).
 */
export const mergeStates = variants((valueDim: number) => {
  const width = stateQuads(valueDim);
  return kernel({
    label: 'merged attention states',
    parameters: { rows: 'u32', parts: 'u32', threads: 'u32' },
    bindings: {
      state: storage('read', 'vec4<f32>'),
      merged: storage('read_write', 'vec4<f32>'),
    },
    body: `let index = group * ${THREADS}u + thread;
if (index >= params.threads) { return; }
let row = index / ${width}u;
let stride = params.rows * ${width}u;
let statistics = row * ${width}u + ${width - 1}u;
var top = ${HIDDEN};
for (var part = 0u; part < params.parts; part++) { top = max(top, state[part * stride + statistics].x); }
var sum = vec4<f32>();
for (var part = 0u; part < params.parts; part++) {
  let factor = exp(state[part * stride + statistics].x - top);
  sum += state[part * stride + index] * factor;
}
let is_sum = index != statistics;
merged[index] = select(vec4<f32>(top, sum.y, 0.0, 0.0), sum, is_sum);`,
  });
});

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
let word = begin / ${perWord}u + group * ${THREADS}u + thread;
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
const finishOutput = variants((type: FloatType, valueDim: number) => {
  const width = stateQuads(valueDim);
  return writeTensor('attention output', type, valueDim, (row, column) => {
    const total = `state[${row} * ${width}u + ${width - 1}u].y`;
    const sum = `state[${row} * ${width}u + ${column} / 4u][${column} % 4u]`;
    return `select(params.empty, ${sum} / ${total}, ${total} > 0.0)`;
  });
});

/** Log-sum-exp of all logits of a row, -inf for a row that saw no key. One thread per word of `result`. */
const finishLse = variants((type: FloatType, valueDim: number) => {
  const width = stateQuads(valueDim);
  return writeTensor('attention lse', type, 1, row => {
    const statistics = `state[${row} * ${width}u + ${width - 1}u]`;
    return `select(params.empty, ${statistics}.x + log(${statistics}.y), ${statistics}.y > 0.0)`;
  });
});

/** Rows of which states give outputs, as the kernels above take them. */
export interface StateRows {
  /** Rows of the state by head, of which the first `skip` give no output. */
  readonly stateRows: number;
  readonly skip: number;
  /** N and E */
  readonly queries: number;
  readonly valueDim: number;
  /** Heads of all batch rows before the first one, and heads in the state. */
  readonly headBase: number;
  readonly headCount: number;
}

/** Writes outputs and log-sum-exps from states; null for what nobody asked for. */
export function writeOutputs(
  recorder: GpuRecorder,
  { stateRows, skip, queries, valueDim, headBase, headCount }: StateRows,
  state: GpuRange,
  output: GpuTensor | null,
  lse: GpuTensor | null,
): void {
  const values = {
    state_rows: stateRows,
    state_skip: skip,
    queries,
    head_base: headBase,
    head_count: headCount,
  };
  for (const [tensor, finish, columns, empty] of [
    [output, finishOutput, valueDim, 0],
    [lse, finishLse, 1, Number.NEGATIVE_INFINITY],
  ] as const) {
    if (!tensor) continue;
    const type = tensor.type as FloatType;
    const perWord = type === 'float32' ? 1 : 2;
    const begin = headBase * queries * columns;
    const end = begin + headCount * queries * columns;
    const words = Math.ceil(end / perWord) - Math.floor(begin / perWord);
    recorder.dispatch(
      finish(type, valueDim),
      { ...values, empty },
      { state, result: tensor.range },
      Math.ceil(words / THREADS),
    );
  }
}
