import { caseInputs, type LocalCase } from '../../../custom-ops/local-attention/cases.js';
import { localAttention } from '../../../custom-ops/local-attention/reference.js';
import { assertClose, HALF, SINGLE } from '../../comparison.js';
import type { OnnxRuntime } from '../onnx-runtime.js';
import { type NodeOptions, runNode } from './run-node.js';

/** Runs a case as a model of one node and compares it with the reference. */
export async function checkCase(
  runtime: OnnxRuntime,
  shared: LocalCase,
  options: NodeOptions = {},
): Promise<void> {
  const inputs = caseInputs(shared);
  const { float16, parameters } = shared;
  const expected = localAttention(inputs, parameters);
  const actual = await runNode(runtime, inputs, parameters, { ...options, float16 });
  for (const name of ['output', 'lse'] as const) {
    assertClose(actual[name].data, expected[name].data, float16 ? HALF : SINGLE, name);
  }
}
