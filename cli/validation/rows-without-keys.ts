import { LAYOUT_AXES, type Layout, reachOf, type Site } from '../../rewriter/site.js';
import { keyVisibility } from '../data/key-visibility.js';
import { type TensorValue, toNumbers } from '../data/tensor.js';

/** Tells whether an element of a tensor, by its place in row-major order, is to be left out. */
export type Skip = (element: number) => boolean;

/** Query rows of a batch that see no key at all: the mask hides every key that causality and windows leave. */
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
   * @param mask elements of the site's key mask; null where it has none
   */
  static ofSite(site: Site, output: TensorValue, keys: number, mask: TensorValue | null): RowsWithoutKeys {
    const { batch, rows } = sizesOf(output.dims, axesOfOutput(site), site.queryHeads);
    const empty = new Uint8Array(batch * rows);
    const isVisible = mask && site.keyMask && keyVisibility(site.keyMask, mask, keys);
    const lengths = site.keyMask?.visible === 'last' && mask ? toNumbers(mask) : null;
    // A batch row of a cache ends at its own last key; a prompt begins at the first.
    const endOf = (b: number) => (lengths ? Math.max(lengths[b % lengths.length]! + 1, rows) : keys);
    const { left, right } = reachOf(site);
    // By key: how many of the keys before it are visible.
    const before = new Uint32Array(keys + 1);
    for (let b = 0; b < batch; b++) {
      for (let j = 0; j < keys; j++) before[j + 1] = before[j]! + (isVisible?.(b, j) === false ? 0 : 1);
      const offset = site.alignment === 'bottom-right' ? endOf(b) - rows : 0;
      for (let i = 0; i < rows; i++) {
        const first = left === null ? 0 : Math.max(0, i + offset - left);
        const end = right === null ? keys : Math.min(keys, i + offset + right + 1);
        if (first >= end || before[end] === before[first]) empty[b * rows + i] = 1;
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

  /** Elements of these rows in what the site computes; undefined where there are none. */
  elementsOfSite(site: Site, dims: readonly number[]): Skip | undefined {
    return this.elementsAt(dims, axesOfOutput(site), site.queryHeads);
  }

  /** Elements of these rows in an output `[batch, sequence, ...]`; undefined for any other shape. */
  elementsOfOutput(dims: readonly number[]): Skip | undefined {
    return dims.length < 2 ? undefined : this.elementsAt(dims, LAYOUT_AXES['BN(HD)'], null);
  }

  private elementsAt(dims: readonly number[], axes: Axes, heads: number | null): Skip | undefined {
    const { batch, rows } = sizesOf(dims, axes, heads);
    if (this.count === 0 || batch !== this.batch || rows !== this.rows) return undefined;
    const perBatch = dims[axes.batch]! / batch;
    const [batchStride, rowStride] = [strideOf(dims, axes.batch), strideOf(dims, axes.sequence)];
    return element => {
      const b = Math.floor((Math.floor(element / batchStride) % dims[axes.batch]!) / perBatch);
      const i = Math.floor(element / rowStride) % rows;
      return this.empty[b * rows + i] === 1;
    };
  }
}

type Axes = (typeof LAYOUT_AXES)[Layout];

/** @throws RangeError for single tokens, from which no key can be hidden */
function axesOfOutput({ id, output }: Site): Axes {
  if (!('axes' in output)) return LAYOUT_AXES[output.layout];
  if (output.axes === null) throw new RangeError(`the output of site ${id} has no axis of rows`);
  return { ...output.axes, headsWithBatch: false };
}

/**
 * Number of keys that a site sees.
 * @param tensorOf the value of an operand, by name
 * @returns null where no key can be hidden from a row: the number makes no difference there
 */
export function keyLength(site: Site, tensorOf: (name: string) => TensorValue): number | null {
  if (site.computation === 'softmax') {
    const past = site.cache?.past ? (tensorOf(site.cache.past.key).dims.at(-2) ?? 0) : 0;
    return past + (tensorOf(site.key.value).dims[LAYOUT_AXES[site.key.layout].sequence] ?? 0);
  }
  return site.keyMask === null ? null : (tensorOf(site.keyMask.value).dims[1] ?? 0);
}

function sizesOf(
  dims: readonly number[],
  { batch, sequence, headsWithBatch }: Axes,
  heads: number | null,
): { readonly batch: number; readonly rows: number } {
  return {
    batch: (dims[batch] ?? 0) / (headsWithBatch ? (heads ?? 1) : 1),
    rows: dims[sequence] ?? 0,
  };
}

/** Elements between neighbors along an axis. */
function strideOf(dims: readonly number[], axis: number): number {
  return dims.slice(axis + 1).reduce((product, dim) => product * dim, 1);
}
