import assert from 'node:assert/strict';
import type { ElementwiseParameters } from '../../../custom-ops/elementwise-attention/parameters.js';
import {
  type ElementwiseInputs,
  type ElementwiseResult,
  elementwiseAttention,
} from '../../../custom-ops/elementwise-attention/reference.js';
import type { Tensor } from '../../../custom-ops/operator.js';
import { assertClose as assertSameValues, SINGLE } from '../../comparison.js';

/** The tensors have one shape and finite numbers, and agree as a whole and in every element. */
export function assertClose(actual: Tensor, expected: Tensor, tolerance: number, what: string): void {
  assert.deepEqual(actual.dims.map(Number), expected.dims, `shape of the ${what}`);
  assert.ok(expected.data.every(Number.isFinite), `the reference of the ${what} is not finite`);
  assertSameValues(actual.data, expected.data, tolerance, what);
}

/**
 * Output and state agree with the reference; each sum of the state to the digits that adding up its terms
 * leaves, which may cancel. The state is float32 whatever the inputs.
 */
export function assertMatches(
  actual: ElementwiseResult,
  inputs: ElementwiseInputs,
  parameters: ElementwiseParameters,
  tolerance: number,
): void {
  const expected = elementwiseAttention(inputs, parameters);
  assertClose(actual.output, expected.output, tolerance, 'output');
  assert.equal(actual.present === null, expected.present === null);
  if (actual.present === null || expected.present === null) return;
  assertClose(actual.present.offset, expected.present.offset, SINGLE, 'offset');
  const absolute = ({ dims, data }: Tensor): Tensor => ({ dims, data: data.map(Math.abs) });
  const { key, value, past } = inputs;
  const sizes = elementwiseAttention(
    {
      ...inputs,
      key: absolute(key),
      value: absolute(value),
      ...(past && { past: { state: absolute(past.state), offset: past.offset } }),
    },
    parameters,
  ).present!.state.data;
  assert.deepEqual(actual.present.state.dims.map(Number), expected.present.state.dims);
  for (const [n, sum] of expected.present.state.data.entries()) {
    const found = actual.present.state.data[n]!;
    const close = Math.abs(found - sum) <= 2 * SINGLE * sizes[n]!;
    assert.ok(close, `sum ${n} is ${found}, not ${sum}; its terms are ${sizes[n]} in absolute value`);
  }
}
