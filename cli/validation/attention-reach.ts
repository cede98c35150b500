import { type AttentionSite, reachOf } from '../../rewriter/site.js';
import { type AttentionReach, REACH_BOUNDS } from '../../rewriter/validation.js';
import { HeadRows, type ValueOf } from '../data/head-rows.js';
import { keyVisibility } from '../data/key-visibility.js';

/** Query rows to look at, all heads of each, unless the work allows fewer only. */
const MOST_ROWS = 64;
const FEWEST_ROWS = 4;
/** Multiply-adds that one site may take: a fraction of a second. */
const MULTIPLY_ADDS = 2 ** 28;

/**
 * How far a site attends: softmax attention of evenly spaced rows, all heads, summed by the distance between
 * query and key. Holds the probabilities of one row at a time.
 * @returns null where there is no distance (cross-attention), or the graph does not tell what it takes
 */
export function attentionReach(site: AttentionSite, tensorOf: ValueOf): AttentionReach | null {
  const { kind, queryHeads, kvHeads, operatorScale: scale } = site;
  if (kind !== 'self' || queryHeads === null || kvHeads === null || scale === null) return null;
  const query = HeadRows.of(site.query, queryHeads, tensorOf);
  const key = HeadRows.of(site.key, kvHeads, tensorOf);
  if (query === null || key === null || query.size !== key.size || query.rows === 0) return null;
  const isVisible = site.keyMask && keyVisibility(site.keyMask, tensorOf(site.keyMask.value)!, key.rows);
  const offset = site.alignment === 'bottom-right' ? key.rows - query.rows : 0;
  const rows = Math.min(
    query.rows,
    MOST_ROWS,
    Math.max(FEWEST_ROWS, Math.floor(MULTIPLY_ADDS / (queryHeads * key.rows * key.size))),
  );

  const { left, right } = reachOf(site);
  const mass = new Float64Array(REACH_BOUNDS.length + 1);
  const weights = new Float64Array(key.rows);
  let entropy = 0;
  let attending = 0;
  for (let r = 0; r < rows; r++) {
    const row = Math.floor(((r + 0.5) * query.rows) / rows);
    const position = row + offset;
    const batch = r % query.batch;
    const from = left === null ? 0 : Math.max(0, position - left);
    const to = right === null ? key.rows : Math.min(key.rows, position + right + 1);
    for (let head = 0; head < queryHeads; head++) {
      const q = query.start(batch, head, row);
      const group = Math.floor((head * kvHeads) / queryHeads);
      let largest = Number.NEGATIVE_INFINITY;
      for (let j = from; j < to; j++) {
        weights[j] =
          isVisible?.(batch, j) === false
            ? Number.NEGATIVE_INFINITY
            : scale * dot(query, q, key, key.start(batch, group, j));
        largest = Math.max(largest, weights[j]!);
      }
      if (!Number.isFinite(largest)) continue;
      let sum = 0;
      for (let j = from; j < to; j++) {
        weights[j] = Math.exp(weights[j]! - largest);
        sum += weights[j]!;
      }
      for (let j = from; j < to; j++) {
        const share = weights[j]! / sum;
        if (share === 0) continue;
        mass[binOf(Math.abs(position - j))]! += share;
        entropy -= share * Math.log(share);
      }
      attending++;
    }
  }
  if (attending === 0) return null;
  return {
    mass: Array.from(mass, total => total / attending),
    effective_keys: Math.exp(entropy / attending),
    rows,
  };
}

function binOf(distance: number): number {
  const bin = REACH_BOUNDS.findIndex(bound => distance < bound);
  return bin < 0 ? REACH_BOUNDS.length : bin;
}

function dot(a: HeadRows, startA: number, b: HeadRows, startB: number): number {
  let sum = 0;
  for (let d = 0; d < a.size; d++) sum += a.data[startA + d * a.step]! * b.data[startB + d * b.step]!;
  return sum;
}
