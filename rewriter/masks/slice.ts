import type { Constants } from '../graph/constants.js';
import { isFloating } from '../graph/data-type.js';
import { ancestors } from '../graph/slices.js';
import type { Value } from '../graph/value.js';
import { followsElements } from '../probe/rules/index.js';

/** Values whose elements the terms of a mask are made from, nearest first; not what only lends its shape. */
export function maskSlice(terms: readonly Value[]): ReadonlySet<Value> {
  const slice = new Set<Value>();
  for (const term of terms) {
    for (const value of ancestors(term, ({ producer }) => producer !== null && followsElements(producer))) {
      slice.add(value);
    }
  }
  return slice;
}

/** Values of a slice that are data: states that come from outside, or out of the layers of the model. */
export function dataIn(slice: ReadonlySet<Value>): readonly Value[] {
  return [...slice].filter(({ initializer, producer, fed, declared }) => {
    if (producer !== null)
      return !followsElements(producer) && producer.type !== 'Shape' && producer.type !== 'Size';
    return (
      initializer === null &&
      fed &&
      declared !== null &&
      isFloating(declared.dataType) &&
      declared.dims?.length !== 2
    );
  });
}

/** Numbers beyond this mark "no limit" rather than a distance or a length. */
const MOST = 2 ** 20;

/** Distances and lengths that a mask may turn on: integers among its constants, and sizes of stored tensors. */
export function numbersIn(slice: ReadonlySet<Value>, constants: Constants): readonly number[] {
  const numbers = new Set<number>();
  for (const value of slice) {
    if (value.initializer === null && value.producer?.type !== 'Constant') continue;
    const dims = value.initializer?.dims ?? value.producer?.tensor('value')?.dims ?? [];
    for (const dim of dims) numbers.add(dim);
    if (dims.reduce((product, dim) => product * dim, 1) > 16) continue;
    for (const number of Array.from(constants.of(value)?.data ?? [])) numbers.add(Math.abs(number));
  }
  return [...numbers]
    .filter(number => Number.isInteger(number) && number > 1 && number <= MOST)
    .sort((a, b) => a - b);
}
