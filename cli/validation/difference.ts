import type { Difference } from '../../rewriter/validation.js';
import { type TensorValue, toNumbers } from '../data/tensor.js';
import type { Skip } from './rows-without-keys.js';

/**
 * How far `actual` is from `expected`, over all elements that `skip` does not exclude: the squared error
 * relative to the squared size of `expected`, the largest absolute difference, and the cosine between both.
 *
 * Elements that are not finite in `expected` take no part in the sums; they have to come back as the same
 * value (NaN for NaN, infinity of the same sign). Any other element that is not finite in `actual` is a
 * mismatch, and with one mismatch there is no measure: all three are null, which passes no budget. The same
 * holds for different shapes.
 */
export function difference(expected: TensorValue, actual: TensorValue, skip: Skip = () => false): Difference {
  if (expected.dims.join() !== actual.dims.join()) return { ...NO_MEASURE, mismatches: expected.data.length };
  const a = toNumbers(expected);
  const b = toNumbers(actual);
  let squaredError = 0;
  let squaredExpected = 0;
  let squaredActual = 0;
  let product = 0;
  let largest = 0;
  let mismatches = 0;
  for (let i = 0; i < a.length; i++) {
    if (skip(i)) continue;
    const x = a[i]!;
    const y = b[i]!;
    if (!Number.isFinite(x) || !Number.isFinite(y)) {
      if (!Object.is(x, y)) mismatches++;
      continue;
    }
    const error = y - x;
    squaredError += error * error;
    squaredExpected += x * x;
    squaredActual += y * y;
    product += x * y;
    largest = Math.max(largest, Math.abs(error));
  }
  if (mismatches > 0) return { ...NO_MEASURE, mismatches };
  return {
    relative_squared_error: squaredError === 0 ? 0 : finiteOrNull(squaredError / squaredExpected),
    max_abs_error: largest,
    cosine: squaredError === 0 ? 1 : finiteOrNull(product / Math.sqrt(squaredExpected * squaredActual)),
    mismatches: 0,
  };
}

const NO_MEASURE = { relative_squared_error: null, max_abs_error: null, cosine: null } as const;

/** Nothing is close to all zeros: the ratio is then no number. */
function finiteOrNull(value: number): number | null {
  return Number.isFinite(value) ? value : null;
}
