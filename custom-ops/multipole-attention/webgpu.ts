import type { Attributes } from '../operator.js';
import { stateQuads, writeOutputs } from '../runtime/web/attention-state.wgsl.js';
import { AttentionTile, tileShape } from '../runtime/web/attention-tile.wgsl.js';
import type { GpuRange, GpuRecorder, GpuTable } from '../runtime/web/gpu-recorder.js';
import type { GpuTensor, WebGpuOperator } from '../runtime/web/operator.js';
import { type OptionalDims, ShapeChecks } from '../runtime/web/shapes.js';
import { type FloatType, quads, THREADS } from '../runtime/web/wgsl.js';
import { SPREAD_CENTROIDS, spreads } from './expected-error.wgsl.js';
import { estimates, farValues, jointStatistics, PANEL } from './far.wgsl.js';
import type { Shape } from './geometry.js';
import type { geometryParameters } from './geometry.wgsl.js';
import { joinRows } from './join.wgsl.js';
import { near } from './near.wgsl.js';
import { type MultipoleParameters, parametersOf } from './parameters.js';
import { retrieved } from './retrieve.wgsl.js';
import { choose, keepTail, MEANS_THREADS, poolMeans, rowPools } from './select.wgsl.js';
import { type HeadShape, summarize } from './summarize.wgsl.js';
import {
  assignmentScratch,
  assignNearest,
  assignRuns,
  kMeans,
  type SortedRows,
  sharesOf,
  sortRows,
} from './webgpu-clusters.js';
import { MultipoleLayout, type RowBlock, setTables, slotCapacity } from './webgpu-layout.js';

/**
 * Scratch tensors that grow with the sequence are cut, by heads and by blocks of rows, to about half of what a
 * binding of the device holds, and no more than this: long blocks fill the tiles of far rows better.
 */
const MOST_SCRATCH_BYTES = 512 * 2 ** 20;

/** Rows that a block should have before another head is worked on at the same time. */
const FULL_BLOCK = 16384;

/** Sees the discrete choices of a call while it is recorded, so that a test can copy them out. */
export interface ChoiceObserver {
  /** Cluster of every key in its segment, [B * G, S]. */
  keyClusters(range: GpuRange): void;
  /** Centroids [heads, sets, query clusters, D padded to fours] . */
  queryCentroids(heads: HeadChunk, sets: number, range: GpuRange): void;
  /** Query cluster of every row, [heads, P + N]. */
  queryClusters(heads: HeadChunk, range: GpuRange): void;
  /** What `is_retrieved` of select.wgsl.ts needs. */
  retrieved(heads: HeadChunk, pools: ChosenPools, geometry: GeometryValues): void;
}

/** The bitmaps of chosen clusters and the pools they are for. */
export interface ChosenPools {
  readonly chosen: GpuRange;
  readonly row_pools: GpuRange | null;
  readonly pool_base: number;
  readonly pools: number;
  readonly words: number;
}

export type GeometryValues = Readonly<Record<keyof typeof geometryParameters, number>>;

/** With the rows of a block, and the clusters that it reaches. */
type BlockValues = GeometryValues & Readonly<Record<'block_begin' | 'block_end' | 'clusters', number>>;

/** Tensors of one call. */
interface Tensors {
  readonly query: GpuTensor;
  readonly key: GpuTensor;
  readonly value: GpuTensor;
  readonly keyMask: GpuTensor | null;
  readonly pastQuery: GpuTensor | null;
  readonly output: GpuTensor | null;
  readonly lse: GpuTensor | null;
}

const OP_TYPE = 'MultipoleAttention';
const checks = new ShapeChecks(OP_TYPE);

export const multipoleAttention: WebGpuOperator = {
  opType: OP_TYPE,
  float32Outputs: new Set(),

  refusal(attributes) {
    const { order, contracted, hierarchy } = parametersOf(attributes);
    if (order > 0 || contracted) return 'order above 0 has no WebGPU kernel';
    if (hierarchy === 'dyadic') return 'a dyadic hierarchy has no WebGPU kernel';
    return null;
  },

  outputDims(_, inputDims) {
    const { batch, heads, queries, valueDim } = sizesOf(inputDims);
    return [
      [batch, heads, queries, valueDim],
      [batch, heads, queries],
    ];
  },

  record(recorder, attributes, inputs, outputs) {
    recordMultipoleAttention(recorder, attributes, inputs, outputs);
  },
};

/** {@link WebGpuOperator.record} of MultipoleAttention, with a look at its discrete choices. */
export function recordMultipoleAttention(
  recorder: GpuRecorder,
  attributes: Attributes,
  inputs: readonly (GpuTensor | null)[],
  outputs: readonly (GpuTensor | null)[],
  observer: ChoiceObserver | null = null,
): void {
  const sizes = sizesOf(inputs.map(input => input?.dims ?? null));
  if (sizes.batch * sizes.heads * sizes.queries === 0) return;
  const [query, key, value, keyMask = null, pastQuery = null] = inputs;
  const [output = null, lse = null] = outputs;
  new MultipoleCall(
    recorder,
    { query: query!, key: key!, value: value!, keyMask, pastQuery, output, lse },
    sizes,
    parametersOf(attributes),
    observer,
  ).record();
}

/** @throws InputError when the shapes do not fit together */
function sizesOf([query, key, value, keyMask, pastQuery]: readonly OptionalDims[]): Shape {
  const [batch = 0, heads = 0, queries = 0, headDim = 0] = checks.ranked(query, 'query', 4);
  const [, kvHeads = 0, keys = 0] = checks.ranked(key, 'key', 4);
  const valueDim = checks.ranked(value, 'value', 4)[3]!;
  const past = pastQuery ? checks.ranked(pastQuery, 'past_query', 4)[2]! : 0;
  checks.expect(key, 'key', [batch, kvHeads, keys, headDim]);
  checks.expect(value, 'value', [batch, kvHeads, keys, valueDim]);
  checks.expect(keyMask, 'key_mask', [batch, keys]);
  checks.expect(pastQuery, 'past_query', [batch, heads, past, headDim]);
  checks.groupedHeads(heads, kvHeads);
  return { batch, heads, kvHeads, queries, past, keys, headDim, valueDim };
}

/** Threads that look for the largest mean: few where meeting at barriers, after every choice, is what costs. */
const choosers = ({ adapterInfo }: GPUDevice): number => (adapterInfo.isFallbackAdapter ? 32 : 128);

const groupsOf = (threads: number): number => Math.ceil(threads / 256);

/** Heads that are worked on together, counted over the whole batch. */
export interface HeadChunk {
  readonly base: number;
  readonly count: number;
}

/** Query clusters of a chunk of heads. */
interface QueryClusters {
  readonly sets: number;
  /** [heads, sets, query clusters, D padded to fours] */
  readonly centroids: GpuRange;
  /** [heads, P + N] */
  readonly rowClusters: GpuRange;
  /** Shares of dimensions, [heads, sets, D padded to fours]; null unless clusters are chosen by expected error. */
  readonly shares: GpuRange | null;
}

/** What stage 1 leaves of the clusters that a block reaches. */
interface Summaries {
  readonly summary_weights: GpuRange;
  readonly summary_keys: GpuRange;
  readonly summary_values: GpuRange;
  /** u_ij, null unless clusters are chosen by expected error. */
  readonly summary_spreads: GpuRange | null;
}

/** Memory for the clusters that a chunk of heads retrieves. */
interface Retrieval extends ChosenPools {
  /** Clusters per pool, by head. */
  readonly counts: GpuTable;
  /** Scores of the rows before a block, for `sliding`. */
  readonly tail: GpuRange | null;
  /** Rows in the order of pools, for `cluster`, and their slots by head. */
  readonly poolOrder: GpuRange | null;
  readonly slots: number;
}

/** One call of the operator. */
class MultipoleCall {
  readonly #layout: MultipoleLayout;
  readonly #shape: HeadShape;
  readonly #scale: number;
  readonly #tileRows: number;
  readonly #lowTileRows: number;
  readonly #scratchBytes: number;
  readonly #query: GpuRange;
  #keys: SortedRows | null = null;

  constructor(
    private readonly recorder: GpuRecorder,
    private readonly tensors: Tensors,
    private readonly sizes: Shape,
    private readonly parameters: MultipoleParameters,
    private readonly observer: ChoiceObserver | null,
  ) {
    this.#layout = new MultipoleLayout(sizes, parameters);
    const { headDim, valueDim } = sizes;
    const past = sizes.past > 0 ? tensors.pastQuery : null;
    const type = tensors.key.type as FloatType;
    this.#shape = {
      type,
      queryType: past ? 'float32' : type,
      queryColumns: past ? 4 * quads(headDim) : headDim,
      headDim,
      valueDim,
      tile: tileShape(recorder.device, headDim),
      lowTile: tileShape(recorder.device, headDim, THREADS),
    };
    this.#tileRows = new AttentionTile(this.#shape.tile).height;
    this.#lowTileRows = new AttentionTile(this.#shape.lowTile).height;
    this.#scratchBytes = Math.min(MOST_SCRATCH_BYTES, recorder.device.limits.maxStorageBufferBindingSize / 2);
    this.#scale = parameters.scale ?? 1 / Math.sqrt(headDim);
    this.#query = past ? this.#joinQueries(past.range) : tensors.query.range;
  }

  record(): void {
    const { batch, heads, keys } = this.sizes;
    const all = batch * heads;
    for (let base = 0; base < all; ) {
      const exact = this.#isExact(base);
      const most = exact || keys === 0 ? this.#exactHeads : this.#approximateHeads;
      let count = 1;
      while (count < most && base + count < all && this.#isExact(base + count) === exact) count++;
      if (keys === 0) this.#recordWithoutKeys({ base, count });
      else if (exact) this.#recordExact({ base, count });
      else this.#recordApproximate({ base, count });
      base += count;
    }
  }

  /** Clusters that a head retrieves per pool; -1 = exact attention. */
  #retrieve(head: number): number {
    const { retrieve } = this.parameters;
    return retrieve[retrieve.length === 1 ? 0 : head % this.sizes.heads]!;
  }

  #isExact(head: number): boolean {
    const { exactBelow, exactBelowRows } = this.parameters;
    return this.sizes.keys < exactBelow || this.sizes.queries < exactBelowRows || this.#retrieve(head) < 0;
  }

  #stateBytes(rows: number): number {
    return rows * stateQuads(this.sizes.valueDim) * 16;
  }

  get #exactHeads(): number {
    return Math.max(1, Math.floor(this.#scratchBytes / this.#stateBytes(this.sizes.queries)));
  }

  /** As many heads as keep their summaries, row states, and masses of most rows in bounds. */
  get #approximateHeads(): number {
    const { headDim, valueDim } = this.sizes;
    const { rows, clusters } = this.#layout;
    const widest = Math.max(quads(headDim), quads(valueDim));
    const summaries = this.parameters.queryClusters * clusters * widest * 16;
    const masses = Math.min(rows, FULL_BLOCK) * quads(clusters) * 16;
    return Math.max(1, Math.floor(this.#scratchBytes / Math.max(summaries, masses, this.#stateBytes(rows))));
  }

  #scratch(name: string, bytes: number): GpuRange {
    return this.recorder.scratch(`${name} of MultipoleAttention`, bytes);
  }

  #geometry(heads: HeadChunk, firstRow: number, exact = false): GeometryValues {
    const { rows, origin, local, segments } = this.#layout;
    const { causal, segment, keyClusters, queryClusters, group, window } = this.parameters;
    return {
      heads: this.sizes.heads,
      kv_heads: this.sizes.kvHeads,
      head_base: heads.base,
      rows,
      first_row: firstRow,
      keys: this.sizes.keys,
      window: Math.min(window, segments),
      origin,
      local: Number(local),
      exact: Number(exact),
      causal: Number(causal),
      segment,
      key_clusters: keyClusters,
      query_clusters: queryClusters,
      pool_size: group,
    };
  }

  #joinQueries(pastQuery: GpuRange): GpuRange {
    const { batch, heads, queries, past, headDim } = this.sizes;
    const threads = batch * heads * (past + queries) * quads(headDim);
    const joined = this.#scratch('joined queries', threads * 16);
    this.recorder.dispatch(
      joinRows(this.#shape.type, headDim),
      { past, queries, threads },
      { past_query: pastQuery, query: this.tensors.query.range, joined },
      groupsOf(threads),
    );
    return joined;
  }

  #recordWithoutKeys(heads: HeadChunk): void {
    const state = this.#scratch('row states', heads.count * this.#stateBytes(this.sizes.queries));
    this.recorder.clear(state);
    this.#finish(heads, this.sizes.queries, 0, state);
  }

  #recordExact(heads: HeadChunk): void {
    const state = this.#near(this.#geometry(heads, this.sizes.past, true), heads);
    this.#finish(heads, this.sizes.queries, 0, state);
  }

  #recordApproximate(heads: HeadChunk): void {
    const { past } = this.sizes;
    const counts = Array.from({ length: heads.count }, (_, h) => this.#retrieve(heads.base + h));
    const retrieves = this.parameters.retrieveMass > 0 || counts.some(count => count > 0);
    const firstRow = retrieves ? this.#layout.firstPooled : past;
    const geometry = this.#geometry(heads, firstRow);
    const blocks = this.#layout.farBlocks(firstRow);

    const state = this.#near(geometry, heads);
    if (blocks.length > 0) {
      this.#keys ??= this.#sortKeys();
      const clusters = this.#clusterQueries(heads, retrieves && this.parameters.retrieveError > 0);
      const retrieval = retrieves ? this.#startRetrieval(heads, firstRow, clusters, counts) : null;
      for (const block of blocks) this.#far(geometry, heads, block, clusters, retrieval, state);
      if (retrieval) this.observer?.retrieved(heads, retrieval, geometry);
      this.#releaseAll(clusters.centroids, clusters.rowClusters, clusters.shares);
      this.#releaseAll(retrieval?.chosen, retrieval?.row_pools, retrieval?.tail, retrieval?.poolOrder);
    }
    this.#finish(heads, this.#layout.rows - firstRow, past - firstRow, state);
  }

  #releaseAll(...ranges: readonly (GpuRange | null | undefined)[]): void {
    for (const range of ranges) if (range) this.recorder.release(range);
  }

  /** README, step 3: the keys of every segment, sorted by cluster. */
  #sortKeys(): SortedRows {
    const { batch, kvHeads, keys, headDim } = this.sizes;
    const { keyClusters, keyGrouping, segment, iterations } = this.parameters;
    const { recorder } = this;
    const mask = this.tensors.keyMask;
    const points = {
      label: 'keys of MultipoleAttention',
      range: this.tensors.key.range,
      shape: { type: this.#shape.type, columns: headDim, masked: mask !== null },
      clusters: keyClusters,
      headBase: 0,
      heads: batch * kvHeads,
      rows: keys,
      mask: mask?.range ?? null,
      headsPerMask: kvHeads,
    };
    const tables = setTables(
      this.#layout.keySpans.map(span => ({ ...span, place: span.begin, slot: span.begin })),
    );
    const assignment = assignmentScratch(recorder, points, keys);
    if (keyGrouping === 'contiguous') {
      assignRuns(recorder, points, tables, Math.ceil((segment || keys) / keyClusters), assignment);
    } else {
      recorder.release(kMeans(recorder, points, tables, iterations, assignment));
    }
    this.observer?.keyClusters(assignment);
    const sorted = sortRows(
      recorder,
      points.label,
      points.heads,
      keyClusters,
      tables,
      { assignment, assigned: keys },
      keys,
      1,
    );
    recorder.release(assignment);
    return sorted;
  }

  /** README, step 4; `byError` with what expected errors need. */
  #clusterQueries(heads: HeadChunk, byError: boolean): QueryClusters {
    const { causal, queryClusters, iterations } = this.parameters;
    const { rows, centroidSpans } = this.#layout;
    const { recorder } = this;
    const points = {
      label: 'queries of MultipoleAttention',
      range: this.#query,
      shape: { type: this.#shape.queryType, columns: this.#shape.queryColumns, masked: false },
      clusters: queryClusters,
      headBase: heads.base,
      heads: heads.count,
      rows,
      mask: null,
      headsPerMask: 1,
    };
    const tables = setTables(centroidSpans);
    const sets = tables.sets;
    const rowClusters = assignmentScratch(recorder, points, rows);
    let centroids: GpuRange;
    if (causal) {
      const assignment = assignmentScratch(recorder, points, tables.assigned);
      centroids = kMeans(recorder, points, tables, iterations, assignment);
      recorder.release(assignment);
      const spans = this.#layout
        .blocks(0)
        .map(block => ({ ...block, set: block.centroidSet, place: block.begin }));
      assignNearest(recorder, points, { ...setTables(spans), assigned: rows }, centroids, sets, rowClusters);
    } else {
      centroids = kMeans(recorder, points, tables, iterations, rowClusters);
    }
    this.observer?.queryClusters(heads, rowClusters);
    this.observer?.queryCentroids(heads, sets, centroids);
    return { sets, centroids, rowClusters, shares: byError ? sharesOf(recorder, points, tables) : null };
  }

  /** README, step 7, for the rows from `first_row` on: their states. */
  #near(geometry: GeometryValues, heads: HeadChunk): GpuRange {
    const { keyMask } = this.tensors;
    const rows = geometry.rows - geometry.first_row;
    const state = this.#scratch('row states', heads.count * this.#stateBytes(rows));
    const tiles = Math.ceil(rows / this.#tileRows);
    this.recorder.dispatch(
      near(this.#shape, keyMask !== null),
      { ...geometry, scale: this.#scale, tiles },
      {
        query: this.#query,
        key: this.tensors.key.range,
        value: this.tensors.value.range,
        state,
        mask: keyMask?.range ?? null,
      },
      heads.count * tiles,
    );
    return state;
  }

  #startRetrieval(
    heads: HeadChunk,
    firstRow: number,
    { rowClusters }: QueryClusters,
    counts: readonly number[],
  ): Retrieval {
    const { recorder, parameters } = this;
    const { selection, group, queryClusters } = parameters;
    const { rows, clusters } = this.#layout;
    let poolBase = 0;
    let pools: number;
    let poolOrder: GpuRange | null = null;
    let row_pools: GpuRange | null = null;
    let slots = 0;
    if (selection === 'cluster') {
      const spans = this.#layout.clusterPoolSpans(firstRow);
      slots = spans[spans.length - 1]!.slotEnd;
      const tables = setTables(spans.map(span => ({ ...span, place: span.begin })));
      const sorted = sortRows(
        recorder,
        'pools of MultipoleAttention',
        heads.count,
        queryClusters,
        tables,
        { assignment: rowClusters, assigned: rows },
        slots,
        group,
      );
      recorder.release(sorted.starts);
      poolOrder = sorted.order;
      row_pools = this.#scratch('pools of rows', heads.count * rows * 4);
      recorder.clear(row_pools);
      const threads = heads.count * slots;
      recorder.dispatch(
        rowPools,
        { rows, slots, pool_size: group, threads },
        { pool_order: poolOrder, row_pools },
        groupsOf(threads),
      );
      pools = slots / group;
    } else {
      poolBase = this.#layout.poolOf(Math.max(firstRow, this.#layout.firstVisible));
      pools = this.#layout.poolOf(rows - 1) + 1 - poolBase;
    }
    const words = Math.ceil(clusters / 32);
    let tail: GpuRange | null = null;
    if (selection === 'sliding') {
      tail = this.#scratch('scores of last rows', heads.count * group * quads(clusters) * 16);
      recorder.clear(tail);
    }
    const chosen = this.#scratch('chosen clusters', heads.count * pools * words * 4);
    recorder.clear(chosen);
    return {
      counts: recorder.table(
        'retrieved clusters per pool',
        Uint32Array.from(counts, count => Math.max(0, count)),
      ),
      chosen,
      row_pools,
      pool_base: poolBase,
      pools,
      words,
      tail,
      poolOrder,
      slots,
    };
  }

  /** README, steps 5, 6, 8 and 9 for the rows that share a set of centroids. */
  #far(
    geometry: GeometryValues,
    heads: HeadChunk,
    block: RowBlock,
    queries: QueryClusters,
    retrieval: Retrieval | null,
    state: GpuRange,
  ): void {
    const { recorder, parameters } = this;
    const { headDim, valueDim } = this.sizes;
    const { clusters } = block;
    const count = heads.count * parameters.queryClusters * clusters;
    const summary_weights = this.#scratch('log-weights', count * 4);
    const summary_keys = this.#scratch('tilted keys', count * quads(headDim) * 16);
    const summary_values = this.#scratch('tilted values', count * quads(valueDim) * 16);
    const sorted = this.#keys!;
    const values = {
      ...geometry,
      scale: this.#scale,
      sets: queries.sets,
      centroid_set: block.centroidSet,
      all_clusters: this.#layout.clusters,
      clusters,
    };
    const keys = {
      centroids: queries.centroids,
      key: this.tensors.key.range,
      starts: sorted.starts,
      members: sorted.order,
      summary_weights,
      summary_keys,
    };
    recorder.dispatch(
      summarize(this.#shape),
      values,
      { ...keys, value: this.tensors.value.range, summary_values },
      heads.count * Math.ceil(parameters.queryClusters / this.#lowTileRows) * clusters,
    );
    let summary_spreads: GpuRange | null = null;
    if (queries.shares) {
      const padded = 4 * quads(clusters);
      summary_spreads = this.#scratch('spreads', heads.count * parameters.queryClusters * padded * 4);
      recorder.dispatch(
        spreads({ type: this.#shape.type, headDim }),
        values,
        { ...keys, shares: queries.shares, summary_spreads },
        heads.count * Math.ceil(parameters.queryClusters / SPREAD_CENTROIDS) * padded,
      );
    }
    const summaries = { summary_weights, summary_keys, summary_values, summary_spreads };
    const rows = Math.floor(this.#scratchBytes / (heads.count * quads(clusters) * 16));
    for (const part of this.#layout.split(block, rows)) {
      this.#farPart(geometry, heads, part, queries, summaries, retrieval, state);
    }
    this.#releaseAll(summary_weights, summary_keys, summary_values, summary_spreads);
  }

  /** README, steps 6 to 9: joins the far field of a block's rows into their states. */
  #farPart(
    geometry: GeometryValues,
    heads: HeadChunk,
    block: RowBlock,
    queries: QueryClusters,
    summaries: Summaries,
    retrieval: Retrieval | null,
    state: GpuRange,
  ): void {
    const { recorder, parameters } = this;
    const { clusters } = block;
    const size = block.end - block.begin;
    const tileRows = this.#tileRows;
    const slots = slotCapacity(size, parameters.queryClusters, tileRows);
    const { starts, order } = sortRows(
      recorder,
      'rows of MultipoleAttention',
      heads.count,
      parameters.queryClusters,
      setTables([{ begin: block.begin, end: block.end, place: block.begin }]),
      { assignment: queries.rowClusters, assigned: geometry.rows },
      slots,
      tileRows,
    );
    const far_logits = this.#scratch('far logits', heads.count * size * quads(clusters) * 16);
    const tiles = slots / tileRows;
    const panels = Math.ceil(clusters / PANEL);
    const threads = heads.count * size;
    const panel_lse = this.#scratch('far lse', threads * panels * 4);
    const values = { ...geometry, block_begin: block.begin, block_end: block.end, clusters };
    const residuals = { scale: this.#scale, sets: queries.sets, centroid_set: block.centroidSet };
    const rows = {
      query: this.#query,
      centroids: queries.centroids,
      row_clusters: queries.rowClusters,
    };
    recorder.dispatch(
      estimates(this.#shape),
      { ...values, ...residuals, tiles, panels },
      {
        ...rows,
        order,
        summary_weights: summaries.summary_weights,
        summary_keys: summaries.summary_keys,
        far_logits,
        panel_lse,
      },
      heads.count * tiles * panels,
    );
    recorder.dispatch(
      this.#jointStatistics(summaries.summary_spreads !== null),
      { ...values, ...residuals, panels, threads },
      { ...rows, panel_lse, state },
      groupsOf(threads),
    );
    recorder.release(panel_lse);
    if (retrieval) {
      const { summary_spreads } = summaries;
      const scores = { far_logits, state, row_clusters: queries.rowClusters, summary_spreads };
      this.#choose(values, heads, block, scores, retrieval);
    }
    recorder.dispatch(
      farValues(this.#shape, retrieval && parameters.selection),
      { ...values, ...poolValues(retrieval), tiles },
      {
        order,
        row_clusters: queries.rowClusters,
        far_logits,
        summary_values: summaries.summary_values,
        state,
        chosen: retrieval?.chosen ?? null,
        row_pools: retrieval?.row_pools ?? null,
      },
      heads.count * tiles,
    );
    if (retrieval) this.#attendRetrieved(values, heads, size, retrieval, state);
    this.#releaseAll(starts, order, far_logits);
  }

  /** README, step 9: adds the members of the clusters that the `size` rows of a block retrieve to their states. */
  #attendRetrieved(
    values: BlockValues,
    heads: HeadChunk,
    size: number,
    retrieval: Retrieval,
    state: GpuRange,
  ): void {
    const { key, value } = this.tensors;
    const { starts, order } = this.#keys!;
    const { chosen, row_pools } = retrieval;
    const tiles = Math.ceil(size / this.#lowTileRows);
    this.recorder.dispatch(
      retrieved(this.#shape, this.parameters.selection),
      {
        ...values,
        ...poolValues(retrieval),
        scale: this.#scale,
        all_clusters: this.#layout.clusters,
        tiles,
      },
      {
        query: this.#query,
        key: key.range,
        value: value.range,
        starts,
        members: order,
        state,
        chosen,
        row_pools,
      },
      heads.count * tiles,
    );
  }

  #jointStatistics(byError: boolean): ReturnType<typeof jointStatistics> {
    const { queryType, queryColumns, headDim, valueDim } = this.#shape;
    return jointStatistics(valueDim, byError ? { queryType, queryColumns, headDim } : null);
  }

  /** README, step 8: the clusters that each pool of a block's rows retrieves. */
  #choose(
    values: BlockValues,
    heads: HeadChunk,
    block: RowBlock,
    scores: Pick<Summaries, 'summary_spreads'> &
      Readonly<Record<'far_logits' | 'state' | 'row_clusters', GpuRange>>,
    retrieval: Retrieval,
  ): void {
    const { recorder, parameters } = this;
    const { valueDim } = this.sizes;
    const byError = scores.summary_spreads !== null;
    const { clusters } = block;
    const all_quads = quads(this.#layout.clusters);
    const { first, count } = this.#poolsOf(block, values.first_row);
    const panels = Math.ceil(quads(clusters) / MEANS_THREADS);
    const means = this.#scratch('pool means', heads.count * count * quads(clusters) * 16);
    const pools = { first_pool: first, block_pools: count };
    recorder.dispatch(
      poolMeans(parameters.selection, valueDim, byError),
      { ...values, ...pools, panels, all_quads, slots: retrieval.slots },
      { ...scores, means, tail: retrieval.tail, pool_order: retrieval.poolOrder },
      heads.count * count * panels,
    );
    if (retrieval.tail) {
      const kept = Math.min(parameters.group, block.end - block.begin);
      const threads = heads.count * kept * all_quads;
      recorder.dispatch(
        keepTail(valueDim, byError),
        { ...values, kept, all_quads, threads },
        { ...scores, tail: retrieval.tail },
        groupsOf(threads),
      );
    }
    recorder.dispatch(
      choose(choosers(recorder.device)),
      {
        ...values,
        ...poolValues(retrieval),
        ...pools,
        retrieve_mass: parameters.retrieveMass,
        retrieve_error: parameters.retrieveError,
      },
      { retrieve: retrieval.counts, means, chosen: retrieval.chosen },
      heads.count * count,
    );
    recorder.release(means);
  }

  /** The pools whose rows a block holds. */
  #poolsOf(block: RowBlock, firstRow: number): { first: number; count: number } {
    const { selection, group } = this.parameters;
    if (selection !== 'cluster') {
      const first = this.#layout.poolOf(block.begin);
      return { first, count: this.#layout.poolOf(block.end - 1) + 1 - first };
    }
    const spans = this.#layout
      .clusterPoolSpans(firstRow)
      .filter(span => span.begin >= block.begin && span.end <= block.end);
    const first = spans[0]!.slot / group;
    return { first, count: spans[spans.length - 1]!.slotEnd / group - first };
  }

  /** Writes the outputs from the state, which has `stateRows` rows by head, and releases it. */
  #finish(heads: HeadChunk, stateRows: number, stateSkip: number, state: GpuRange): void {
    const { queries, valueDim } = this.sizes;
    const { output, lse } = this.tensors;
    const rows = {
      stateRows,
      skip: stateSkip,
      queries,
      valueDim,
      headBase: heads.base,
      headCount: heads.count,
    };
    writeOutputs(this.recorder, rows, state, output, lse);
    this.recorder.release(state);
  }
}

const poolValues = (retrieval: Retrieval | null) => ({
  pool_base: retrieval?.pool_base ?? 0,
  pools: retrieval?.pools ?? 0,
  words: retrieval?.words ?? 0,
});
