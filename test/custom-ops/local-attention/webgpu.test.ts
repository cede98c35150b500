import assert from 'node:assert/strict';
import { caseInputs, LOCAL_CASES } from '../../../custom-ops/local-attention/cases.js';
import { attributesOf } from '../../../custom-ops/local-attention/parameters.js';
import { localAttention as reference } from '../../../custom-ops/local-attention/reference.js';
import type { Tensor } from '../../../custom-ops/operator.js';
import { localAttention } from '../../../custom-ops/runtime/web/node.js';
import type { HostTensor } from '../../../custom-ops/runtime/web/operator-runner.js';
import { assertClose, HALF, SINGLE } from '../../comparison.js';
import { testRunner } from '../runtime/web/test-runner.js';

describe('LocalAttention on WebGPU', () => {
  const runner = testRunner();

  for (const shared of LOCAL_CASES) {
    it(`agrees with the reference: ${shared.name}`, async () => {
      const { float16, parameters } = shared;
      const { query, key, value, keyMask } = caseInputs(shared);
      const given = (tensor: Tensor): HostTensor => ({ type: float16 ? 'float16' : 'float32', ...tensor });
      const mask: HostTensor | null = keyMask
        ? { type: 'bool', dims: [key.dims[0]!, key.dims[2]!], data: keyMask }
        : null;
      const inputs = [given(query), given(key), given(value), mask];
      const [output, lse] = await runner().run(localAttention, attributesOf(parameters), inputs);
      const expected = reference({ query, key, value, ...(keyMask && { keyMask }) }, parameters);
      assert.deepEqual(output!.dims, expected.output.dims);
      const tolerance = float16 ? HALF : SINGLE;
      assertClose(output!.data as Float32Array, expected.output.data, tolerance, 'output');
      assertClose(lse!.data as Float32Array, expected.lse.data, tolerance, 'lse');
    });
  }
});
