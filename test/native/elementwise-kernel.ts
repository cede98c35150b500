import type { ElementwiseParameters } from '../../custom-ops/elementwise-attention/parameters.js';
import type {
  ElementwiseInputs,
  ElementwiseResult,
} from '../../custom-ops/elementwise-attention/reference.js';
import { InferenceSession } from '../../custom-ops/runtime/node/index.js';
import {
  connectedInputs,
  feeds,
  nodeModel,
  resultOf,
} from '../custom-ops/elementwise-attention/node-model.js';

/** Refused inputs are expected: nothing is to be logged. */
const FATAL = 4;

/** Runs the CPU kernel through ONNX Runtime. */
export async function runKernel(
  inputs: ElementwiseInputs,
  parameters: ElementwiseParameters,
  { threads = 1, float16 = false }: { readonly threads?: number; readonly float16?: boolean } = {},
): Promise<ElementwiseResult> {
  const session = await InferenceSession.create(nodeModel(parameters, connectedInputs(inputs), { float16 }), {
    intraOpNumThreads: threads,
    logSeverityLevel: FATAL,
  });
  try {
    return resultOf(await session.run(feeds(inputs, float16), { logSeverityLevel: FATAL }));
  } finally {
    await session.release();
  }
}
