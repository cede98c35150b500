import assert from 'node:assert/strict';
import type { MultipoleResult } from '../../../custom-ops/multipole-attention/reference.js';

/** ||actual - expected|| / ||expected||; 0 when both are zero or empty. */
export function relativeError(actual: Float32Array, expected: Float32Array): number {
  let difference = 0;
  let norm = 0;
  for (let n = 0; n < expected.length; n++) {
    difference += (actual[n]! - expected[n]!) ** 2;
    norm += expected[n]! ** 2;
  }
  return difference === 0 ? 0 : Math.sqrt(difference / norm);
}

/** Output and lse agree as a whole and in each element. */
export function assertSame(
  actual: Pick<MultipoleResult, 'output' | 'lse'>,
  expected: Pick<MultipoleResult, 'output' | 'lse'>,
  tolerance: number,
): void {
  const error = relativeError(actual.output.data, expected.output.data);
  assert.ok(error <= tolerance, `relative error ${error}`);
  for (const name of ['output', 'lse'] as const) {
    const [values, references] = [actual[name].data, expected[name].data];
    assert.equal(values.length, references.length);
    references.forEach((reference, n) => {
      const same =
        values[n] === reference ||
        Math.abs(values[n]! - reference) <= tolerance * Math.max(1, Math.abs(reference));
      assert.ok(same, `${name} ${n} is ${values[n]} instead of ${reference}`);
    });
  }
}
