import assert from 'node:assert/strict';
import { caseInputs, ELEMENTWISE_CASES } from '../../../custom-ops/elementwise-attention/cases.js';
import {
  attributesOf,
  type ElementwiseParameters,
} from '../../../custom-ops/elementwise-attention/parameters.js';
import type {
  ElementwiseInputs,
  ElementwiseResult,
} from '../../../custom-ops/elementwise-attention/reference.js';
import type { Tensor } from '../../../custom-ops/operator.js';
import { elementwiseAttention, type OperatorRunner } from '../../../custom-ops/runtime/web/node.js';
import type { HostTensor } from '../../../custom-ops/runtime/web/operator-runner.js';
import { SeededRandom } from '../../../custom-ops/seeded-random.js';
import { HALF, SINGLE } from '../../comparison.js';
import { testRunner } from '../runtime/web/test-runner.js';
import { assertMatches } from './comparison.js';

/** Runs one call; the state is float32 whatever the rest is. */
async function runKernels(
  runner: OperatorRunner,
  { query, key, value, keyMask, past }: ElementwiseInputs,
  parameters: ElementwiseParameters,
  float16 = false,
): Promise<ElementwiseResult> {
  const given = (tensor: Tensor): HostTensor => ({ type: float16 ? 'float16' : 'float32', ...tensor });
  const state = (tensor: Tensor | undefined): HostTensor | null =>
    tensor ? { type: 'float32', ...tensor } : null;
  const mask: HostTensor | null = keyMask
    ? { type: 'bool', dims: key.dims.slice(0, 2), data: keyMask }
    : null;
  const inputs = [given(query), given(key), given(value), mask, state(past?.state), state(past?.offset)];
  const results = await runner.run(elementwiseAttention, attributesOf(parameters), inputs);
  const [output, presentState, presentOffset] = results.map(({ dims, data }) => ({
    dims,
    data: data as Float32Array,
  }));
  const present = presentState && presentOffset ? { state: presentState, offset: presentOffset } : null;
  return { output: output!, present };
}

describe('ElementwiseAttention on WebGPU', () => {
  const runner = testRunner();

  for (const shared of ELEMENTWISE_CASES) {
    it(`agrees with the reference: ${shared.name}`, async () => {
      const inputs = caseInputs(shared);
      const result = await runKernels(runner(), inputs, shared.parameters, shared.float16);
      assertMatches(result, inputs, shared.parameters, shared.float16 ? HALF : SINGLE);
    });
  }

  it('lets no later token change a bit of a causal row', async () => {
    const [length, channels] = [1200, 3];
    const random = new SeededRandom(5);
    const tensor = (): Tensor => ({
      dims: [1, length, channels],
      data: random.normals(length * channels),
    });
    for (const order of [0, 2]) {
      const inputs = { query: tensor(), key: tensor(), value: tensor() };
      const parameters = { order, causal: true };
      const before = (await runKernels(runner(), inputs, parameters)).output.data;
      for (const kept of [1, 40, 1100]) {
        const change = ({ dims, data }: Tensor): Tensor => ({
          dims,
          data: data.map((x, at) => (at < kept * channels ? x : Number.NaN)),
        });
        const changed = { query: inputs.query, key: change(inputs.key), value: change(inputs.value) };
        const after = (await runKernels(runner(), changed, parameters)).output.data;
        assert.deepEqual(after.slice(0, kept * channels), before.slice(0, kept * channels));
        assert.notDeepEqual(after, before);
      }
    }
  });
});
