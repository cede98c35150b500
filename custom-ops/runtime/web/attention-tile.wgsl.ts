import { quads } from './wgsl.js';

/**
 * The pieces that attention kernels are put together from: a workgroup of `across` x `down` threads computes the
 * logits of a tile of rows and keys, turns them into softmax weights with a running maximum, and adds the weighted
 * values to sums kept in registers.
 *
 * Thread (ty, tx) owns the rows `4 ty` to `4 ty + 3`, held in one vector, the logits of keys `tx + across * c`, and
 * columns `4 (tx + across * chunk)` to `+ 3` of the sums. Workgroup memory: the query tile, the key or value tile,
 * which serves reductions as well, and the weights. Tiles are padded, so that neighboring threads differ in banks, and
 * not permuted: of such indices WGSL compilers know that they stay inside the array, others they clamp at each access.
 */
export interface TileShape {
  /** Threads along keys and columns. */
  readonly across: number;
  /** Threads along rows: rows are four times as many. */
  readonly down: number;
  /** A multiple of `across`. */
  readonly keys: number;
  /** Columns, in groups of four, that the query and key tiles hold at a time. */
  readonly depth: number;
}

const ROWS_PER_THREAD = 4;

/** Keys of a thread in tiles that {@link withFourKeys} makes: their logits of a row fill a vector. */
export const KEYS_PER_THREAD = 4;

/** Logit of what may not be seen: finite, since WGSL promises nothing about infinities. */
export const HIDDEN = '-1e30';
/** Whether a logit, or a running maximum, stands for something visible. */
export const visible = (logit: string): string => `(${logit} > vec4<f32>(-5e29))`;

/**
 * The fastest tile for queries of `columns` columns that the device has workgroup memory for, of `threads` threads at
 * most. Software adapters get the smallest: they pay for every thread of a workgroup at every barrier, and for
 * each when compiling.
 */
export function tileShape(
  { limits, adapterInfo }: GPUDevice,
  columns: number,
  threads: number = limits.maxComputeInvocationsPerWorkgroup,
): TileShape {
  const width = quads(columns);
  if (adapterInfo.isFallbackAdapter) return { across: 4, down: 4, keys: 8, depth: Math.min(width, 8) };
  const most = Math.min(threads, limits.maxComputeWorkgroupSizeX);
  const shapes: TileShape[] = [
    { across: 16, down: 32, keys: 32, depth: Math.min(width, 8) },
    { across: 16, down: 16, keys: 32, depth: Math.min(width, 16) },
    { across: 16, down: 16, keys: 32, depth: Math.min(width, 8) },
    { across: 8, down: 8, keys: 16, depth: Math.min(width, 8) },
  ];
  const memory = limits.maxComputeWorkgroupStorageSize;
  return shapes.find(shape => threadsOf(shape) <= most && largestBytes(shape) <= memory)!;
}

/** A tile with {@link KEYS_PER_THREAD} keys for each thread, for kernels that use half of the tiles in memory. */
export function withFourKeys(shape: TileShape): TileShape {
  return { ...shape, keys: KEYS_PER_THREAD * shape.across };
}

/** Workgroup memory left for what a kernel declares besides the tile: one that uses all of it, and others. */
const RESERVED = 4096;
const LITTLE_RESERVED = 1024;

const threadsOf = ({ across, down }: TileShape): number => across * down;

/** Places that a row of threads, a key, and the weights of a key take: one of them is padding. */
const queryStride = ({ depth }: TileShape): number => ROWS_PER_THREAD * depth + 1;
const keyStride = ({ depth }: TileShape): number => depth + 1;
const weightStride = ({ down }: TileShape): number => down + 1;

const queryPlaces = (shape: TileShape): number => shape.down * queryStride(shape);
/** Columns of keys, or a part of their values, or one vector for each thread. */
const keyPlaces = (shape: TileShape): number => Math.max(shape.keys * keyStride(shape), threadsOf(shape));
const weightPlaces = (shape: TileShape): number => shape.keys * weightStride(shape);

/** The most workgroup memory that a kernel with this tile, or with four keys for each thread, takes. */
function largestBytes(shape: TileShape): number {
  const wide = withFourKeys(shape);
  return Math.max(
    16 * (queryPlaces(shape) + keyPlaces(shape) + weightPlaces(shape)) + RESERVED,
    16 * (keyPlaces(wide) + Math.max(queryPlaces(wide), weightPlaces(wide))) + LITTLE_RESERVED,
  );
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
    this.height = ROWS_PER_THREAD * shape.down;
    this.threads = threadsOf(shape);
    this.keys = range(shape.keys / shape.across);
  }

  /** Expression of the tile's row that the thread's row number r stands for. */
  row(r: number): string {
    return `(ty * ${ROWS_PER_THREAD}u + ${r}u)`;
  }

  /** Expression of the tile's key that the thread's key number c stands for. */
  key(c: number): string {
    return `(tx + ${this.shape.across * c}u)`;
  }

  /** What {@link logits} needs. */
  get logitDeclarations(): string {
    return `var<workgroup> query_tile: array<vec4<f32>, ${queryPlaces(this.shape)}>;
${this.#keyTile}`;
  }

  /** What {@link storeWeights} and {@link accumulate} need. */
  get valueDeclarations(): string {
    return `${this.#keyTile}
${this.#weightTile}`;
  }

  get declarations(): string {
    return `${this.logitDeclarations}
${this.#weightTile}`;
  }

  get #keyTile(): string {
    return `var<workgroup> key_tile: array<vec4<f32>, ${keyPlaces(this.shape)}>;`;
  }

  get #weightTile(): string {
    return `var<workgroup> weight_tile: array<vec4<f32>, ${weightPlaces(this.shape)}>;`;
  }

  /** Thread coordinates and the running softmax: to be declared once, before anything else. */
  start(valueColumns: number): string {
    return `let tx = thread % ${this.shape.across}u;
let ty = thread / ${this.shape.across}u;
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
    key_tile[key * ${keyStride(this.shape)}u + i % ${depth}u] = columns;
  }
  workgroupBarrier();
  ${partial ? this.#partialProducts(partial) : this.#eachQuad(`${depth}u`, c => this.#addProducts(`logit_${c}`, c))}
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
key_tile[thread] = ${this.keys.map(c => `logit_${c}`).reduce((a, b) => `max(${a}, ${b})`)};
workgroupBarrier();
var next_max = row_max;
${this.#eachOfRow(vector => `next_max = max(next_max, ${vector});`)}
let shrink = exp(row_max - next_max);
row_max = next_max;
row_total *= shrink;
${this.keys
  .map(
    c => `let weight_${c} = select(vec4<f32>(), exp(logit_${c} - row_max), ${visible(`logit_${c}`)});
${this.storeWeights(c, `weight_${c}`)}`,
  )
  .join('\n')}
${this.#eachSum(valueColumns, (sum, r) => `${sum} *= shrink[${r}];`)}`;
  }

  /** Puts the weights of the thread's key number c into `weight_tile`, and adds them up. */
  storeWeights(c: number, weights: string): string {
    return `row_total += ${weights};
weight_tile[${this.key(c)} * ${weightStride(this.shape)}u + ty] = ${weights};`;
  }

  /**
   * Adds `weight_tile` times the values of the tile's keys to the sums. `load(key, quad)` is an expression of
   * four value columns. Ends with all threads past the tile, so that it may be filled again.
   */
  accumulate(valueColumns: number, load: (key: string, quad: string) => string): string {
    const { across, keys } = this.shape;
    // A power of two, as the tile's keys are: a part of them.
    const held = Math.min(keys, 2 ** Math.floor(Math.log2(keyPlaces(this.shape) / across)));
    const chunks = range(this.#chunks(valueColumns)).map(
      chunk => `for (var part = 0u; part < ${keys / held}u; part++) {
  workgroupBarrier();
  for (var i = thread; i < ${held * across}u; i += ${this.threads}u) {
    let key = part * ${held}u + i / ${across}u;
    let quad = ${chunk * across}u + i % ${across}u;
    var columns = vec4<f32>();
    if (quad < ${quads(valueColumns)}u) { columns = ${load('key', 'quad')}; }
    key_tile[i] = columns;
  }
  workgroupBarrier();
  for (var key = 0u; key < ${held}u; key++) {
    let weights = weight_tile[(part * ${held}u + key) * ${weightStride(this.shape)}u + ty];
    let columns = key_tile[key * ${across}u + tx];
${this.rows.map(r => `    ${sumName(chunk, r)} += weights[${r}] * columns;`).join('\n')}
  }
}`,
    );
    return `${chunks.join('\n')}
workgroupBarrier();`;
  }

  /** Gives the threads that share rows one maximum, and makes their totals relative to it. */
  get joinMaxima(): string {
    return `workgroupBarrier();
key_tile[thread] = row_max;
let own_max = row_max;
workgroupBarrier();
${this.#eachOfRow(vector => `row_max = max(row_max, ${vector});`)}
row_total *= exp(own_max - row_max);`;
  }

  /** Adds up `row_total` over the threads that share rows; afterwards every thread has the totals. */
  get finishTotals(): string {
    return `workgroupBarrier();
key_tile[thread] = row_total;
workgroupBarrier();
row_total = vec4<f32>();
${this.#eachOfRow(vector => `row_total += ${vector};`)}`;
  }

  /** Loops over the vectors that the threads which share rows have put into the key tile. */
  #eachOfRow(use: (vector: string) => string): string {
    const { across } = this.shape;
    return `for (var x = 0u; x < ${across}u; x++) { ${use(`key_tile[ty * ${across}u + x]`)} }`;
  }

  /**
   * Runs `use(sum, r, quad)` for every sum of the thread that lies inside `valueColumns`: `sum` names four
   * columns, `r` is the row's component, `quad` an expression of the group of columns.
   */
  eachSum(valueColumns: number, use: (sum: string, r: number, quad: string) => string): string {
    const { across } = this.shape;
    return range(this.#chunks(valueColumns))
      .map(
        chunk => `if (${chunk * across}u + tx < ${quads(valueColumns)}u) {
${this.rows.map(r => use(sumName(chunk, r), r, `(${chunk * across}u + tx)`)).join('\n')}
}`,
      )
      .join('\n');
  }

  /** Loops over the groups of columns that the tiles hold, with `query_r` and `key_c` at hand. */
  #eachQuad(end: string, use: (c: number) => string): string {
    return `for (var quad = 0u; quad < ${end}; quad++) {
${this.rows.map(r => `    let query_${r} = query_tile[ty * ${queryStride(this.shape)}u + ${r * this.shape.depth}u + quad];`).join('\n')}
${this.keys
  .map(
    c => `    let key_${c} = key_tile[${this.key(c)} * ${keyStride(this.shape)}u + quad];
${use(c)}`,
  )
  .join('\n')}
  }`;
  }

  /** One multiply-add per row and column: `dot` would add up beside the logit and then add once more. */
  #addProducts(sum: string, c: number): string {
    return ['x', 'y', 'z', 'w']
      .map(
        column =>
          `    ${sum} += vec4<f32>(${this.rows.map(r => `query_${r}.${column}`).join(', ')}) * key_${c}.${column};`,
      )
      .join('\n');
  }

  #partialProducts({ quads, uneven, prepare, counts }: PartialProducts): string {
    const { depth } = this.shape;
    const end = `min(${depth}u, ${quads} - step * ${depth}u)`;
    return `if (${uneven}) {
  ${this.keys.map(prepare).join('\n')}
  ${this.#eachQuad(
    end,
    c => `    var products_${c} = vec4<f32>();
${this.#addProducts(`products_${c}`, c)}
    logit_${c} += select(vec4<f32>(), products_${c}, ${counts(c, `step * ${depth}u + quad`)});`,
  )}
} else {
  ${this.#eachQuad(end, c => this.#addProducts(`logit_${c}`, c))}
}`;
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
  query_tile[row / ${ROWS_PER_THREAD}u * ${queryStride(this.shape)}u + row % ${ROWS_PER_THREAD}u * ${depth}u + i % ${depth}u] = columns;
}`;
  }

  #steps(columns: number): number {
    return Math.ceil(quads(columns) / this.shape.depth);
  }

  #chunks(valueColumns: number): number {
    return Math.ceil(quads(valueColumns) / this.shape.across);
  }
}

const sumName = (chunk: number, r: number): string => `sum_${chunk}_${r}`;
