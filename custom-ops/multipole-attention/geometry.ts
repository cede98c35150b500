import type { MultipoleParameters } from './parameters.js';

/** Sizes of the operator's inputs, by the names of the README: B, H, G, N, P, S, D and E. */
export interface Shape {
  readonly batch: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly queries: number;
  readonly past: number;
  readonly keys: number;
  readonly headDim: number;
  readonly valueDim: number;
}

/** Keys [start, end): a segment, or 2^level neighboring segments of a dyadic hierarchy. */
export interface Unit {
  readonly index: number;
  readonly level: number;
  readonly start: number;
  readonly end: number;
}

/** The integers [start, end). */
export const range = (start: number, end: number): number[] =>
  Array.from({ length: Math.max(0, end - start) }, (_, n) => start + n);

/** Segments, or for a dyadic hierarchy all aligned runs of 2^level segments, level by level. */
function keyUnits(keys: number, segment: number, dyadic: boolean): Unit[] {
  const units: Unit[] = [];
  if (keys === 0) return units;
  const base = segment === 0 ? keys : segment;
  for (let level = 0; ; level++) {
    const length = base * 2 ** level;
    for (let start = 0; start < keys; start += length) {
      units.push({ index: units.length, level, start, end: Math.min(start + length, keys) });
    }
    if (!dyadic || length >= keys) return units;
  }
}

/** Visibility by position (README, steps 2, 7 and 10), the same for every batch row and head. */
export class Geometry {
  readonly batch: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly queries: number;
  readonly past: number;
  /** Past and present rows. */
  readonly rows: number;
  readonly keys: number;
  readonly headDim: number;
  readonly valueDim: number;
  readonly scale: number;
  readonly units: readonly Unit[];
  /** Whether a row has a segment of its own. */
  readonly local: boolean;
  readonly dyadic: boolean;
  readonly #offset: number;

  constructor(
    shape: Shape,
    readonly parameters: MultipoleParameters,
  ) {
    const { batch, heads, kvHeads, queries, past, keys, headDim, valueDim } = shape;
    this.batch = batch;
    this.heads = heads;
    this.kvHeads = kvHeads;
    this.queries = queries;
    this.past = past;
    this.rows = past + queries;
    this.keys = keys;
    this.headDim = headDim;
    this.valueDim = valueDim;
    this.scale = parameters.scale ?? 1 / Math.sqrt(headDim);
    this.local = parameters.causal || (parameters.segment > 0 && this.rows === keys);
    this.dyadic = parameters.hierarchy === 'dyadic' && this.local;
    this.units = keyUnits(keys, parameters.segment, this.dyadic);
    this.#offset = parameters.causal ? (parameters.causalOffset ?? keys - queries) - this.past : 0;
  }

  get clusters(): number {
    return this.units.length * this.parameters.keyClusters;
  }

  /** Position of a row counted over past and present rows. */
  position(row: number): number {
    return row + this.#offset;
  }

  /** The first row that sees a key and takes part in anything: rows before position 0 do not. */
  get firstRow(): number {
    return Math.min(this.rows, Math.max(0, -this.#offset));
  }

  segmentOf(row: number): number {
    return Math.floor(this.position(row) / this.parameters.segment);
  }

  /** Number of the doubling prefix whose centroids a row uses; -1 for the first segment, which has no far field. */
  blockOf(row: number): number {
    return this.parameters.causal ? Math.floor(Math.log2(this.segmentOf(row))) : 0;
  }

  /** Rows before position 2^block * segment (all rows when acausal): whose queries make the block's centroids. */
  centroidRows(block: number): number[] {
    if (!this.parameters.causal) return range(0, this.rows);
    const end = 2 ** block * this.parameters.segment - this.#offset;
    return range(this.firstRow, Math.min(this.rows, end));
  }

  /** Keys that a row attends exactly by position: X before masking. */
  nearKeys(row: number): { start: number; end: number } {
    if (!this.local) return { start: 0, end: 0 };
    const { segment, window, causal } = this.parameters;
    const own = this.segmentOf(row);
    const end = causal ? this.position(row) + 1 : (own + window + 1) * segment;
    return { start: Math.max(0, own - window) * segment, end: Math.min(this.keys, end) };
  }

  /** Units whose clusters make up a row's far field F. */
  farUnits(row: number): readonly Unit[] {
    if (!this.local) return this.units;
    const own = this.segmentOf(row);
    return this.units.filter(
      unit => this.#admissible(own, unit.level, unit) && !(this.dyadic && this.#parentAdmissible(own, unit)),
    );
  }

  /**
   * Whether a unit lies outside the window and, above level 0, at least one unit of its own length away from
   * the unit that holds segment `own`.
   */
  #admissible(own: number, level: number, unit: { readonly start: number }): boolean {
    const { segment, window, causal } = this.parameters;
    const reach = 2 ** level;
    const first = Math.floor(unit.start / (segment * reach)) * reach;
    const behind = own - (first + reach - 1);
    const ahead = first - own;
    const separation = Math.abs(Math.floor(own / reach) - first / reach);
    if (level > 0 && separation < 2) return false;
    return behind > window || (!causal && ahead > window);
  }

  #parentAdmissible(own: number, unit: Unit): boolean {
    const top = this.units[this.units.length - 1]!.level;
    return unit.level < top && this.#admissible(own, unit.level + 1, unit);
  }
}
