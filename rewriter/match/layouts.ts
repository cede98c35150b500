import type { Layout } from '../site.js';
import { canonical, type Factor, sameRuns, sizeOfRuns } from './view.js';

/** The axes of an attention operand as runs through a source tensor. */
export interface OperandRuns {
  /** Batch and heads, batch outermost. */
  readonly lead: readonly Factor[];
  /** Positions of the sequence. */
  readonly rows: readonly Factor[];
  /** Elements of a head. */
  readonly columns: readonly Factor[];
}

/** Sizes that a source tensor has in a layout. */
export interface LayoutSizes {
  readonly batch: number;
  /** Heads that the source holds. */
  readonly heads: number;
  /** Consecutive heads of the operand that read the same head of the source: 1, or the size of a query group. */
  readonly repeats: number;
  readonly length: number;
  readonly headDim: number;
}

interface SourceStrides {
  readonly batch: number;
  readonly heads: number;
  readonly length: number;
  readonly strides: {
    readonly batch: number;
    readonly head: number;
    readonly row: number;
    readonly column: number;
  };
}

/** What each layout makes of a source of these dimensions with heads of `d` elements; null when it cannot be. */
const LAYOUTS: Readonly<Record<Layout, (dims: readonly number[], d: number) => SourceStrides | null>> = {
  BHND: ([batch, heads, length, last, ...rest], d) =>
    last !== d || rest.length > 0
      ? null
      : source(batch!, heads!, length!, {
          batch: heads! * length! * d,
          head: length! * d,
          row: d,
          column: 1,
        }),
  BNHD: ([batch, length, heads, last, ...rest], d) =>
    last !== d || rest.length > 0
      ? null
      : source(batch!, heads!, length!, { batch: heads! * length! * d, head: d, row: heads! * d, column: 1 }),
  BHDN: ([batch, heads, inner, length, ...rest], d) =>
    inner !== d || length === undefined || rest.length > 0
      ? null
      : source(batch!, heads!, length, {
          batch: heads! * length * d,
          head: length * d,
          row: 1,
          column: length,
        }),
  'BN(HD)': ([batch, length, hidden, ...rest], d) =>
    hidden === undefined || hidden % d !== 0 || rest.length > 0
      ? null
      : source(batch!, hidden / d, length!, { batch: length! * hidden, head: d, row: hidden, column: 1 }),
  'B(HD)N': ([batch, hidden, length, ...rest], d) =>
    length === undefined || hidden! % d !== 0 || rest.length > 0
      ? null
      : source(batch!, hidden! / d, length, {
          batch: hidden! * length,
          head: d * length,
          row: 1,
          column: length,
        }),
  'NB(HD)': ([length, batch, hidden, ...rest], d) =>
    hidden === undefined || hidden % d !== 0 || rest.length > 0
      ? null
      : source(batch!, hidden / d, length!, { batch: hidden, head: d, row: batch! * hidden, column: 1 }),
  // The number of heads cannot be read from such shapes; it is known of outputs alone.
  'N(BH)D': () => null,
  '(BH)ND': () => null,
};

function source(
  batch: number,
  heads: number,
  length: number,
  strides: SourceStrides['strides'],
): SourceStrides {
  return { batch, heads, length, strides };
}

/** In order of preference: the operators' own layout, then the ones that a transpose brings there. */
export const LAYOUT_ORDER: readonly Layout[] = [
  'BHND',
  'BNHD',
  'BN(HD)',
  'NB(HD)',
  'BHDN',
  'B(HD)N',
  'N(BH)D',
  '(BH)ND',
];

/** Sizes of a source of shape `dims` if an operand that reads it by `runs` takes it in this layout. */
export function sizesIn(layout: Layout, dims: readonly number[], runs: OperandRuns): LayoutSizes | null {
  const headDim = sizeOfRuns(runs.columns);
  if (headDim === 0) return null;
  const found = LAYOUTS[layout](dims, headDim);
  if (found === null) return null;
  const { batch, heads, length, strides } = found;
  const repeats = sizeOfRuns(runs.lead) / (batch * heads);
  if (!Number.isInteger(repeats)) return null;
  const lead = [
    { size: batch, stride: strides.batch },
    { size: heads, stride: strides.head },
    { size: repeats, stride: 0 },
  ];
  const fits =
    sameRuns(runs.lead, canonical(lead)) &&
    sameRuns(runs.rows, canonical([{ size: length, stride: strides.row }])) &&
    sameRuns(runs.columns, canonical([{ size: headDim, stride: strides.column }]));
  return fits ? { batch, heads, repeats, length, headDim } : null;
}
