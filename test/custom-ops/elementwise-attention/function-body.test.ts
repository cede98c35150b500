import assert from 'node:assert/strict';
import { InferenceSession } from 'onnxruntime-node';
import {
  caseInputs,
  ELEMENTWISE_CASES,
  type ElementwiseCase,
} from '../../../custom-ops/elementwise-attention/cases.js';
import type {
  ElementwiseInputs,
  ElementwiseResult,
} from '../../../custom-ops/elementwise-attention/reference.js';
import { HALF, SINGLE } from '../../comparison.js';
import { assertMatches } from './comparison.js';
import { connectedInputs, feeds, type NodeModelOptions, nodeModel, resultOf } from './node-model.js';

async function run(
  inputs: ElementwiseInputs,
  parameters: ElementwiseCase['parameters'],
  options: NodeModelOptions,
): Promise<ElementwiseResult> {
  const model = nodeModel(parameters, connectedInputs(inputs), options);
  const session = await InferenceSession.create(model, { logSeverityLevel: 3 });
  try {
    return resultOf(await session.run(feeds(inputs, options.float16)));
  } finally {
    await session.release();
  }
}

describe('the function body of element-wise attention', () => {
  for (const shared of ELEMENTWISE_CASES) {
    it(`equals the reference: ${shared.name}`, async () => {
      const { parameters, float16 } = shared;
      const inputs = caseInputs(shared);
      const actual = await run(inputs, parameters, { float16 });
      assertMatches(actual, inputs, parameters, float16 ? HALF : SINGLE);
    });
  }

  for (const opset of [11, 13, 15, 21]) {
    it(`runs in models of opset ${opset}`, async () => {
      for (const name of ['causal order 2, random mask', 'acausal order 0, random mask']) {
        const shared = ELEMENTWISE_CASES.find(candidate => candidate.name === name)!;
        const inputs = caseInputs(shared);
        const actual = await run(inputs, shared.parameters, { opset });
        assertMatches(actual, inputs, shared.parameters, SINGLE);
      }
    });
  }

  it('is refused for an odd order, with the reason', () => {
    const connected = ['query', 'key', 'value'];
    assert.throws(() => nodeModel({ order: 3, causal: false }, connected), /odd order is negative/);
  });
});
