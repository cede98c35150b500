import { type AttentionSite, LAYOUT_AXES } from '../../rewriter/site.js';
import { type TensorValue, toNumbers } from '../data/tensor.js';

/** Query rows of a batch that see no key at all: the mask hides every key that causality leaves. */
export class RowsWithoutKeys {
  private constructor(
    readonly batch: number,
    readonly rows: number,
    private readonly empty: Uint8Array,
  ) {}

  /**
   * @param output what the site computes, in the site's layout
   * @param keys length of the keys
   * @param mask elements of the site's key mask, `[batch or 1, keys]`; null where it has none
   */
  static ofSite(
    site: AttentionSite,
    output: TensorValue,
    keys: number,
    mask: TensorValue | null,
  ): RowsWithoutKeys {
    const axes = LAYOUT_AXES[site.output.layout];
    const batch = (output.dims[axes.batch] ?? 0) / headsWithBatch(site);
    const rows = output.dims[axes.sequence] ?? 0;
    const empty = new Uint8Array(batch * rows);
    const elements = mask && toNumbers(mask);
    const offset = site.alignment === 'bottom-right' ? keys - rows : 0;
    for (let b = 0; b < batch; b++) {
      const row = mask ? (b % (mask.dims[0] ?? 1)) * keys : 0;
      let first = 0;
      if (elements && site.keyMask) {
        const visible = site.keyMask.visible;
        while (first < keys && (elements[row + first] !== 0) !== (visible === 'nonzero')) first++;
      }
      for (let i = 0; i < rows; i++) {
        const seesAny = first < keys && (!site.causal || first <= i + offset);
        if (!seesAny) empty[b * rows + i] = 1;
      }
    }
    return new RowsWithoutKeys(batch, rows, empty);
  }

  get count(): number {
    return this.empty.reduce((sum, row) => sum + row, 0);
  }

  /** Rows that are without keys here or in `other`, when both are of one shape. */
  union(other: RowsWithoutKeys | null): RowsWithoutKeys {
    if (other === null || other.batch !== this.batch || other.rows !== this.rows) return this;
    return new RowsWithoutKeys(
      this.batch,
      this.rows,
      this.empty.map((row, i) => row | other.empty[i]!),
    );
  }

  /**
   * Tells the elements of these rows in a tensor; none when shapes do not fit.
   * @param rowAxis the axis of the sequence
   * @param batchAxis the axis of the batch, each row of which stands for `heads` consecutive ones there
   */
  elementsOf(
    dims: readonly number[],
    rowAxis: number,
    batchAxis = 0,
    heads = 1,
  ): ((element: number) => boolean) | undefined {
    if (dims[batchAxis] !== this.batch * heads || dims[rowAxis] !== this.rows || this.count === 0)
      return undefined;
    const inside = (axis: number) => dims.slice(axis + 1).reduce((product, dim) => product * dim, 1);
    const [perRow, perBatch] = [inside(rowAxis), inside(batchAxis)];
    return element => {
      const b = Math.floor((Math.floor(element / perBatch) % dims[batchAxis]!) / heads);
      const i = Math.floor(element / perRow) % this.rows;
      return this.empty[b * this.rows + i] === 1;
    };
  }

  /** The same for the output of a site. */
  elementsOfOutput(dims: readonly number[], site: AttentionSite): ((element: number) => boolean) | undefined {
    const axes = LAYOUT_AXES[site.output.layout];
    return this.elementsOf(dims, axes.sequence, axes.batch, headsWithBatch(site));
  }
}

/** Heads that the batch axis of a site's output holds for each batch row. */
function headsWithBatch({ output, queryHeads }: AttentionSite): number {
  return LAYOUT_AXES[output.layout].headsWithBatch ? (queryHeads ?? 1) : 1;
}

/** Number of keys that a site sees, from the value of its key operand. */
export function keyLength(site: AttentionSite, key: TensorValue): number {
  return key.dims[LAYOUT_AXES[site.key.layout].sequence] ?? 0;
}
