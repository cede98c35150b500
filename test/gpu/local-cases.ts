import { caseInputs, LOCAL_CASES, type LocalCase } from '../../custom-ops/local-attention/cases.js';
import { attributesOf, type LocalParameters } from '../../custom-ops/local-attention/parameters.js';
import { type LocalInputs, localAttention } from '../../custom-ops/local-attention/reference.js';
import { assertClose } from '../comparison.js';
import { caseTensor } from '../custom-ops/case-file.js';
import { CaseSuite, problemsOf, resultTensor } from './case-suite.js';
import { encodedOperands, roundedOperands, TOLERANCE } from './element-types.js';
import { withSpoiledRows } from './spoiled-rows.js';

interface GpuLocalCase extends LocalCase {
  /** Keys whose numbers are infinite; no row may see them. */
  readonly spoiled?: readonly [from: number, to: number];
}

function large(
  name: string,
  length: number,
  window: Partial<LocalParameters>,
  changes: Partial<Omit<GpuLocalCase, 'name' | 'parameters'>> = {},
): GpuLocalCase {
  return {
    name: `large, ${name}`,
    batch: 1,
    queryHeads: 2,
    kvHeads: 1,
    queries: length,
    keys: length,
    headDim: 64,
    valueDim: 64,
    keyMask: 'none',
    float16: false,
    ...changes,
    parameters: { scale: null, left: 511, right: 0, offset: null, ...window },
  };
}

/** Sizes that fill tiles, windows that end at their edges and inside them. */
const LARGE: readonly GpuLocalCase[] = [
  large('causal', 1400, {}),
  large('causal, at tiles', 900, { left: 256 }),
  large('both sides', 777, { left: 64, right: 64 }, { queryHeads: 4, kvHeads: 2, batch: 2 }),
  large('both sides, masked', 600, { left: 100, right: 30 }, { keyMask: 'random', batch: 2 }),
  large('all before', 500, { left: null }),
  large('all after', 500, { left: 3, right: null }),
  large('small heads', 300, { left: 70, right: 70 }, { headDim: 24, valueDim: 40 }),
  large('wide heads', 400, { left: 150 }, { headDim: 128, valueDim: 72 }),
  large('wide values', 260, { left: 90 }, { headDim: 80, valueDim: 300 }),
  large('heads wider than values', 300, { left: 90, right: 20 }, { headDim: 200, valueDim: 48 }),
  large('wide heads and values', 200, { left: null }, { headDim: 256, valueDim: 96 }),
  large('very wide heads', 150, { left: 40, right: 10 }, { headDim: 300, valueDim: 16 }),
  large('chunk', 200, { left: 128 }, { keys: 1000 }),
  large('step', 1, {}, { keys: 3000 }),
  large('rows before the keys', 400, { left: 100, right: 20, offset: -150 }),
  large('negative scale', 300, { left: 200, scale: -0.2 }),
  large('hidden keys not finite', 400, { left: 130, right: 40 }, { keyMask: 'first', spoiled: [0, 20] }),
  large(
    'keys outside windows not finite',
    250,
    { left: 30, right: 5, offset: 0 },
    { keys: 400, spoiled: [255, 400] },
  ),
];

const CASES: readonly GpuLocalCase[] = [...LOCAL_CASES, ...LARGE];

/** Cases of LocalAttention for the CUDA kernels; local-attention-runner.cu runs them. */
export const localCases = new CaseSuite(
  CASES.map(({ name }) => name),
  new Set(['scale']),
  (index, type) => {
    const shared = CASES[index]!;
    const { spoiled } = shared;
    const isSpoiled = (_: number, key: number) =>
      spoiled !== undefined && key >= spoiled[0] && key < spoiled[1];
    if (shared.float16 && type !== 'float16') return null;
    const inputs = (): LocalInputs => {
      const given = roundedOperands(caseInputs(shared), type);
      return spoiled === undefined
        ? given
        : {
            ...given,
            key: withSpoiledRows(given.key, isSpoiled),
            value: withSpoiledRows(given.value, isSpoiled),
          };
    };
    return {
      record: name => {
        const given = inputs();
        return {
          name,
          attributes: attributesOf(shared.parameters),
          tensors: [
            ...encodedOperands(given, type),
            ...(given.keyMask ? [caseTensor('key_mask', [shared.batch, shared.keys], given.keyMask)] : []),
          ],
        };
      },
      problems: results => {
        const expected = localAttention(inputs(), shared.parameters);
        return (['output', 'lse'] as const).flatMap(name =>
          problemsOf(() => {
            const { data } = resultTensor(results, name, expected[name].dims);
            assertClose(data, expected[name].data, TOLERANCE[type], name);
          }),
        );
      },
    };
  },
);

localCases.runAsProgram(import.meta.url);
