import type { Shape } from '../../../custom-ops/multipole-attention/geometry.js';
import { geometry, geometryParameters } from '../../../custom-ops/multipole-attention/geometry.wgsl.js';
import type { MultipoleParameters } from '../../../custom-ops/multipole-attention/parameters.js';
import type { MultipoleChoices } from '../../../custom-ops/multipole-attention/reference.js';
import {
  chosenBindings,
  isRetrieved,
  poolParameters,
} from '../../../custom-ops/multipole-attention/select.wgsl.js';
import type {
  ChoiceObserver,
  ChosenPools,
  GeometryValues,
  HeadChunk,
} from '../../../custom-ops/multipole-attention/webgpu.js';
import type { GpuRange, GpuRecorder } from '../../../custom-ops/runtime/web/gpu-recorder.js';
import { readRange } from '../../../custom-ops/runtime/web/gpu-transfer.js';
import type { OperatorRunner } from '../../../custom-ops/runtime/web/operator-runner.js';
import { kernel, storage } from '../../../custom-ops/runtime/web/wgsl.js';

/** Clusters that each row retrieves, as one bit after the other: [heads, rows, words]. */
const retrievedBits = (selection: MultipoleParameters['selection']) =>
  kernel({
    label: 'retrieved clusters',
    parameters: { ...geometryParameters, ...poolParameters, threads: 'u32' },
    bindings: { ...chosenBindings(selection), bits: storage('read_write', 'u32') },
    declarations: `${geometry}\n${isRetrieved(selection)}`,
    body: `let index = group * 256u + thread;
if (index >= params.threads) { return; }
let row = index / params.words % params.rows;
if (row < params.first_row || !is_row(row)) { return; }
bits[index] = chosen_word(choice_of(index / params.words / params.rows, row), index % params.words);`,
  });

interface Copy {
  readonly heads: HeadChunk;
  readonly width: number;
  readonly range: GpuRange;
}

/** Copies the discrete choices of one call out of the kernels' memory. */
export class ChoiceReader implements ChoiceObserver {
  #keyClusters: GpuRange | null = null;
  readonly #centroids: Copy[] = [];
  readonly #rowClusters: Copy[] = [];
  readonly #bits: Copy[] = [];

  constructor(
    private readonly runner: OperatorRunner,
    private readonly recorder: GpuRecorder,
    private readonly sizes: Shape,
    private readonly parameters: MultipoleParameters,
  ) {}

  keyClusters(range: GpuRange): void {
    this.#keyClusters = this.#copy(range);
  }

  queryCentroids(heads: HeadChunk, sets: number, range: GpuRange): void {
    this.#centroids.push({ heads, width: sets, range: this.#copy(range) });
  }

  queryClusters(heads: HeadChunk, range: GpuRange): void {
    this.#rowClusters.push({ heads, width: 1, range: this.#copy(range) });
  }

  retrieved(heads: HeadChunk, pools: ChosenPools, geometryValues: GeometryValues): void {
    const threads = heads.count * geometryValues.rows * pools.words;
    const bits = this.#allocate(threads * 4);
    this.recorder.dispatch(
      retrievedBits(this.parameters.selection),
      { ...geometryValues, ...pools, threads },
      { chosen: pools.chosen, row_pools: pools.row_pools, bits },
      Math.ceil(threads / 256),
    );
    this.#bits.push({ heads, width: pools.words, range: bits });
  }

  /** The choices in the form of the reference; to be called after the call was submitted. */
  async read(): Promise<Partial<MultipoleChoices>> {
    const { batch, heads, kvHeads, queries, past, keys, headDim } = this.sizes;
    const { queryClusters, keyClusters, segment } = this.parameters;
    const rows = past + queries;
    const choices: { -readonly [K in keyof MultipoleChoices]?: MultipoleChoices[K] } = {};
    if (this.#keyClusters) {
      choices.keyClusters = [new Int32Array(await this.#read(this.#keyClusters), 0, batch * kvHeads * keys)];
    }
    const columns = Math.ceil(headDim / 4) * 4;
    const blocks: Float32Array[] = [];
    for (const { heads: chunk, width: sets, range } of this.#centroids) {
      const data = new Float32Array(await this.#read(range));
      for (let set = 0; set < sets; set++) {
        const block = blocks[set] ?? new Float32Array(batch * heads * queryClusters * headDim);
        blocks[set] = block;
        for (let n = 0; n < chunk.count * queryClusters; n++) {
          const from =
            ((Math.floor(n / queryClusters) * sets + set) * queryClusters + (n % queryClusters)) * columns;
          block.set(data.subarray(from, from + headDim), (chunk.base * queryClusters + n) * headDim);
        }
      }
    }
    if (blocks.length > 0) choices.queryCentroids = blocks;
    const rowClusters = new Int32Array(batch * heads * rows).fill(-1);
    for (const { heads: chunk, range } of this.#rowClusters) {
      rowClusters.set(new Int32Array(await this.#read(range), 0, chunk.count * rows), chunk.base * rows);
    }
    if (this.#rowClusters.length > 0) choices.queryClusters = rowClusters;
    const width = Math.ceil(keys / (segment || Math.max(keys, 1))) * keyClusters;
    const retrieved = new Int32Array(batch * heads * queries * width).fill(-1);
    for (const { heads: chunk, width: words, range } of this.#bits) {
      const data = new Uint32Array(await this.#read(range));
      for (let n = 0; n < chunk.count * queries; n++) {
        const row = Math.floor(n / queries) * rows + past + (n % queries);
        const list = Array.from({ length: width }, (_, j) => j).filter(
          j => (data[row * words + (j >> 5)]! >>> (j & 31)) & 1,
        );
        retrieved.set(list, (chunk.base * queries + n) * width);
      }
    }
    if (this.#bits.length > 0) choices.retrieved = retrieved;
    return choices;
  }

  #copy(range: GpuRange): GpuRange {
    const copy = this.#allocate(range.bytes);
    this.recorder.copy(range, copy);
    return copy;
  }

  #allocate(bytes: number): GpuRange {
    return this.runner.allocate('choices', { type: 'float32', dims: [bytes / 4] }).range;
  }

  async #read(range: GpuRange): Promise<ArrayBuffer> {
    const data = await readRange(this.runner.device, range);
    range.buffer.destroy();
    return data;
  }
}
