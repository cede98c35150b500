import assert from 'node:assert/strict';
import * as node from 'onnxruntime-node';
import {
  caseInputs,
  MULTI_LEVEL_CASES,
  type MultiLevelCase,
} from '../../../custom-ops/multi-level-attention/cases.js';
import { plainParameters } from '../../../custom-ops/multi-level-attention/parameters.js';
import { multiLevelAttention } from '../../../custom-ops/multi-level-attention/reference.js';
import { assertSame, assertSameCache } from './comparison.js';
import { randomSequence } from './decoding.js';
import { NodeSessions } from './node-session.js';

const FLOAT32_TOLERANCE = 1e-5;
const FLOAT16_TOLERANCE = 2e-3;

describe('MultiLevelAttention function body in onnxruntime-node', () => {
  const sessions = new NodeSessions(node);
  after(() => sessions.release());

  for (const shared of MULTI_LEVEL_CASES) {
    it(`agrees with the reference: ${shared.name}`, () => checkCase(sessions, shared));
  }

  it('is valid in every opset of models from 11 on', async () => {
    for (const name of ['causal chunk across blocks', 'acausal divide by shared']) {
      const shared = MULTI_LEVEL_CASES.find(candidate => candidate.name === name)!;
      const inputs = caseInputs(shared);
      const expected = multiLevelAttention(inputs, shared.parameters);
      for (const opset of [11, 12, 13, 14, 16, 17, 20, 22]) {
        const actual = await sessions.run(shared.parameters, inputs, { opset });
        assertSame(actual, expected, FLOAT32_TOLERANCE);
      }
    }
  });

  it('has the outputs that its node connects', async () => {
    const inputs = randomSequence(5, 60, 16);
    const parameters = plainParameters([8, 8], 16);
    const expected = multiLevelAttention(inputs, parameters);
    for (const outputs of [[], ['lse'], ['present_value'], ['present_key_2'], ['lse', 'present_key_1']]) {
      const results = await sessions.runRaw(parameters, inputs, { outputs });
      assert.deepEqual(Object.keys(results).sort(), ['output', ...outputs].sort());
      assert.deepEqual(results.output!.dims, expected.output.dims);
    }
  });

  it('never holds a number per row and key', async () => {
    const length = 12_000;
    const inputs = randomSequence(6, length, 8, 1);
    const before = process.resourceUsage().maxRSS;
    await sessions.run(plainParameters([1, 1, 1, 1, 1, 1, 1, 1], 100, { causal: true }), inputs);
    const grown = (process.resourceUsage().maxRSS - before) * 1024;
    assert.ok(grown < (length * length * 4) / 4, `took ${grown} bytes`);
  });
});

async function checkCase(sessions: NodeSessions, shared: MultiLevelCase): Promise<void> {
  const inputs = caseInputs(shared);
  const expected = multiLevelAttention(inputs, shared.parameters);
  const actual = await sessions.run(shared.parameters, inputs, { float16: shared.float16 });
  assertSame(actual, expected, shared.float16 ? FLOAT16_TOLERANCE : FLOAT32_TOLERANCE);
  assertSameCache(actual.present, expected.present);
}
