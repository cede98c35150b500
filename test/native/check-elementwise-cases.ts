import { caseInputs, ELEMENTWISE_CASES } from '../../custom-ops/elementwise-attention/cases.js';
import { SINGLE } from '../comparison.js';
import { assertMatches } from '../custom-ops/elementwise-attention/comparison.js';
import { runKernel } from './elementwise-kernel.js';

/** A process of its own for each instruction set, since the choice (ONNX_REWRITE_SIMD) is made once. */
for (const shared of ELEMENTWISE_CASES.filter(({ float16 }) => !float16)) {
  const inputs = caseInputs(shared);
  try {
    assertMatches(await runKernel(inputs, shared.parameters), inputs, shared.parameters, SINGLE);
  } catch (error) {
    console.log(`${shared.name}: ${(error as Error).message}`);
    process.exitCode = 1;
  }
}
