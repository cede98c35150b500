import { type AttentionSite, type Layout, SEQUENCE_AXIS } from '../../rewriter/site.js';
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
    const batch = output.dims[0] ?? 0;
    const rows = output.dims[SEQUENCE_AXIS[site.output.layout]] ?? 0;
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

  /** Tells the elements of these rows in a tensor whose sequence is on `axis`; none when shapes do not fit. */
  elementsOf(dims: readonly number[], axis: number): ((element: number) => boolean) | undefined {
    if (dims[0] !== this.batch || dims[axis] !== this.rows || this.count === 0) return undefined;
    const perRow = dims.slice(axis + 1).reduce((product, dim) => product * dim, 1);
    const perBatch = dims.slice(1).reduce((product, dim) => product * dim, 1);
    return element => {
      const b = Math.floor(element / perBatch);
      const i = Math.floor(element / perRow) % this.rows;
      return this.empty[b * this.rows + i] === 1;
    };
  }

  /** The same for a value in a site's layout. */
  elementsInLayout(dims: readonly number[], layout: Layout): ((element: number) => boolean) | undefined {
    return this.elementsOf(dims, SEQUENCE_AXIS[layout]);
  }
}

/** Number of keys that a site sees, from the value of its key operand. */
export function keyLength(site: AttentionSite, key: TensorValue): number {
  return key.dims[SEQUENCE_AXIS[site.key.layout]] ?? 0;
}
