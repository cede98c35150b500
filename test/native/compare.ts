import assert from 'node:assert/strict';
import type { MultipoleParameters } from '../../custom-ops/multipole-attention/parameters.js';
import { type MultipoleInputs, multipoleAttention } from '../../custom-ops/multipole-attention/reference.js';
import { type KernelOptions, runKernel } from './traced-attention.js';

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

/**
 * Runs the kernel and the reference on what the kernel chose. The float16 kernel is compared on the choices
 * of the float32 kernel, which sees the same numbers.
 */
export async function compareWithReference(
  inputs: MultipoleInputs,
  parameters: MultipoleParameters,
  options: KernelOptions = {},
): Promise<void> {
  const traced = await runKernel(inputs, parameters, { ...options, float16: false });
  const expected = multipoleAttention(inputs, parameters, traced.choices);
  assertClose(traced.output.data, expected.output.data, SINGLE, 'output');
  assertClose(traced.lse.data, expected.lse.data, SINGLE, 'lse');
  if (!options.float16) return;
  const half = await runKernel(inputs, parameters, options);
  assertClose(half.output.data, expected.output.data, HALF, 'float16 output');
  assertClose(half.lse.data, expected.lse.data, HALF, 'float16 lse');
}
