import type { MultipoleParameters } from '../../custom-ops/multipole-attention/parameters.js';
import { type MultipoleInputs, multipoleAttention } from '../../custom-ops/multipole-attention/reference.js';
import { assertClose, HALF, SINGLE } from '../comparison.js';
import { type KernelOptions, runKernel } from './traced-attention.js';

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
