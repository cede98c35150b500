import type { Table } from './table.js';

/**
 * Visible keys by distance from the diagonal of the position that the query row has among the keys.
 * `lower` and `upper` are the largest distances seen to the left and to the right, null where no key on that
 * side is hidden for being too far.
 */
export interface Band {
  readonly lower: number | null;
  readonly upper: number | null;
  /** Where the diagonal starts when there are more keys than queries. */
  readonly offset: 'bottom-right' | 'upper-left';
}

/** The band that all tables agree on; null when visibility is no function of the distance, or of no such form. */
export function bandOf(tables: readonly Table[]): Band | null {
  const offsets = (['bottom-right', 'upper-left'] as const).filter(offset =>
    tables.every(table => edgesOf(table, diagonal(table, offset)) !== null),
  );
  const bands = offsets.map(offset => {
    const edges = tables.map(table => edgesOf(table, diagonal(table, offset))!);
    return {
      lower: agreed(edges.map(edge => edge.lower)),
      upper: agreed(edges.map(edge => edge.upper)),
      offset,
    };
  });
  // Only one offset explains a causal mask of unequal lengths: the one that puts the edge on the diagonal.
  return bands.find(band => band.upper === 0) ?? bands[0] ?? null;
}

/**
 * The band with its edges to the key, which a table of chosen places may have missed.
 * @param table the longest one, of which the band is known
 * @param isHidden tells of any place of its first head
 */
export function sharpened(band: Band, table: Table, isHidden: (i: number, j: number) => boolean): Band {
  const start = diagonal(table, band.offset);
  const edge = (seen: number | null, i: number, direction: -1 | 1): number | null => {
    if (seen === null) return null;
    const distances = table.entries
      .filter(entry => entry.i === i && entry.hidden)
      .map(entry => direction * (entry.j - i - start))
      .filter(distance => distance > seen);
    let [shown, hidden] = [seen, Math.min(...distances)];
    if (hidden === Number.POSITIVE_INFINITY) return seen;
    while (hidden - shown > 1) {
      const middle = (shown + hidden) >> 1;
      if (isHidden(i, i + start + direction * middle)) hidden = middle;
      else shown = middle;
    }
    return shown;
  };
  return { ...band, lower: edge(band.lower, table.extent.rows - 1, -1), upper: edge(band.upper, 0, 1) };
}

function diagonal({ extent }: Table, offset: Band['offset']): number {
  return offset === 'bottom-right' ? extent.columns - extent.rows : 0;
}

/** First and last visible distance, null where everything on that side is visible; null when there are gaps. */
function edgesOf(table: Table, start: number): { lower: number | null; upper: number | null } | null {
  let least = Number.POSITIVE_INFINITY;
  let most = Number.NEGATIVE_INFINITY;
  for (const { i, j, hidden } of table.entries) {
    if (hidden) continue;
    least = Math.min(least, j - i - start);
    most = Math.max(most, j - i - start);
  }
  let lower: number | null = null;
  let upper: number | null = null;
  for (const { i, j, hidden } of table.entries) {
    if (!hidden) continue;
    const distance = j - i - start;
    if (distance >= least && distance <= most) return null;
    if (distance < least) lower = -least;
    else upper = most;
  }
  return { lower, upper };
}

/** The smallest edge that any table shows: a short sequence does not reach a far one. */
function agreed(edges: readonly (number | null)[]): number | null {
  const seen = edges.filter(edge => edge !== null);
  return seen.length === 0 ? null : Math.min(...seen);
}
