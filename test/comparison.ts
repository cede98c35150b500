import assert from 'node:assert/strict';

/** Tolerances of the operator specification under equal choices, relative: float32 and float16. */
export const SINGLE = 1e-5;
export const HALF = 2e-3;

/** ||actual - expected|| / ||expected||; elements that are equal, infinities too, do not differ. */
export function relativeError(actual: Float32Array, expected: Float32Array): number {
  assert.equal(actual.length, expected.length);
  let difference = 0;
  let norm = 0;
  for (let n = 0; n < expected.length; n++) {
    const [a, e] = [actual[n]!, expected[n]!];
    if (Number.isFinite(e)) norm += e * e;
    if (a !== e) difference += (a - e) ** 2;
  }
  return difference === 0 ? 0 : Math.sqrt(difference / norm);
}

/** The relative error as a whole, and every element against the largest. */
export function assertClose(
  actual: Float32Array,
  expected: Float32Array,
  tolerance: number,
  what: string,
): void {
  const error = relativeError(actual, expected);
  assert.ok(error <= tolerance, `${what}: relative error ${error}`);
  const largest = expected.reduce((most, x) => (Number.isFinite(x) ? Math.max(most, Math.abs(x)) : most), 0);
  for (let n = 0; n < expected.length; n++) {
    const [a, e] = [actual[n]!, expected[n]!];
    assert.ok(
      a === e || Math.abs(a - e) <= 2 * tolerance * largest,
      `${what}: element ${n} is ${a}, not ${e}; the largest is ${largest}`,
    );
  }
}
