import assert from 'node:assert/strict';
import { caseInputs, MULTI_LEVEL_CASES } from '../../../custom-ops/multi-level-attention/cases.js';
import {
  attributesOf,
  type MultiLevelParameters,
  plainParameters,
} from '../../../custom-ops/multi-level-attention/parameters.js';
import {
  type MultiLevelInputs,
  type MultiLevelResult,
  multiLevelAttention as reference,
} from '../../../custom-ops/multi-level-attention/reference.js';
import type { Tensor } from '../../../custom-ops/operator.js';
import { multiLevelAttention, type OperatorRunner } from '../../../custom-ops/runtime/web/node.js';
import type { HostTensor } from '../../../custom-ops/runtime/web/operator-runner.js';
import { assertClose, HALF, SINGLE } from '../../comparison.js';
import { sequenceRows } from '../multipole-attention/sequence-rows.js';
import { testRunner } from '../runtime/web/test-runner.js';
import { assertSameCache } from './comparison.js';
import { randomSequence } from './decoding.js';

async function runKernels(
  runner: OperatorRunner,
  { query, key, value, keyMask, past }: MultiLevelInputs,
  parameters: MultiLevelParameters,
  float16 = false,
): Promise<MultiLevelResult> {
  const given = (tensor: Tensor | undefined): HostTensor | null =>
    tensor ? { type: float16 ? 'float16' : 'float32', ...tensor } : null;
  const tokens = (past?.value.dims[2] ?? 0) + key.dims[2]!;
  const mask: HostTensor | null = keyMask
    ? { type: 'bool', dims: [key.dims[0]!, tokens], data: keyMask }
    : null;
  const results = await runner.run(multiLevelAttention, attributesOf(parameters), [
    given(query),
    given(key),
    given(value),
    mask,
    given(past?.value),
    ...parameters.ranks.map((_, level) => given(past?.keys[level])),
  ]);
  const [output, lse, presentValue, ...keys] = results.map(({ dims, data }) => ({
    dims,
    data: data as Float32Array,
  }));
  return { output: output!, lse: lse!, present: { value: presentValue!, keys } };
}

async function check(
  runner: OperatorRunner,
  inputs: MultiLevelInputs,
  parameters: MultiLevelParameters,
  float16 = false,
): Promise<void> {
  const expected = reference(inputs, parameters);
  const actual = await runKernels(runner, inputs, parameters, float16);
  const tolerance = float16 ? HALF : SINGLE;
  assert.deepEqual(actual.output.dims, expected.output.dims);
  assertClose(actual.output.data, expected.output.data, tolerance, 'output');
  assertClose(actual.lse.data, expected.lse.data, tolerance, 'lse');
  assertSameCache(actual.present, expected.present);
}

describe('MultiLevelAttention on WebGPU', () => {
  const runner = testRunner();

  for (const shared of MULTI_LEVEL_CASES) {
    it(`agrees with the reference: ${shared.name}`, () =>
      check(runner(), caseInputs(shared), shared.parameters, shared.float16));
  }

  it('agrees when keys are divided among workgroups', () =>
    check(
      runner(),
      caseInputs({
        ...MULTI_LEVEL_CASES.find(({ name }) => name === 'causal step, one key head')!,
        past: 1700,
      }),
      plainParameters([8, 8], 16, { causal: true }),
    ));

  it('lets no later token change a bit of a causal row', async () => {
    const length = 150;
    const inputs = randomSequence(11, length, 16);
    for (const block of [3, 64]) {
      const parameters = plainParameters([8, 4, 4], block, { causal: true });
      const before = await runKernels(runner(), inputs, parameters);
      for (const kept of [1, 64, 101]) {
        const change = ({ dims, data }: Tensor): Tensor => ({
          dims,
          data: data.map((x, n) => (Math.floor(n / 16) % length < kept ? x : 1.5 - 2 * x)),
        });
        const changed = {
          query: change(inputs.query),
          key: change(inputs.key),
          value: change(inputs.value),
        };
        const after = await runKernels(runner(), changed, parameters);
        const rows = (tensor: Tensor) => sequenceRows(tensor, 0, kept).data;
        assert.deepEqual(rows(after.output), rows(before.output));
        assert.notDeepEqual(after.output.data, before.output.data);
      }
    }
  });
});
