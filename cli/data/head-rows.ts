import { LAYOUT_AXES, type Layout, type Operand } from '../../rewriter/site.js';
import { type TensorValue, toNumbers } from './tensor.js';

/** What the original model computes, or is fed, under a name. */
export type ValueOf = (name: string) => TensorValue | undefined;

/** A query or key by batch row, head and position, in whatever layout it is. */
export class HeadRows {
  private constructor(
    readonly data: ArrayLike<number>,
    readonly batch: number,
    /** Queries or keys. */
    readonly rows: number,
    /** Elements of one of them in one head. */
    readonly size: number,
    private readonly strides: Readonly<Record<'batch' | 'head' | 'row', number>>,
    /** Between elements of one of them. */
    readonly step: number,
  ) {}

  /** @returns null where the operand is a weight, projected inside an operator, or not of its layout's rank */
  static of(operand: Operand, heads: number, tensorOf: ValueOf): HeadRows | null {
    if (operand.projection !== null) return null;
    const tensor = tensorOf(operand.value);
    if (tensor?.dims.length !== RANKS[operand.layout]) return null;
    const { dims } = tensor;
    const axes = LAYOUT_AXES[operand.layout];
    const stride = (axis: number) => dims.slice(axis + 1).reduce((product, dim) => product * dim, 1);
    const batch = axes.headsWithBatch ? dims[axes.batch]! / heads : dims[axes.batch]!;
    const [row, rows] = [stride(axes.sequence), dims[axes.sequence]!];
    const by = (size: number, batchStride: number, head: number, step = 1) =>
      new HeadRows(toNumbers(tensor), batch, rows, size, { batch: batchStride, head, row }, step);
    switch (operand.layout) {
      case 'BHND':
        return by(dims[3]!, stride(0), stride(1));
      case 'BHDN':
        return by(dims[2]!, stride(0), stride(1), rows);
      case 'BNHD':
        return by(dims[3]!, stride(0), stride(2));
      case 'B(HD)N': {
        const size = dims[1]! / heads;
        return by(size, stride(0), size * rows, rows);
      }
      case 'BN(HD)':
      case 'NB(HD)': {
        const size = dims[2]! / heads;
        return by(size, stride(axes.batch), size);
      }
      case 'N(BH)D':
      case '(BH)ND': {
        const head = stride(axes.batch);
        return by(dims[2]!, heads * head, head);
      }
    }
  }

  /** Where a row of a head begins. */
  start(batch: number, head: number, row: number): number {
    return batch * this.strides.batch + head * this.strides.head + row * this.strides.row;
  }
}

const RANKS: Readonly<Record<Layout, number>> = {
  BHND: 4,
  BHDN: 4,
  BNHD: 4,
  'BN(HD)': 3,
  'B(HD)N': 3,
  'NB(HD)': 3,
  'N(BH)D': 3,
  '(BH)ND': 3,
};
