import { quads } from './wgsl.js';

/**
 * The pieces that attention kernels are put together from: a workgroup of `side` x `side` threads computes
 * `rows` x `keys` logits of a tile, turns them into softmax weights with a running maximum, and adds the
 * weighted values to sums kept in registers.
 *
 * With V vectors, thread (ty, tx) owns the rows `4 V ty` to `4 V ty + 4 V - 1`, four to a vector, the logits of
 * keys `tx + side * c`, and columns `4 (tx + side * chunk)` to `+ 3` of the sums. Workgroup memory: the query tile,
 * the key or value tile, the weights, and V vectors per thread for reductions.
 */
export interface TileShape {
  /** Threads along each axis. */
  readonly side: number;
  /** Vectors of four rows that a thread owns: with more of them, operands are read less often. */
  readonly vectors: 1 | 2;
  /** A multiple of `side`. */
  readonly keys: number;
  /** Columns, in groups of four, that the query and key tiles hold at a time: a power of two up to 16. */
  readonly depth: number;
}

const ROWS_PER_VECTOR = 4;

/** Logit of what may not be seen: finite, since WGSL promises nothing about infinities. */
export const HIDDEN = '-1e30';
/** Whether a logit, or a running maximum, stands for something visible. */
export const visible = (logit: string): string => `(${logit} > vec4<f32>(-5e29))`;

/** Columns of the sums, in groups of four, up to which a thread has registers for two vectors. */
const MOST_QUADS_OF_TWO_VECTORS = 16;

/**
 * The fastest tile for queries of `columns` columns and sums of `valueColumns` that fits the device's workgroup
 * memory. Software adapters get the smallest: they pay for every thread of a workgroup at every barrier, and for
 * each when compiling.
 */
export function tileShape(
  { limits, adapterInfo }: GPUDevice,
  columns: number,
  valueColumns: number,
): TileShape {
  const width = 2 ** Math.ceil(Math.log2(quads(columns)));
  const depth = (most: number) => Math.min(width, most);
  if (adapterInfo.isFallbackAdapter) return { side: 4, vectors: 1, keys: 8, depth: depth(8) };
  const memory = limits.maxComputeWorkgroupStorageSize - RESERVED;
  const large: TileShape =
    quads(valueColumns) <= MOST_QUADS_OF_TWO_VECTORS
      ? { side: 8, vectors: 2, keys: 32, depth: depth(16) }
      : { side: 16, vectors: 1, keys: 32, depth: depth(16) };
  const shapes: TileShape[] = [
    large,
    { ...large, depth: depth(8) },
    { side: 8, vectors: 1, keys: 16, depth: depth(8) },
  ];
  return shapes.find(shape => tileBytes(shape) <= memory)!;
}

/** A tile as high as `shape` for kernels that compute nothing but logits, and so can look at more keys at a time. */
export function logitTileShape(device: GPUDevice, shape: TileShape): TileShape {
  const wide = { ...shape, keys: 2 * shape.keys };
  const fits = logitBytes(wide) + LOGIT_RESERVED <= device.limits.maxComputeWorkgroupStorageSize;
  return fits && !device.adapterInfo.isFallbackAdapter ? wide : shape;
}

/** Workgroup memory left for what a kernel declares besides the tile. */
const RESERVED = 4096;
const LOGIT_RESERVED = 512;

function logitBytes({ side, vectors, keys, depth }: TileShape): number {
  return 16 * (ROWS_PER_VECTOR * vectors * side * depth + keys * Math.max(depth, side));
}

function tileBytes(shape: TileShape): number {
  const { side, vectors, keys } = shape;
  return logitBytes(shape) + 16 * vectors * (keys * side + side * side);
}

const range = (count: number): number[] => Array.from({ length: count }, (_, n) => n);

/** Products over the first columns only, as many as a pair of a row and a key has. Expressions: */
export interface PartialProducts {
  /** Groups of columns that any pair of the tile has, uniform over the workgroup. */
  readonly quads: string;
  /** Whether pairs of the tile differ, uniform over the workgroup. */
  readonly uneven: string;
  /** Statements before the products of an uneven tile, for the thread's key number c and vector number v. */
  readonly prepare: (c: number, v: number) => string;
  /** Which rows of the vector have the group of columns `quad` with the key. */
  readonly counts: (c: number, v: number, quad: string) => string;
}

/** WGSL of one tile shape; every piece is a statement list for the body of a kernel. */
export class AttentionTile {
  /** Rows of the tile, and threads of the workgroup. */
  readonly height: number;
  readonly threads: number;
  /** Numbers of a thread's vectors, of its rows, and of the keys of its logits. */
  readonly vectors: readonly number[];
  readonly rows: readonly number[];
  readonly keys: readonly number[];
  /** Rows of a thread. */
  readonly #rowCount: number;

  constructor(readonly shape: TileShape) {
    const { side, vectors, keys } = shape;
    this.#rowCount = ROWS_PER_VECTOR * vectors;
    this.height = this.#rowCount * side;
    this.threads = side ** 2;
    this.vectors = range(vectors);
    this.rows = range(this.#rowCount);
    this.keys = range(keys / side);
  }

  /** Numbers of the rows in the thread's vector number v. */
  rowsOf(v: number): readonly number[] {
    return range(ROWS_PER_VECTOR).map(r => ROWS_PER_VECTOR * v + r);
  }

  /** Expression of the tile's row that the thread's row number r stands for. */
  row(r: number): string {
    return `(ty * ${this.#rowCount}u + ${r}u)`;
  }

  /** Expression of the tile's key that the thread's key number c stands for. */
  key(c: number): string {
    return `(tx + ${this.shape.side * c}u)`;
  }

  /** The logit of the thread's key number c and row number r, and the row's maximum and sum of weights so far. */
  logit(c: number, r: number): string {
    return component(`logit_${c}`, r);
  }
  max(r: number): string {
    return component('row_max', r);
  }
  total(r: number): string {
    return component('row_total', r);
  }

  /** What {@link logits} needs. */
  get logitDeclarations(): string {
    const { depth } = this.shape;
    return `var<workgroup> query_tile: array<vec4<f32>, ${this.height * depth}>;
var<workgroup> key_tile: array<vec4<f32>, ${this.#keyTileQuads}>;`;
  }

  get declarations(): string {
    const { vectors, keys } = this.shape;
    return `${this.logitDeclarations}
var<workgroup> weight_tile: array<vec4<f32>, ${keys * this.#weightWidth}>;
var<workgroup> reduction: array<vec4<f32>, ${this.threads * vectors}>;`;
  }

  get coordinates(): string {
    return `let tx = thread % ${this.shape.side}u;
let ty = thread / ${this.shape.side}u;`;
  }

  /** Thread coordinates and the running softmax: to be declared once, before anything else. */
  start(valueColumns: number): string {
    return `${this.coordinates}
${this.#eachVector(
  v => `var row_max_${v} = vec4<f32>(${HIDDEN});
var row_total_${v} = vec4<f32>();`,
)}
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
   * Declares the logits, the products of the thread's rows with its keys. `load(key, quad)` is an expression of
   * four key columns of the tile's key number `key`. With `partial`, not all columns count.
   */
  logits(
    columns: number,
    loadQuery: (row: string, quad: string) => string,
    loadKey: (key: string, quad: string) => string,
    partial: PartialProducts | null = null,
  ): string {
    const { keys, depth } = this.shape;
    const steps = this.#steps(columns);
    return `${this.#eachLogit((_, __, logit) => `var ${logit} = vec4<f32>();`)}
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
  ${partial ? this.#partialProducts(partial) : this.#eachQuad(`${depth}u`, (c, v, logit) => this.#products(logit, c, v))}
  workgroupBarrier();
}`;
  }

  /**
   * Hides logits, then turns them into weights relative to the running maximum and shrinks what was summed
   * before. `seen(r, key)` is a boolean expression for the thread's row number r and the tile's key number,
   * `scale(c, v)` what the logits of the thread's key number c and vector number v are multiplied by.
   */
  weights(
    valueColumns: number,
    scale: (c: number, v: number) => string,
    seen: (r: number, key: string) => string,
  ): string {
    const { side, vectors } = this.shape;
    const largest = (v: number) => this.keys.map(c => `logit_${c}_${v}`).reduce((a, b) => `max(${a}, ${b})`);
    return `${this.#eachLogit(
      (c, v, logit) =>
        `${logit} = select(vec4<f32>(${HIDDEN}), ${logit} * ${scale(c, v)}, vec4<bool>(${this.rowsOf(v)
          .map(r => seen(r, this.key(c)))
          .join(', ')}));`,
    )}
${this.#eachVector(v => `reduction[thread * ${vectors}u + ${v}u] = ${largest(v)};`)}
workgroupBarrier();
${this.#eachVector(v => `var next_max_${v} = row_max_${v};`)}
for (var x = ty * ${side}u; x < ty * ${side}u + ${side}u; x++) {
${this.#eachVector(v => `  next_max_${v} = max(next_max_${v}, reduction[x * ${vectors}u + ${v}u]);`)}
}
${this.#eachVector(
  v => `let shrink_${v} = exp(row_max_${v} - next_max_${v});
row_max_${v} = next_max_${v};
row_total_${v} *= shrink_${v};`,
)}
${this.#eachLogit(
  (
    c,
    v,
    logit,
  ) => `let weight_${c}_${v} = select(vec4<f32>(), exp(${logit} - row_max_${v}), ${visible(logit)});
${this.storeWeights(c, v, `weight_${c}_${v}`)}`,
)}
${this.#eachSum(valueColumns, (sum, r) => `${sum} *= ${component('shrink', r)};`)}`;
  }

  /** Puts the weights of the thread's key number c and its vector number v into the tile, and adds them up. */
  storeWeights(c: number, v: number, weights: string): string {
    return `row_total_${v} += ${weights};
weight_tile[${this.#weightAt(this.key(c), v)}] = ${weights};`;
  }

  /**
   * Adds `weight_tile` times the values of the tile's keys to the sums. `load(key, quad)` is an expression of
   * four value columns. Ends with all threads past the tile, so that it may be filled again.
   */
  accumulate(valueColumns: number, load: (key: string, quad: string) => string): string {
    const { side, keys } = this.shape;
    const chunks = this.#chunks(valueColumns);
    const together = Math.min(chunks, Math.floor(this.#keyTileQuads / (keys * side)));
    const width = side * together;
    return range(Math.ceil(chunks / together))
      .map(n => {
        const first = n * together;
        const held = range(Math.min(together, chunks - first));
        return `for (var i = thread; i < ${keys * width}u; i += ${this.threads}u) {
  let key = i / ${width}u;
  let quad = ${first * side}u + i % ${width}u;
  var columns = vec4<f32>();
  if (quad < ${quads(valueColumns)}u) { columns = ${load('key', 'quad')}; }
  key_tile[i] = columns;
}
workgroupBarrier();
for (var key = 0u; key < ${keys}u; key++) {
${this.#eachVector(v => `  let weights_${v} = weight_tile[${this.#weightAt('key', v)}];`)}
${held
  .map(
    chunk => `  let columns_${chunk} = key_tile[key * ${width}u + tx + ${chunk * side}u];
${this.rows.map(r => `  ${sumName(first + chunk, r)} += ${component('weights', r)} * columns_${chunk};`).join('\n')}`,
  )
  .join('\n')}
}
workgroupBarrier();`;
      })
      .join('\n');
  }

  /** Adds up the totals over the threads that share rows; afterwards every thread has them. */
  get finishTotals(): string {
    const { side, vectors } = this.shape;
    return `workgroupBarrier();
${this.#eachVector(
  v => `reduction[thread * ${vectors}u + ${v}u] = row_total_${v};
row_total_${v} = vec4<f32>();`,
)}
workgroupBarrier();
for (var x = ty * ${side}u; x < ty * ${side}u + ${side}u; x++) {
${this.#eachVector(v => `  row_total_${v} += reduction[x * ${vectors}u + ${v}u];`)}
}`;
  }

  /**
   * Runs `use(sum, r, quad)` for every sum of the thread that lies inside `valueColumns`: `sum` names four
   * columns, `r` is the row's number, `quad` an expression of the group of columns.
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

  #eachSum(valueColumns: number, use: (sum: string, r: number) => string): string {
    return range(this.#chunks(valueColumns))
      .flatMap(chunk => this.rows.map(r => use(sumName(chunk, r), r)))
      .join('\n');
  }

  #sums(valueColumns: number): string[] {
    return range(this.#chunks(valueColumns)).flatMap(chunk => this.rows.map(r => sumName(chunk, r)));
  }

  #eachVector(use: (v: number) => string): string {
    return this.vectors.map(use).join('\n');
  }

  #eachLogit(use: (c: number, v: number, logit: string) => string): string {
    return this.keys.flatMap(c => this.vectors.map(v => use(c, v, `logit_${c}_${v}`))).join('\n');
  }

  /** Loops over the columns that the tiles hold, with `query_r` and `key_c` at hand. */
  #eachQuad(end: string, use: (c: number, v: number, logit: string) => string): string {
    const { depth } = this.shape;
    return `for (var quad = 0u; quad < ${end}; quad++) {
${this.rows.map(r => `    let query_${r} = query_tile[${this.row(r)} * ${depth}u + (quad ^ (ty & ${depth - 1}u))];`).join('\n')}
${this.keys.map(c => `    let key_${c} = key_tile[${this.#keyAt(this.key(c), 'quad')}];`).join('\n')}
${this.#eachLogit(use)}
  }`;
  }

  #partialProducts({ quads, uneven, prepare, counts }: PartialProducts): string {
    const { depth } = this.shape;
    const end = `min(${depth}u, ${quads} - step * ${depth}u)`;
    return `if (${uneven}) {
  ${this.#eachLogit((c, v) => prepare(c, v))}
  ${this.#eachQuad(
    end,
    (c, v, logit) => `{
    var product = vec4<f32>();
${this.#products('product', c, v)}
    ${logit} += select(vec4<f32>(), product, ${counts(c, v, `step * ${depth}u + quad`)});
  }`,
  )}
} else {
  ${this.#eachQuad(end, (c, v, logit) => this.#products(logit, c, v))}
}`;
  }

  /** Place of a key's columns, spread so that the keys of a row of threads differ in banks. */
  #keyAt(key: string, quad: string): string {
    const { depth } = this.shape;
    return `${key} * ${depth}u + (${quad} ^ (${key} & ${depth - 1}u))`;
  }

  /** One multiply-add per column and row: `dot` would add up beside the logit and then add once more. */
  #products(logit: string, c: number, v: number): string {
    return ['x', 'y', 'z', 'w']
      .map(
        column =>
          `    ${logit} += vec4<f32>(${this.rowsOf(v)
            .map(r => `query_${r}.${column}`)
            .join(', ')}) * key_${c}.${column};`,
      )
      .join('\n');
  }

  get #keyTileQuads(): number {
    const { side, keys, depth } = this.shape;
    return keys * Math.max(depth, side);
  }

  /** Vectors of a key's weights: a power of two. */
  get #weightWidth(): number {
    return this.shape.side * this.shape.vectors;
  }

  /** Place of a key's weights of the thread's vector number v, spread so that the keys of a row differ in banks. */
  #weightAt(key: string, v: number): string {
    const width = this.#weightWidth;
    return `${key} * ${width}u + ((ty * ${this.shape.vectors}u + ${v}u) ^ (${key} & ${width - 1}u))`;
  }

  #fillQuery(firstQuad: string, columns: number, load: (row: string, quad: string) => string): string {
    const { depth } = this.shape;
    return `for (var i = thread; i < ${this.height * depth}u; i += ${this.threads}u) {
  let row = i / ${depth}u;
  let quad = ${firstQuad} + i % ${depth}u;
  var columns = vec4<f32>();
  if (quad < ${quads(columns)}u) { columns = ${load('row', 'quad')}; }
  query_tile[row * ${depth}u + ((i % ${depth}u) ^ ((row / ${this.#rowCount}u) & ${depth - 1}u))] = columns;
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

/** The number of a thread's row r in one of its vectors. */
const component = (name: string, r: number): string =>
  `${name}_${Math.floor(r / ROWS_PER_VECTOR)}[${r % ROWS_PER_VECTOR}]`;
