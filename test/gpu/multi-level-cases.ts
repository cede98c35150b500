import {
  caseInputs,
  MULTI_LEVEL_CASES,
  type MultiLevelCase,
} from '../../custom-ops/multi-level-attention/cases.js';
import { attributesOf, plainParameters } from '../../custom-ops/multi-level-attention/parameters.js';
import {
  type MultiLevelInputs,
  multiLevelAttention,
} from '../../custom-ops/multi-level-attention/reference.js';
import { assertClose } from '../comparison.js';
import { caseTensor } from '../custom-ops/case-file.js';
import { assertSameCache } from '../custom-ops/multi-level-attention/comparison.js';
import { CaseSuite, problemsOf, resultTensor } from './case-suite.js';
import { encoded, rounded, TOLERANCE } from './element-types.js';

const EIGHTS = [8, 8, 8, 8, 8, 8, 8, 8];

/** Sizes that fill tiles, whose blocks end at their edges and inside them. */
const LARGE: readonly MultiLevelCase[] = [false, true].flatMap(causal => {
  const large = (
    name: string,
    length: number,
    ranks: readonly number[],
    block: number,
    valueDim: number,
    changes: Partial<MultiLevelCase> = {},
  ): MultiLevelCase => ({
    name: `${causal ? 'causal' : 'acausal'} ${name}`,
    batch: 1,
    queryHeads: 2,
    kvHeads: 1,
    queries: length,
    keys: length,
    past: null,
    valueDim,
    keyMask: 'none',
    float16: false,
    parameters: plainParameters(ranks, block, { causal, divide: 'shared' }),
    ...changes,
  });
  return [
    large('large, eight levels', 640, EIGHTS, 8, 64),
    large('large, eight levels, blocks of tiles', 600, EIGHTS, 64, 64),
    large('large, ragged blocks', 450, [40, 16, 4, 4], 100, 64),
    large('large, odd ranks', 330, [33, 15, 9, 7], 30, 40, { keyMask: 'random' }),
    large('large, after a cache', 200, EIGHTS, 16, 64, { past: 315 }),
    large('large, upper left', 200, EIGHTS, 8, 64, {
      keys: 600,
      parameters: plainParameters(EIGHTS, 8, {
        causal,
        causalOffset: 70,
        levelScale: [1, 2, 1, 0.5, 1, 1, 3, 1],
      }),
    }),
    large('wide heads', 260, [64, 32, 16, 16], 50, 128),
    large('wide values', 150, [12, 4], 20, 300),
    large('large step', 1, EIGHTS, 64, 64, { past: 1500 }),
  ];
});

const CASES = [...MULTI_LEVEL_CASES, ...LARGE];

/** Cases of MultiLevelAttention for the CUDA kernels; multi-level-attention-runner.cu runs them. */
export const multiLevelCases = new CaseSuite(
  CASES.map(({ name }) => name),
  new Set(['scale', 'level_scale']),
  (index, type) => {
    const shared = CASES[index]!;
    if (shared.float16 && type !== 'float16') return null;
    const inputs = (): MultiLevelInputs => {
      const given = caseInputs(shared);
      return {
        ...given,
        query: rounded(given.query, type),
        key: rounded(given.key, type),
        value: rounded(given.value, type),
        ...(given.past && {
          past: {
            value: rounded(given.past.value, type),
            keys: given.past.keys.map(keys => rounded(keys, type)),
          },
        }),
      };
    };
    return {
      record: name => {
        const { query, key, value, keyMask, past } = inputs();
        return {
          name,
          attributes: attributesOf(shared.parameters),
          tensors: [
            encoded('query', query, type),
            encoded('key', key, type),
            encoded('value', value, type),
            ...(keyMask
              ? [caseTensor('key_mask', [shared.batch, shared.keys + (shared.past ?? 0)], keyMask)]
              : []),
            ...(past ? [encoded('past_value', past.value, type)] : []),
            ...(past?.keys ?? []).map((keys, level) => encoded(`past_key_${level + 1}`, keys, type)),
          ],
        };
      },
      problems: results => {
        const { output, lse, present } = multiLevelAttention(inputs(), shared.parameters);
        const compared = (name: 'output' | 'lse', expected: typeof output) =>
          problemsOf(() =>
            assertClose(
              resultTensor(results, name, expected.dims).data,
              expected.data,
              TOLERANCE[type],
              name,
            ),
          );
        const cache = {
          value: resultTensor(results, 'present_value', present.value.dims),
          keys: present.keys.map(({ dims }, level) =>
            resultTensor(results, `present_key_${level + 1}`, dims),
          ),
        };
        return [
          ...compared('output', output),
          ...compared('lse', lse),
          ...problemsOf(() => assertSameCache(cache, present)),
        ];
      },
    };
  },
);

multiLevelCases.runAsProgram(import.meta.url);
