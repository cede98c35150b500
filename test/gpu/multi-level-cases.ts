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
import { encoded, encodedOperands, rounded, roundedOperands, TOLERANCE } from './element-types.js';
import { withSpoiledRows } from './spoiled-rows.js';

const EIGHTS = [8, 8, 8, 8, 8, 8, 8, 8];

interface GpuMultiLevelCase extends MultiLevelCase {
  /** Key from which on causal values are infinite; keys and values that the mask hides are throughout. */
  readonly spoiledFrom?: number;
}

/** Sizes that fill tiles, whose blocks end at their edges and inside them. */
const LARGE: readonly GpuMultiLevelCase[] = [false, true].flatMap(causal => {
  const large = (
    name: string,
    length: number,
    ranks: readonly number[],
    block: number,
    valueDim: number,
    changes: Partial<GpuMultiLevelCase> = {},
  ): GpuMultiLevelCase => ({
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
    large('large, not finite', 300, EIGHTS, 16, 64, { keyMask: 'random', spoiledFrom: 133 }),
  ];
});

const CASES: readonly GpuMultiLevelCase[] = [...MULTI_LEVEL_CASES, ...LARGE];

/** Cases of MultiLevelAttention for the CUDA kernels; multi-level-attention-runner.cu runs them. */
export const multiLevelCases = new CaseSuite(
  CASES.map(({ name }) => name),
  new Set(['scale', 'level_scale']),
  (index, type) => {
    const shared = CASES[index]!;
    if (shared.float16 && type !== 'float16') return null;
    const inputs = (): MultiLevelInputs => {
      const clean = caseInputs(shared);
      const { spoiledFrom } = shared;
      const hidden = (batch: number, key: number) => !clean.keyMask?.[batch * shared.keys + key];
      const spoiled = (batch: number, key: number) =>
        hidden(batch, key) || (shared.parameters.causal && key >= spoiledFrom!);
      const given =
        spoiledFrom === undefined
          ? clean
          : {
              ...clean,
              key: withSpoiledRows(clean.key, hidden),
              value: withSpoiledRows(clean.value, spoiled),
            };
      return {
        ...roundedOperands(given, type),
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
        const given = inputs();
        const { keyMask, past } = given;
        return {
          name,
          attributes: attributesOf(shared.parameters),
          tensors: [
            ...encodedOperands(given, type),
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
        const compared = (name: 'output' | 'lse', expected: typeof output) => {
          const found = resultTensor(results, name, expected.dims).data;
          return problemsOf(() => {
            const infinite = (n: number) => expected.data[n] === Infinity && found[n] === Infinity;
            const known = (numbers: Float32Array) => numbers.map((number, n) => (infinite(n) ? 0 : number));
            assertClose(known(found), known(expected.data), TOLERANCE[type], name);
          });
        };
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
