import type { HeadMoments } from '../../custom-ops/head-rotation.js';
import { InputError } from '../../rewriter/errors.js';
import type { AttentionSite } from '../../rewriter/site.js';
import { HeadRows, type ValueOf } from '../data/head-rows.js';

/** Rows of a head that are looked at in one run, evenly spaced: far more than a head has dimensions. */
const MOST_ROWS = 1024;

/** Adds up second moments of the queries and keys of one site, over any number of runs. */
export class MomentSums {
  readonly moments: HeadMoments;

  /** @param site one whose heads and head size are known */
  constructor(private readonly site: AttentionSite) {
    const [heads, headDim] = [site.kvHeads!, site.headDim!];
    const zeros = () => new Float64Array(heads * headDim ** 2);
    this.moments = { heads, headDim, query: zeros(), key: zeros() };
  }

  /**
   * Adds rows of query and key.
   * @throws InputError when one of them is not finite, or not laid out as the site has it
   */
  add(tensorOf: ValueOf): void {
    const { site, moments } = this;
    const { query, key, queryHeads, kvHeads } = site;
    this.addRows(moments.query, HeadRows.of(query, queryHeads!, tensorOf), queryHeads!);
    this.addRows(moments.key, HeadRows.of(key, kvHeads!, tensorOf), kvHeads!);
  }

  private addRows(moments: Float64Array, values: HeadRows | null, heads: number): void {
    const { heads: groups, headDim: size } = this.moments;
    if (values === null || values.size !== size) {
      throw this.unusable('its query or key have another layout in this run');
    }
    const row = new Float64Array(size);
    const rows = Math.min(values.rows, MOST_ROWS);
    for (let batch = 0; batch < values.batch; batch++) {
      for (let head = 0; head < heads; head++) {
        const target = Math.floor((head * groups) / heads) * size * size;
        for (let r = 0; r < rows; r++) {
          const start = values.start(batch, head, Math.floor(((r + 0.5) * values.rows) / rows));
          for (let d = 0; d < size; d++) row[d] = values.data[start + d * values.step]!;
          for (let i = 0; i < size; i++) {
            const [x, at] = [row[i]!, target + i * size];
            for (let j = 0; j < size; j++) moments[at + j]! += x * row[j]!;
          }
        }
      }
    }
    if (!moments.every(Number.isFinite)) throw this.unusable('its query or key are not finite');
  }

  private unusable(why: string): InputError {
    return new InputError(`${this.site.id} cannot be calibrated: ${why}`, {
      remedy: 'Keep this site, or give other data.',
    });
  }
}
