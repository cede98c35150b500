import type { KeyMask } from '../../rewriter/site.js';
import { type TensorValue, toNumbers } from './tensor.js';

/**
 * Tells whether the key mask of a site shows a key to the queries of its batch row.
 * @param elements of the mask, [batch or 1, keys], or of a length for each batch row
 */
export function keyVisibility(
  { visible }: KeyMask,
  elements: TensorValue,
  keys: number,
): (batch: number, key: number) => boolean {
  const numbers = toNumbers(elements);
  switch (visible) {
    case 'count':
      return (batch, key) => key < numbers[batch % numbers.length]!;
    case 'last':
      return (batch, key) => key <= numbers[batch % numbers.length]!;
    default:
      return (batch, key) =>
        (numbers[(batch * keys + key) % numbers.length] !== 0) === (visible === 'nonzero');
  }
}
