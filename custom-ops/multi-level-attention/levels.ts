import { quads } from '../runtime/web/wgsl.js';

/** One group of four columns of an arranged row. */
export interface Quad {
  readonly level: number;
  /** Column of the row as given, and how many of the four there are. */
  readonly column: number;
  readonly count: number;
}

/** Columns as the kernels read them: each level starts a group of four, its last group filled up with zeros. */
export function arrangedQuads(ranks: readonly number[]): readonly Quad[] {
  let first = 0;
  return ranks.flatMap((rank, level) => {
    const start = first;
    first += rank;
    return Array.from({ length: quads(rank) }, (_, n) => ({
      level,
      column: start + 4 * n,
      count: Math.min(4, rank - 4 * n),
    }));
  });
}

/** The first group of columns of each level, and their number after the last. */
export function levelQuads(ranks: readonly number[]): readonly number[] {
  const starts = [0];
  for (const rank of ranks) starts.push(starts.at(-1)! + quads(rank));
  return starts;
}
