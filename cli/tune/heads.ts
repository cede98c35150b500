import type { AttentionSite, Layout } from '../../rewriter/site.js';
import { ARRAY_TYPES, type TensorValue, toNumbers } from '../data/tensor.js';

/** Elements that follow each other inside one head of a value, which heads take turns in. */
function elementsPerTurn(dims: readonly number[], layout: Layout, heads: number): number {
  switch (layout) {
    case 'BHND':
    case 'BHDN':
      return dims[2]! * dims[3]!;
    case 'BNHD':
      return dims[3]!;
    case 'BN(HD)':
    case 'NB(HD)':
      return dims[2]! / heads;
    case 'B(HD)N':
      return (dims[1]! / heads) * dims[2]!;
    case 'N(BH)D':
      return dims[2]!;
    case '(BH)ND':
      return dims[1]! * dims[2]!;
  }
}

/** What a site computes when some heads are computed as in `changed` and the others as in `exact`. */
export function withHeads(
  site: AttentionSite,
  exact: TensorValue,
  changed: TensorValue,
  chosen: readonly number[],
): TensorValue {
  const heads = site.queryHeads!;
  const turn = elementsPerTurn(exact.dims, site.output.layout, heads);
  const { type, dims } = exact;
  const data = new ARRAY_TYPES[type](exact.data as never);
  for (const head of chosen) {
    for (let start = head * turn; start < data.length; start += heads * turn) {
      data.set(changed.data.subarray(start, start + turn) as never, start);
    }
  }
  return { type, dims, data } as TensorValue;
}

/** Relative squared error of the output of a site, head by head; one number for sites of unknown heads. */
export function headErrors(site: AttentionSite, exact: TensorValue, actual: TensorValue): number[] {
  const heads = site.queryHeads ?? 1;
  const [a, b] = [toNumbers(exact), toNumbers(actual)];
  const turn = site.queryHeads === null ? a.length : elementsPerTurn(exact.dims, site.output.layout, heads);
  const squaredError = new Float64Array(heads);
  const squaredSize = new Float64Array(heads);
  for (let start = 0, head = 0; start < a.length; start += turn, head = (head + 1) % heads) {
    let error = 0;
    let size = 0;
    for (let i = start; i < start + turn; i++) {
      const value = a[i]!;
      const difference = b[i]! - value;
      error += difference * difference;
      size += value * value;
    }
    squaredError[head]! += error;
    squaredSize[head]! += size;
  }
  return Array.from(squaredError, (error, head) => error / (squaredSize[head]! || 1));
}
