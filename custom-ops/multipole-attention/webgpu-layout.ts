import { CHUNK } from './cluster.wgsl.js';
import type { Shape } from './geometry.js';
import type { MultipoleParameters } from './parameters.js';

/** Half-open range of rows, slots or keys. */
export interface Span {
  readonly begin: number;
  readonly end: number;
}

/** Rows that share their query centroids, and how many clusters, from the first, their far fields reach. */
export interface RowBlock extends Span {
  readonly centroidSet: number;
  readonly clusters: number;
}

/** Sets of rows, cut in chunks, as the clustering kernels take them (see cluster.wgsl.ts). */
export interface SetTables {
  readonly sets: number;
  readonly setTable: Uint32Array;
  readonly chunks: number;
  readonly chunkTable: Uint32Array;
  /** Places of all sets together. */
  readonly assigned: number;
}

/**
 * Tables of sets. `place` is where the first row of a set stands in `assignment`, by default behind the set
 * before it; `slot` is the set's first slot.
 */
export function setTables(
  spans: readonly (Span & { readonly set?: number; readonly place?: number; readonly slot?: number })[],
): SetTables {
  const sets: number[] = [];
  const chunks: number[] = [];
  let assigned = 0;
  spans.forEach(({ begin, end, set, place = assigned, slot = 0 }, index) => {
    sets.push(begin, end, chunks.length / 4, slot);
    for (let at = begin; at < end; at += CHUNK) {
      chunks.push(set ?? index, at, Math.min(at + CHUNK, end), place + at - begin);
    }
    assigned = Math.max(assigned, place + end - begin);
  });
  return {
    sets: spans.length,
    setTable: Uint32Array.from(sets),
    chunks: chunks.length / 4,
    chunkTable: Uint32Array.from(chunks),
    assigned,
  };
}

/** Slots that `count` rows take when each of up to `clusters` clusters starts at a multiple of `align`. */
export const slotCapacity = (count: number, clusters: number, align: number): number =>
  Math.ceil((count + Math.min(count, clusters) * (align - 1)) / align) * align;

/** Positions, segments and doubling prefixes of one call: README, "Semantics", steps 2, 4, 7 and 8. */
export class MultipoleLayout {
  /** R = P + N */
  readonly rows: number;
  /** Position of row 0. */
  readonly origin: number;
  /** Whether rows have a segment of their own. */
  readonly local: boolean;
  readonly segments: number;
  readonly clusters: number;
  /** First row at a position of at least 0. */
  readonly firstVisible: number;

  constructor(
    readonly sizes: Shape,
    readonly parameters: MultipoleParameters,
  ) {
    const { causal, causalOffset, segment, keyClusters } = parameters;
    const { queries, past, keys } = sizes;
    this.rows = past + queries;
    this.origin = causal ? (causalOffset ?? keys - queries) - past : 0;
    this.local = causal || (segment > 0 && this.rows === keys);
    this.segments = segment === 0 ? Math.min(1, keys) : Math.ceil(keys / segment);
    this.clusters = this.segments * keyClusters;
    this.firstVisible = Math.min(this.rows, Math.max(0, -this.origin));
  }

  get keySpans(): readonly Span[] {
    const { keys } = this.sizes;
    const length = this.parameters.segment || keys;
    return Array.from({ length: this.segments }, (_, t) => ({
      begin: t * length,
      end: Math.min((t + 1) * length, keys),
    }));
  }

  /** Rows whose queries make each set of centroids: all rows, or the doubling prefixes. */
  get centroidSpans(): readonly Span[] {
    if (!this.parameters.causal) return [{ begin: 0, end: this.rows }];
    const last = this.#segmentOf(this.rows - 1);
    const sets = last < 1 ? 0 : Math.floor(Math.log2(last)) + 1;
    return Array.from({ length: sets }, (_, e) => {
      const end = Math.min(this.rows, 2 ** e * this.parameters.segment - this.origin);
      return { begin: this.firstVisible, end: Math.max(this.firstVisible, end) };
    });
  }

  /** The rows that have query clusters, by set of centroids; rows before `from` are left out. */
  blocks(from: number): readonly RowBlock[] {
    const { causal, segment, keyClusters, window } = this.parameters;
    if (!causal) return [{ begin: from, end: this.rows, centroidSet: 0, clusters: this.clusters }];
    return this.centroidSpans
      .map((_, e) => ({
        begin: Math.max(from, this.firstVisible, 2 ** e * segment - this.origin),
        end: Math.min(this.rows, 2 ** (e + 1) * segment - this.origin),
        centroidSet: e,
        clusters: Math.min(this.segments, Math.max(0, 2 ** (e + 1) - 1 - window)) * keyClusters,
      }))
      .filter(block => block.begin < block.end);
  }

  /** The blocks of rows with a far field. */
  farBlocks(from: number): readonly RowBlock[] {
    return this.blocks(from).filter(block => block.clusters > 0);
  }

  /** Cuts a block in parts of about `rows` rows, at the borders of pools. */
  split(block: RowBlock, rows: number): readonly RowBlock[] {
    const { selection, segment, group } = this.parameters;
    if (selection === 'cluster' && !this.parameters.causal) return [block];
    const align = this.local ? segment : selection === 'tile' ? group : 1;
    const step = Math.max(1, Math.floor(rows / align)) * align;
    const parts: RowBlock[] = [];
    for (let begin = block.begin; begin < block.end; ) {
      const border = Math.floor((begin + this.origin) / align) * align + step - this.origin;
      const end = Math.min(block.end, border);
      parts.push({ ...block, begin, end });
      begin = end;
    }
    return parts;
  }

  /** The first row whose masses the pools of the last N rows need. */
  get firstPooled(): number {
    const { past } = this.sizes;
    const { selection, group, causal } = this.parameters;
    if (past === 0) return 0;
    if (selection === 'sliding') return Math.max(0, past - group + 1);
    if (selection === 'cluster' && !causal) return 0;
    const position = past + this.origin;
    if (position < 0) return past;
    const start =
      selection === 'tile' ? this.#tileStart(position) : position - (position % this.parameters.segment);
    return Math.max(0, start - this.origin);
  }

  /** Number of the pool of a row, for `tile` and `sliding` (see pool_of in select.wgsl.ts). */
  poolOf(row: number): number {
    const { selection, segment, group } = this.parameters;
    if (selection === 'sliding') return row;
    const position = row + this.origin;
    if (!this.local) return Math.floor(position / group);
    return (
      Math.floor(position / segment) * Math.ceil(segment / group) + Math.floor((position % segment) / group)
    );
  }

  /**
   * The rows among which `cluster` selection forms pools: all, or those of each segment with a far field; with
   * the slots that their pools take.
   */
  clusterPoolSpans(from: number): readonly (Span & { readonly slot: number; readonly slotEnd: number })[] {
    const { causal, segment, queryClusters, group } = this.parameters;
    const spans = [];
    let slot = 0;
    const start = causal ? Math.max(from, this.firstVisible, segment - this.origin) : 0;
    for (let begin = start; begin < this.rows; ) {
      const end = causal
        ? Math.min(this.rows, (this.#segmentOf(begin) + 1) * segment - this.origin)
        : this.rows;
      const slotEnd = slot + slotCapacity(end - begin, queryClusters, group);
      spans.push({ begin, end, slot, slotEnd });
      begin = end;
      slot = slotEnd;
    }
    return spans;
  }

  #segmentOf(row: number): number {
    return Math.floor((row + this.origin) / this.parameters.segment);
  }

  #tileStart(position: number): number {
    const { segment, group } = this.parameters;
    if (!this.local) return position - (position % group);
    const own = position % segment;
    return position - own + own - (own % group);
  }
}
