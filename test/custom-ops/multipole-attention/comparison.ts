import assert from 'node:assert/strict';
import type { MultipoleResult } from '../../../custom-ops/multipole-attention/reference.js';
import { relativeError } from '../../comparison.js';

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
