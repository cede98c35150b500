import { quads } from './wgsl.js';

/**
 * The pieces that attention kernels are put together from: a workgroup of 16 x 16 threads computes
 * `rows` x `keys` logits of a tile, turns them into softmax weights with a running maximum, and adds the
 * weighted values to sums kept in registers.
 *
 * Thread (ty, tx) owns the rows `ty * R` to `ty * R + R - 1` (R = rows / 16, held in one vector `row_vec`), the
 * logits of keys `tx + 16 c`, and columns `4 tx + 64 chunk` to `+ 3` of the sums. Workgroup memory: the query
 * tile, the key or value tile, the weights, and one vector per thread for reductions.
 */
export interface TileShape {
  /** 32 or 64. */
  readonly rows: number;
  /** 16 or 32. */
  readonly keys: number;
  /** Columns, in groups of four, that the query and key tiles hold at a time: a power of two up to 16. */
  readonly depth: number;
}

/** Logit of what may not be seen: finite, since WGSL promises nothing about infinities. */
export const HIDDEN = '-1e30';
/** Whether a logit, or a running maximum, stands for something visible. */
export const visible = (logit: string): string => `(${logit} > vec_row(-5e29))`;

/** Columns of values, in groups of four, that one chunk of the sums covers: one group per tx. */
const CHUNK = 16;

/** The largest tile for queries of `columns` columns that fits the device's workgroup memory. */
export function tileShape(limits: GPUSupportedLimits, columns: number): TileShape {
  const depth = Math.min(CHUNK, 2 ** Math.ceil(Math.log2(quads(columns))));
  const memory = limits.maxComputeWorkgroupStorageSize - RESERVED;
  const shapes: TileShape[] = [
    { rows: 64, keys: 32, depth },
    { rows: 64, keys: 32, depth: Math.min(depth, 8) },
    { rows: 32, keys: 16, depth: Math.min(depth, 8) },
  ];
  return shapes.find(shape => tileBytes(shape) <= memory)!;
}

/** Workgroup memory left for what a kernel declares besides the tile. */
const RESERVED = 4096;

function tileBytes({ rows, keys, depth }: TileShape): number {
  return 16 * (rows * depth + keys * Math.max(depth, CHUNK)) + 4 * rows * keys + 4 * (rows / 16) * 256;
}

const range = (count: number): number[] => Array.from({ length: count }, (_, n) => n);

/** WGSL of one tile shape; every piece is a statement list for the body of a kernel. */
export class AttentionTile {
  readonly rowsPerThread: number;
  /** Row numbers of a thread, and key numbers of its logits. */
  readonly rows: readonly number[];
  readonly keys: readonly number[];

  constructor(readonly shape: TileShape) {
    this.rowsPerThread = shape.rows / 16;
    this.rows = range(this.rowsPerThread);
    this.keys = range(shape.keys / 16);
  }

  /** Expression of the tile's row that the thread's row number r stands for. */
  row(r: number): string {
    return `(ty * ${this.rowsPerThread}u + ${r}u)`;
  }

  get declarations(): string {
    const { rows, keys, depth } = this.shape;
    return `alias row_vec = vec${this.rowsPerThread}<f32>;
alias row_bool = vec${this.rowsPerThread}<bool>;
fn vec_row(x: f32) -> row_vec { return row_vec(x); }
var<workgroup> query_tile: array<vec4<f32>, ${rows * depth}>;
var<workgroup> key_tile: array<vec4<f32>, ${keys * Math.max(depth, CHUNK)}>;
var<workgroup> weight_tile: array<row_vec, ${keys * 16}>;
var<workgroup> reduction: array<row_vec, 256>;`;
  }

  /** Thread coordinates and the running softmax: to be declared once, before anything else. */
  start(valueColumns: number): string {
    return `let tx = thread % 16u;
let ty = thread / 16u;
var row_max = row_vec(${HIDDEN});
var row_total = row_vec();
${this.#sums(valueColumns)
  .map(sum => `var ${sum} = vec4<f32>();`)
  .join('\n')}`;
  }

  /**
   * Loads the query tile; before {@link logits}, and only when one depth step covers all columns (otherwise
   * `logits` loads it piece by piece). `load(row, quad)` is an expression of four query columns.
   */
  loadQuery(columns: number, load: (row: string, quad: string) => string): string {
    return this.#steps(columns) > 1 ? '' : this.#fillQuery('0u', columns, load);
  }

  /**
   * Declares `logit_c`, the products of the thread's rows with key `tx + 16 c` of the tile. `load(key, quad)`
   * is an expression of four key columns of the tile's key number `key`.
   */
  logits(
    columns: number,
    loadQuery: (row: string, quad: string) => string,
    loadKey: (key: string, quad: string) => string,
  ): string {
    const { keys, depth } = this.shape;
    const steps = this.#steps(columns);
    const at = (key: string, quad: string) => `${key} * ${depth}u + (${quad} ^ (${key} & ${depth - 1}u))`;
    return `${this.keys.map(c => `var logit_${c} = row_vec();`).join('\n')}
for (var step = 0u; step < ${steps}u; step++) {
  ${steps > 1 ? this.#fillQuery(`step * ${depth}u`, columns, loadQuery) : ''}
  for (var i = thread; i < ${keys * depth}u; i += 256u) {
    let key = i / ${depth}u;
    let quad = step * ${depth}u + i % ${depth}u;
    var columns = vec4<f32>();
    if (quad < ${quads(columns)}u) { columns = ${loadKey('key', 'quad')}; }
    key_tile[${at('key', `(i % ${depth}u)`)}] = columns;
  }
  workgroupBarrier();
  for (var quad = 0u; quad < ${depth}u; quad++) {
${this.rows.map(r => `    let query_${r} = query_tile[(ty * ${this.rowsPerThread}u + ${r}u) * ${depth}u + (quad ^ (ty & ${depth - 1}u))];`).join('\n')}
${this.keys
  .map(
    c => `    let key_${c} = key_tile[${at(`(tx + ${16 * c}u)`, 'quad')}];
    logit_${c} += row_vec(${this.rows.map(r => `dot(query_${r}, key_${c})`).join(', ')});`,
  )
  .join('\n')}
  }
  workgroupBarrier();
}`;
  }

  /**
   * Hides logits, then turns them into weights relative to the running maximum and shrinks what was summed
   * before. `seen(r, key)` is a boolean expression for the thread's row number r and the tile's key number.
   */
  weights(valueColumns: number, scale: string, seen: (r: number, key: string) => string): string {
    return `${this.keys
      .map(
        c =>
          `logit_${c} = select(row_vec(${HIDDEN}), logit_${c} * ${scale}, row_bool(${this.rows
            .map(r => seen(r, `(tx + ${16 * c}u)`))
            .join(', ')}));`,
      )
      .join('\n')}
reduction[thread] = ${this.keys.map(c => `logit_${c}`).reduce((a, b) => `max(${a}, ${b})`)};
workgroupBarrier();
var next_max = row_max;
for (var x = 0u; x < 16u; x++) { next_max = max(next_max, reduction[ty * 16u + x]); }
let shrink = exp(row_max - next_max);
row_max = next_max;
row_total *= shrink;
${this.keys
  .map(
    c => `let weight_${c} = select(row_vec(), exp(logit_${c} - row_max), ${visible(`logit_${c}`)});
row_total += weight_${c};
weight_tile[(tx + ${16 * c}u) * 16u + ty] = weight_${c};`,
  )
  .join('\n')}
${this.#eachSum(valueColumns, (sum, r) => `${sum} *= shrink[${r}];`)}`;
  }

  /**
   * Adds `weight_tile` times the values of the tile's keys to the sums. `load(key, quad)` is an expression of
   * four value columns. Ends with all threads past the tile, so that it may be filled again.
   */
  accumulate(valueColumns: number, load: (key: string, quad: string) => string): string {
    const { keys } = this.shape;
    return range(this.#chunks(valueColumns))
      .map(
        chunk => `for (var i = thread; i < ${keys * CHUNK}u; i += 256u) {
  let key = i / ${CHUNK}u;
  let quad = ${chunk * CHUNK}u + i % ${CHUNK}u;
  var columns = vec4<f32>();
  if (quad < ${quads(valueColumns)}u) { columns = ${load('key', 'quad')}; }
  key_tile[i] = columns;
}
workgroupBarrier();
for (var key = 0u; key < ${keys}u; key++) {
  let weights = weight_tile[key * 16u + ty];
  let columns = key_tile[key * ${CHUNK}u + tx];
${this.rows.map(r => `  ${sumName(chunk, r)} += weights[${r}] * columns;`).join('\n')}
}
workgroupBarrier();`,
      )
      .join('\n');
  }

  /** Adds up `row_total` over the threads that share rows; afterwards every thread has the totals. */
  get finishTotals(): string {
    return `workgroupBarrier();
reduction[thread] = row_total;
workgroupBarrier();
row_total = row_vec();
for (var x = 0u; x < 16u; x++) { row_total += reduction[ty * 16u + x]; }`;
  }

  /**
   * Runs `use(sum, r, quad)` for every sum of the thread that lies inside `valueColumns`: `sum` names four
   * columns, `r` is the row's component, `quad` an expression of the group of columns.
   */
  eachSum(valueColumns: number, use: (sum: string, r: number, quad: string) => string): string {
    return range(this.#chunks(valueColumns))
      .map(
        chunk => `if (${chunk * CHUNK}u + tx < ${quads(valueColumns)}u) {
${this.rows.map(r => use(sumName(chunk, r), r, `(${chunk * CHUNK}u + tx)`)).join('\n')}
}`,
      )
      .join('\n');
  }

  #eachSum(valueColumns: number, use: (sum: string, r: number) => string): string {
    return range(this.#chunks(valueColumns))
      .flatMap(chunk => this.rows.map(r => use(sumName(chunk, r), r)))
      .join('\n');
  }

  #sums(valueColumns: number): string[] {
    return range(this.#chunks(valueColumns)).flatMap(chunk => this.rows.map(r => sumName(chunk, r)));
  }

  #fillQuery(firstQuad: string, columns: number, load: (row: string, quad: string) => string): string {
    const { rows, depth } = this.shape;
    return `for (var i = thread; i < ${rows * depth}u; i += 256u) {
  let row = i / ${depth}u;
  let quad = ${firstQuad} + i % ${depth}u;
  var columns = vec4<f32>();
  if (quad < ${quads(columns)}u) { columns = ${load('row', 'quad')}; }
  query_tile[row * ${depth}u + ((i % ${depth}u) ^ ((row / ${this.rowsPerThread}u) & ${depth - 1}u))] = columns;
}`;
  }

  #steps(columns: number): number {
    return Math.ceil(quads(columns) / this.shape.depth);
  }

  #chunks(valueColumns: number): number {
    return Math.ceil(quads(valueColumns) / CHUNK);
  }
}

const sumName = (chunk: number, r: number): string => `sum_${chunk}_${r}`;
