import { quads } from './wgsl.js';

/**
 * The pieces that attention kernels are put together from: a workgroup of `side` x `side` threads computes
 * `rows` x `keys` logits of a tile, turns them into softmax weights with a running maximum, and adds the
 * weighted values to sums kept in registers.
 *
 * Thread (ty, tx) owns the rows `4 ty` to `4 ty + 3`, held in one vector, the logits of keys `tx + side * c`, and
 * columns `4 (tx + side * chunk)` to `+ 3` of the sums. Workgroup memory: the query tile, the key or value tile,
 * the weights, and one vector per thread for reductions.
 */
export interface TileShape {
  /** Threads along each axis: rows are four times as many. */
  readonly side: number;
  /** A multiple of `side`. */
  readonly keys: number;
  /** Columns, in groups of four, that the query and key tiles hold at a time: a power of two up to 16. */
  readonly depth: number;
}

const ROWS_PER_THREAD = 4;

/** Logit of what may not be seen: finite, since WGSL promises nothing about infinities. */
export const HIDDEN = '-1e30';
/** Whether a logit, or a running maximum, stands for something visible. */
export const visible = (logit: string): string => `(${logit} > vec4<f32>(-5e29))`;

/**
 * The fastest tile for queries of `columns` columns that fits the device's workgroup memory. Software adapters get
 * the smallest: they pay for every thread of a workgroup at every barrier, and for each when compiling.
 */
export function tileShape({ limits, adapterInfo }: GPUDevice, columns: number): TileShape {
  const width = 2 ** Math.ceil(Math.log2(quads(columns)));
  if (adapterInfo.isFallbackAdapter) return { side: 4, keys: 8, depth: Math.min(width, 8) };
  const memory = limits.maxComputeWorkgroupStorageSize - RESERVED;
  const shapes: TileShape[] = [
    { side: 16, keys: 32, depth: Math.min(width, 16) },
    { side: 16, keys: 32, depth: Math.min(width, 8) },
    { side: 8, keys: 16, depth: Math.min(width, 8) },
  ];
  return shapes.find(shape => tileBytes(shape) <= memory)!;
}

/** The same for kernels that compute nothing but logits, and so can look at more keys at a time. */
export function logitTileShape(device: GPUDevice, columns: number): TileShape {
  const shape = tileShape(device, columns);
  const wide = { ...shape, keys: 2 * shape.keys };
  const fits = logitBytes(wide) + LOGIT_RESERVED <= device.limits.maxComputeWorkgroupStorageSize;
  return fits && !device.adapterInfo.isFallbackAdapter ? wide : shape;
}

/** Workgroup memory left for what a kernel declares besides the tile. */
const RESERVED = 4096;
const LOGIT_RESERVED = 512;

function logitBytes({ side, keys, depth }: TileShape): number {
  return 16 * (ROWS_PER_THREAD * side * depth + keys * Math.max(depth, side));
}

function tileBytes(shape: TileShape): number {
  const { side, keys } = shape;
  return logitBytes(shape) + 16 * (keys * side + side * side);
}

const range = (count: number): number[] => Array.from({ length: count }, (_, n) => n);

/** Products over the first columns only, as many as a pair of a row and a key has. Expressions: */
export interface PartialProducts {
  /** Groups of columns that any pair of the tile has, uniform over the workgroup. */
  readonly quads: string;
  /** Whether pairs of the tile differ, uniform over the workgroup. */
  readonly uneven: string;
  /** Statements before the products of an uneven tile, for the thread's key number c. */
  readonly prepare: (c: number) => string;
  /** Which of the thread's rows have the group of columns `quad` with the key. */
  readonly counts: (c: number, quad: string) => string;
}

/** WGSL of one tile shape; every piece is a statement list for the body of a kernel. */
export class AttentionTile {
  /** Rows of the tile, and threads of the workgroup. */
  readonly height: number;
  readonly threads: number;
  /** Row numbers of a thread, and key numbers of its logits. */
  readonly rows = range(ROWS_PER_THREAD);
  readonly keys: readonly number[];

  constructor(readonly shape: TileShape) {
    this.height = ROWS_PER_THREAD * shape.side;
    this.threads = shape.side ** 2;
    this.keys = range(shape.keys / shape.side);
  }

  /** Expression of the tile's row that the thread's row number r stands for. */
  row(r: number): string {
    return `(ty * ${ROWS_PER_THREAD}u + ${r}u)`;
  }

  /** Expression of the tile's key that the thread's key number c stands for. */
  key(c: number): string {
    return `(tx + ${this.shape.side * c}u)`;
  }

  /** What {@link logits} needs. */
  get logitDeclarations(): string {
    const { side, keys, depth } = this.shape;
    return `var<workgroup> query_tile: array<vec4<f32>, ${this.height * depth}>;
var<workgroup> key_tile: array<vec4<f32>, ${keys * Math.max(depth, side)}>;`;
  }

  get declarations(): string {
    const { side, keys } = this.shape;
    return `${this.logitDeclarations}
var<workgroup> weight_tile: array<vec4<f32>, ${keys * side}>;
var<workgroup> reduction: array<vec4<f32>, ${this.threads}>;`;
  }

  get coordinates(): string {
    return `let tx = thread % ${this.shape.side}u;
let ty = thread / ${this.shape.side}u;`;
  }

  /** Thread coordinates and the running softmax: to be declared once, before anything else. */
  start(valueColumns: number): string {
    return `${this.coordinates}
var row_max = vec4<f32>(${HIDDEN});
var row_total = vec4<f32>();
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
   * Declares `logit_c`, the products of the thread's rows with its key number c. `load(key, quad)`
   * is an expression of four key columns of the tile's key number `key`. With `partial`, not all columns count.
   */
  logits(
    columns: number,
    loadQuery: (row: string, quad: string) => string,
    loadKey: (key: string, quad: string) => string,
    partial: PartialProducts | null = null,
  ): string {
    const { keys, depth } = this.shape;
    const steps = this.#steps(columns);
    return `${this.keys.map(c => `var logit_${c} = vec4<f32>();`).join('\n')}
for (var step = 0u; step < ${partial ? `(${partial.quads} + ${depth - 1}u) / ${depth}u` : `${steps}u`}; step++) {
  ${steps > 1 ? this.#fillQuery(`step * ${depth}u`, columns, loadQuery) : ''}
  for (var i = thread; i < ${keys * depth}u; i += ${this.threads}u) {
    let key = i / ${depth}u;
    let quad = step * ${depth}u + i % ${depth}u;
    var columns = vec4<f32>();
    if (quad < ${partial ? partial.quads : `${quads(columns)}u`}) { columns = ${loadKey('key', 'quad')}; }
    key_tile[${this.#keyAt('key', `(i % ${depth}u)`)}] = columns;
  }
  workgroupBarrier();
  ${partial ? this.#partialProducts(partial) : this.#eachQuad(`${depth}u`, (c, products) => `logit_${c} += ${products};`)}
  workgroupBarrier();
}`;
  }

  /**
   * Hides logits, then turns them into weights relative to the running maximum and shrinks what was summed
   * before. `seen(r, key)` is a boolean expression for the thread's row number r and the tile's key number,
   * `scale(c)` what the logits of the thread's key number c are multiplied by.
   */
  weights(
    valueColumns: number,
    scale: (c: number) => string,
    seen: (r: number, key: string) => string,
  ): string {
    return `${this.keys
      .map(
        c =>
          `logit_${c} = select(vec4<f32>(${HIDDEN}), logit_${c} * ${scale(c)}, vec4<bool>(${this.rows
            .map(r => seen(r, this.key(c)))
            .join(', ')}));`,
      )
      .join('\n')}
reduction[thread] = ${this.keys.map(c => `logit_${c}`).reduce((a, b) => `max(${a}, ${b})`)};
workgroupBarrier();
var next_max = row_max;
for (var x = 0u; x < ${this.shape.side}u; x++) { next_max = max(next_max, reduction[ty * ${this.shape.side}u + x]); }
let shrink = exp(row_max - next_max);
row_max = next_max;
row_total *= shrink;
${this.keys
  .map(
    c => `let weight_${c} = select(vec4<f32>(), exp(logit_${c} - row_max), ${visible(`logit_${c}`)});
row_total += weight_${c};
weight_tile[${this.key(c)} * ${this.shape.side}u + ty] = weight_${c};`,
  )
  .join('\n')}
${this.#eachSum(valueColumns, (sum, r) => `${sum} *= shrink[${r}];`)}`;
  }

  /**
   * Adds `weight_tile` times the values of the tile's keys to the sums. `load(key, quad)` is an expression of
   * four value columns. Ends with all threads past the tile, so that it may be filled again.
   */
  accumulate(valueColumns: number, load: (key: string, quad: string) => string): string {
    const { side, keys } = this.shape;
    return range(this.#chunks(valueColumns))
      .map(
        chunk => `for (var i = thread; i < ${keys * side}u; i += ${this.threads}u) {
  let key = i / ${side}u;
  let quad = ${chunk * side}u + i % ${side}u;
  var columns = vec4<f32>();
  if (quad < ${quads(valueColumns)}u) { columns = ${load('key', 'quad')}; }
  key_tile[i] = columns;
}
workgroupBarrier();
for (var key = 0u; key < ${keys}u; key++) {
  let weights = weight_tile[key * ${this.shape.side}u + ty];
  let columns = key_tile[key * ${side}u + tx];
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
row_total = vec4<f32>();
for (var x = 0u; x < ${this.shape.side}u; x++) { row_total += reduction[ty * ${this.shape.side}u + x]; }`;
  }

  /**
   * Runs `use(sum, r, quad)` for every sum of the thread that lies inside `valueColumns`: `sum` names four
   * columns, `r` is the row's component, `quad` an expression of the group of columns.
   */
  eachSum(valueColumns: number, use: (sum: string, r: number, quad: string) => string): string {
    const { side } = this.shape;
    return range(this.#chunks(valueColumns))
      .map(
        chunk => `if (${chunk * side}u + tx < ${quads(valueColumns)}u) {
${this.rows.map(r => use(sumName(chunk, r), r, `(${chunk * side}u + tx)`)).join('\n')}
}`,
      )
      .join('\n');
  }

  /** Loops over the groups of columns that the tiles hold; `use` gets the products of four columns. */
  #eachQuad(end: string, use: (c: number, products: string) => string): string {
    const { depth } = this.shape;
    return `for (var quad = 0u; quad < ${end}; quad++) {
${this.rows.map(r => `    let query_${r} = query_tile[(ty * ${ROWS_PER_THREAD}u + ${r}u) * ${depth}u + (quad ^ (ty & ${depth - 1}u))];`).join('\n')}
${this.keys
  .map(
    c => `    let key_${c} = key_tile[${this.#keyAt(this.key(c), 'quad')}];
    ${use(c, `vec4<f32>(${this.rows.map(r => `dot(query_${r}, key_${c})`).join(', ')})`)}`,
  )
  .join('\n')}
  }`;
  }

  #partialProducts({ quads, uneven, prepare, counts }: PartialProducts): string {
    const { depth } = this.shape;
    const end = `min(${depth}u, ${quads} - step * ${depth}u)`;
    return `if (${uneven}) {
  ${this.keys.map(prepare).join('\n')}
  ${this.#eachQuad(
    end,
    (c, products) =>
      `logit_${c} += select(vec4<f32>(), ${products}, ${counts(c, `step * ${depth}u + quad`)});`,
  )}
} else {
  ${this.#eachQuad(end, (c, products) => `logit_${c} += ${products};`)}
}`;
  }

  /** Place of a key's columns, spread so that the keys of a row of threads differ in banks. */
  #keyAt(key: string, quad: string): string {
    const { depth } = this.shape;
    return `${key} * ${depth}u + (${quad} ^ (${key} & ${depth - 1}u))`;
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
    const { depth } = this.shape;
    return `for (var i = thread; i < ${this.height * depth}u; i += ${this.threads}u) {
  let row = i / ${depth}u;
  let quad = ${firstQuad} + i % ${depth}u;
  var columns = vec4<f32>();
  if (quad < ${quads(columns)}u) { columns = ${load('row', 'quad')}; }
  query_tile[row * ${depth}u + ((i % ${depth}u) ^ ((row / ${ROWS_PER_THREAD}u) & ${depth - 1}u))] = columns;
}`;
  }

  #steps(columns: number): number {
    return Math.ceil(quads(columns) / this.shape.depth);
  }

  #chunks(valueColumns: number): number {
    return Math.ceil(quads(valueColumns) / this.shape.side);
  }
}

const sumName = (chunk: number, r: number): string => `sum_${chunk}_${r}`;
