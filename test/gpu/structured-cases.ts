import {
  caseInputs,
  STRUCTURED_MATMUL_CASES,
  type StructuredMatMulCase,
} from '../../custom-ops/structured-matmul/cases.js';
import { factorShapes } from '../../custom-ops/structured-matmul/parameters.js';
import { structuredMatMul } from '../../custom-ops/structured-matmul/reference.js';
import { butterfly } from '../../custom-ops/structured-matmul/structures.js';
import { assertClose } from '../comparison.js';
import { CaseSuite, problemsOf, resultTensor } from './case-suite.js';
import { encoded, rounded, TOLERANCE } from './element-types.js';

const CASES: readonly StructuredMatMulCase[] = [
  ...STRUCTURED_MATMUL_CASES.filter(({ structure }) => structure.kind === 'butterfly'),
  ...[4, 128, 512, 1024, 2048, 4096].map(size => ({
    name: `butterfly of ${size}`,
    structure: butterfly(size),
    leading: [size > 1000 ? 21 : 150],
    float16: false,
  })),
];

/** Cases of StructuredMatMul for the CUDA kernel, which takes butterflies; structured-matmul-runner.cu runs them. */
export const structuredCases = new CaseSuite(
  CASES.map(({ name }) => name),
  new Set(),
  (index, type) => {
    const shared = CASES[index]!;
    const inputs = () => {
      const { x, factors } = caseInputs(shared);
      return { x: rounded(x, type), factors: factors.map(factor => rounded(factor, type)) };
    };
    return {
      large: factorShapes(shared.structure)[0]![1]! > 1000,
      record: name => {
        const { x, factors } = inputs();
        return {
          name,
          attributes: {},
          tensors: [encoded('x', x, type), encoded('left_1', factors[0]!, type)],
        };
      },
      problems: results => {
        const { x, factors } = inputs();
        const expected = structuredMatMul(x, shared.structure, factors);
        return problemsOf(() => {
          const { data } = resultTensor(results, 'output', expected.dims);
          assertClose(data, expected.data, TOLERANCE[type], 'output');
        });
      },
    };
  },
);

structuredCases.runAsProgram(import.meta.url);
