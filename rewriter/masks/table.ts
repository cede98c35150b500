import type { Probe } from '../probe/probe.js';
import { type Extent, HIDDEN_AT_MOST, type LogitSource, type Place } from './logits.js';

/** A place of the score matrix and what the graph does to the product there. */
export interface Entry extends Place {
  readonly hidden: boolean;
  /** Logit of a product of 0. */
  readonly bias: number;
  /** What a small product is multiplied by; 0 for hidden places. */
  readonly factor: number;
  /** Whether larger products are multiplied by the same. */
  readonly linear: boolean;
}

/** The score matrix of a site at one probe, looked at in chosen places. */
export interface Table {
  readonly extent: Extent;
  readonly entries: readonly Entry[];
}

/** Score matrices up to this many elements are looked at in full, but for the heads; so are batches up to this size. */
const SMALL = 400;

/** Looks at the places that tell masks apart. `distances` are key distances where something may change. */
export function tabulate(
  source: LogitSource,
  probe: Probe,
  extent: Extent,
  distances: readonly number[],
): Table {
  const logit = source.at(probe, extent);
  return { extent, entries: places(extent, distances).map(place => entryAt(logit, place)) };
}

/** Small enough to be on the straight part of every cap. */
const SMALL_PRODUCT = 2 ** -8;

/** Beyond every cap that means to hold scores back, and within those that only keep half precision from overflow. */
const LARGE_LOGIT = 2 ** 10;

/** Twice the rounding of bfloat16, in which models may compute a logit. */
const TOLERANCE = 2 ** -7;

function entryAt(logit: (place: Place, product: number) => number, place: Place): Entry {
  const bias = logit(place, 0);
  if (bias <= HIDDEN_AT_MOST) return { ...place, hidden: true, bias, factor: 0, linear: true };
  const gain = (product: number) => (logit(place, product) - bias) / product;
  const one = gain(1);
  // A power of two, which costs no rounding; where the bias swallows small products, large for a factor of 1.
  const large = 2 ** Math.floor(Math.log2(LARGE_LOGIT / Math.abs(one || 1)));
  const factor = gain(large);
  const agrees = (product: number) =>
    Math.abs(gain(product) - factor) <= TOLERANCE * (Math.abs(factor) + Math.abs(bias / product));
  const linear = agrees(1) && agrees(-2 * large);
  return { ...place, hidden: false, bias, factor: linear ? factor : gain(SMALL_PRODUCT), linear };
}

function places(extent: Extent, distances: readonly number[]): Place[] {
  const { batch, heads, rows, columns } = extent;
  const small = rows * columns <= SMALL;
  const headsSeen = unique([0, 1, heads - 1], heads);
  const batchSeen = small && batch <= SMALL ? range(batch) : unique([0, batch - 1], batch);
  const rowsSeen = rows <= 12 ? range(rows) : unique([0, 1, rows >> 2, rows >> 1, rows - 2, rows - 1], rows);
  const result: Place[] = [];
  for (const i of rowsSeen) {
    const columnsSeen = small ? range(columns) : columnsAround(i + columns - rows, columns, distances);
    for (const j of columnsSeen) {
      for (const h of headsSeen) for (const b of batchSeen) result.push({ b, h, i, j });
    }
  }
  return result;
}

function columnsAround(center: number, columns: number, distances: readonly number[]): number[] {
  const seen = [0, 1, columns >> 1, columns - 1, center];
  for (const distance of distances) seen.push(center - distance, center + distance);
  return unique(seen, columns);
}

function unique(values: readonly number[], size: number): number[] {
  return [...new Set(values)].filter(value => value >= 0 && value < size).sort((a, b) => a - b);
}

function range(size: number): number[] {
  return Array.from({ length: size }, (_, i) => i);
}
