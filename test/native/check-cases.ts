import { caseInputs, MULTIPOLE_CASES } from '../../custom-ops/multipole-attention/cases.js';
import { compareWithReference } from './compare.js';

/** A process of its own for each instruction set, since the choice (ONNX_REWRITE_SIMD) is made once. */
for (const shared of MULTIPOLE_CASES.filter(({ large, float16 }) => !large && !float16)) {
  try {
    await compareWithReference(caseInputs(shared), shared.parameters, { threads: 2 });
  } catch (error) {
    console.log(`${shared.name}: ${(error as Error).message}`);
    process.exitCode = 1;
  }
}
