import {
  BILINEAR_CASES,
  type BilinearCase,
  caseInputs,
  levelParameters,
  trainParameters,
} from '../../custom-ops/bilinear-attention/cases.js';
import { attributesOf } from '../../custom-ops/bilinear-attention/parameters.js';
import { type BilinearInputs, bilinearAttention } from '../../custom-ops/bilinear-attention/reference.js';
import type { Tensor } from '../../custom-ops/operator.js';
import { assertClose } from '../comparison.js';
import { caseTensor } from '../custom-ops/case-file.js';
import { CaseSuite, problemsOf, resultTensor } from './case-suite.js';
import { encoded, rounded, TOLERANCE } from './element-types.js';

/** Vectors of each size that tensor cores take in a different way, over several tiles. */
const LARGE: readonly BilinearCase[] = [false, true].flatMap(causal => {
  const large = (
    name: string,
    parameters: BilinearCase['parameters'],
    changes: Partial<BilinearCase> = {},
  ): BilinearCase => ({
    name: `large, ${causal ? 'causal' : 'acausal'} ${name}`,
    batch: 1,
    length: 300,
    valueDim: 32,
    keyMask: 'none',
    gains: true,
    float16: false,
    ...changes,
    parameters: { ...parameters, causal },
  });
  return [
    large('levels of 64', levelParameters(2, 128, [32, 8, 4])),
    large('levels of 80', levelParameters(2, 128, [16, 8, 4, 4]), { keyMask: 'random', batch: 2 }),
    large('tensor train of 128', trainParameters(2, 128, [8, 16, 2]), { batch: 2 }),
    large('tensor train of 256', trainParameters(2, 256, [16, 16, 1])),
    large('tensor train of 256, wide values', trainParameters(1, 256, [16, 16, 1]), { valueDim: 72 }),
    large('tensor train of 384', trainParameters(1, 384, [16, 24, 1]), { length: 130 }),
  ];
});

const CASES: readonly BilinearCase[] = [...BILINEAR_CASES, ...LARGE];

/** By the names that a case file has for them, the inputs of a case rounded to what the kernels get. */
function namedInputs({ x, value, train, levels }: BilinearInputs): Record<string, Tensor | undefined> {
  return {
    x,
    value,
    left: train?.left,
    right: train?.right,
    key_norm_1: train?.keyNorm,
    ...Object.fromEntries(
      (levels ?? []).flatMap(({ query, key, queryNorm, keyNorm }, l) => [
        [`query_${l + 1}`, query],
        [`key_${l + 1}`, key],
        [`query_norm_${l + 1}`, queryNorm],
        [`key_norm_${l + 1}`, keyNorm],
      ]),
    ),
  };
}

/** Cases of BilinearAttention for the CUDA kernels; bilinear-attention-runner.cu runs them. */
export const bilinearCases = new CaseSuite(
  CASES.map(({ name }) => name),
  new Set(['level_scale', 'epsilon']),
  (index, type) => {
    const shared = CASES[index]!;
    if (shared.float16 && type !== 'float16') return null;
    const round = <Found extends Tensor | undefined>(tensor: Found) =>
      (tensor && rounded(tensor, type)) as Found;
    const inputs = (): BilinearInputs => {
      const { x, value, train, levels, ...rest } = caseInputs(shared);
      const all = (tensors: object) =>
        Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name, round(tensor as Tensor)]));
      return {
        ...rest,
        x: round(x),
        value: round(value),
        ...(train && { train: { left: train.left, right: train.right, ...all(train) } }),
        ...(levels && {
          levels: levels.map(level => ({ query: level.query, key: level.key, ...all(level) })),
        }),
      };
    };
    return {
      record: name => {
        const given = inputs();
        const tensors = Object.entries(namedInputs(given)).flatMap(([input, tensor]) =>
          tensor ? [encoded(input, tensor, type)] : [],
        );
        const mask = given.keyMask
          ? [caseTensor('key_mask', [shared.batch, shared.length], given.keyMask)]
          : [];
        return { name, attributes: attributesOf(shared.parameters), tensors: [...tensors, ...mask] };
      },
      problems: results => {
        const expected = bilinearAttention(inputs(), shared.parameters);
        return problemsOf(() => {
          const { data } = resultTensor(results, 'output', expected.dims);
          assertClose(data, expected.data, TOLERANCE[type], 'output');
        });
      },
    };
  },
);

bilinearCases.runAsProgram(import.meta.url);
