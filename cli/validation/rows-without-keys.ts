import { type AttentionSite, LAYOUT_AXES, type Layout } from '../../rewriter/site.js';
import { type TensorValue, toNumbers } from '../data/tensor.js';

/** Tells whether an element of a tensor, by its place in row-major order, is to be left out. */
export type Skip = (element: number) => boolean;

/** Query rows of a batch that see no key at all: the mask hides every key that causality leaves. */
export class RowsWithoutKeys {
  private constructor(
    private readonly batch: number,
    private readonly rows: number,
    /** 1 for every such row, `[batch, rows]`. */
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
    const { batch, rows } = sizesOf(output.dims, site.output.layout, site.queryHeads);
    const empty = new Uint8Array(batch * rows);
    const elements = mask && toNumbers(mask);
    const offset = site.alignment === 'bottom-right' ? keys - rows : 0;
    for (let b = 0; b < batch; b++) {
      const row = mask ? (b % (mask.dims[0] ?? 1)) * keys : 0;
      let first = 0;
      if (elements && site.keyMask) {
        const visible = site.keyMask.visible === 'nonzero';
        while (first < keys && (elements[row + first] !== 0) !== visible) first++;
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
    const empty = this.empty.map((row, i) => row | other.empty[i]!);
    return new RowsWithoutKeys(this.batch, this.rows, empty);
  }

  /** Elements of these rows in a value of a site's layout; undefined where there are none. */
  elementsInLayout(dims: readonly number[], layout: Layout, heads: number | null): Skip | undefined {
    const { batch, rows } = sizesOf(dims, layout, heads);
    if (this.count === 0 || batch !== this.batch || rows !== this.rows) return undefined;
    const axes = LAYOUT_AXES[layout];
    const perBatch = dims[axes.batch]! / batch;
    const [batchStride, rowStride] = [strideOf(dims, axes.batch), strideOf(dims, axes.sequence)];
    return element => {
      const b = Math.floor((Math.floor(element / batchStride) % dims[axes.batch]!) / perBatch);
      const i = Math.floor(element / rowStride) % rows;
      return this.empty[b * rows + i] === 1;
    };
  }

  /** Elements of these rows in an output `[batch, sequence, ...]`; undefined for any other shape. */
  elementsOfOutput(dims: readonly number[]): Skip | undefined {
    return dims.length < 2 ? undefined : this.elementsInLayout(dims, 'BN(HD)', null);
  }
}

/** Number of keys that a site sees, from the value of its key operand. */
export function keyLength(site: AttentionSite, key: TensorValue): number {
  return key.dims[LAYOUT_AXES[site.key.layout].sequence] ?? 0;
}

function sizesOf(
  dims: readonly number[],
  layout: Layout,
  heads: number | null,
): { readonly batch: number; readonly rows: number } {
  const { batch, sequence, headsWithBatch } = LAYOUT_AXES[layout];
  return {
    batch: (dims[batch] ?? 0) / (headsWithBatch ? (heads ?? 1) : 1),
    rows: dims[sequence] ?? 0,
  };
}

/** Elements between neighbors along an axis. */
function strideOf(dims: readonly number[], axis: number): number {
  return dims.slice(axis + 1).reduce((product, dim) => product * dim, 1);
}
