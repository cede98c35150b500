import { caseInputs, ELEMENTWISE_CASES } from '../../custom-ops/elementwise-attention/cases.js';
import { attributesOf } from '../../custom-ops/elementwise-attention/parameters.js';
import { elementwiseAttention } from '../../custom-ops/elementwise-attention/reference.js';
import { caseTensor } from '../custom-ops/case-file.js';
import { assertMatches } from '../custom-ops/elementwise-attention/comparison.js';
import { CaseSuite, problemsOf, resultTensor } from './case-suite.js';
import { encodedOperands, roundedOperands, TOLERANCE } from './element-types.js';

/** The shared cases of ElementwiseAttention for the CUDA kernels; elementwise-attention-runner.cu runs them. */
export const elementwiseCases = new CaseSuite(
  ELEMENTWISE_CASES.map(({ name }) => name),
  new Set(),
  (index, type) => {
    const shared = ELEMENTWISE_CASES[index]!;
    if (shared.float16 && type !== 'float16') return null;
    const inputs = () => roundedOperands(caseInputs(shared), type);
    return {
      record: name => {
        const given = inputs();
        const { keyMask, past } = given;
        return {
          name,
          attributes: attributesOf(shared.parameters),
          tensors: [
            ...encodedOperands(given, type),
            ...(keyMask ? [caseTensor('key_mask', [shared.batch, shared.keys], keyMask)] : []),
            ...(past ? [caseTensor('past_state', past.state.dims, new Float32Array(past.state.data))] : []),
            ...(past
              ? [caseTensor('past_offset', past.offset.dims, new Float32Array(past.offset.data))]
              : []),
          ],
        };
      },
      problems: results => {
        const given = inputs();
        const { output, present } = elementwiseAttention(given, shared.parameters);
        const actual = {
          output: resultTensor(results, 'output', output.dims),
          present: present && {
            state: resultTensor(results, 'present_state', present.state.dims),
            offset: resultTensor(results, 'present_offset', present.offset.dims),
          },
        };
        return problemsOf(() => assertMatches(actual, given, shared.parameters, TOLERANCE[type]));
      },
    };
  },
);

elementwiseCases.runAsProgram(import.meta.url);
