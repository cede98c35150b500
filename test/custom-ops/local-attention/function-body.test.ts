import assert from 'node:assert/strict';
import * as node from 'onnxruntime-node';
import { LOCAL_CASES } from '../../../custom-ops/local-attention/cases.js';
import { SeededRandom } from '../../../custom-ops/seeded-random.js';
import { checkCase } from './check-case.js';
import { runNode } from './run-node.js';

describe('LocalAttention function body in onnxruntime-node', () => {
  for (const shared of LOCAL_CASES) {
    it(`agrees with the reference: ${shared.name}`, () => checkCase(node, shared));
  }

  it('is valid in every opset of models from 11 on', async () => {
    const shared = LOCAL_CASES.find(({ name }) => name === 'causal random mask, grouped')!;
    for (const opset of [11, 12, 13, 14, 16, 17, 20, 22]) await checkCase(node, shared, { opset });
  });

  it('takes memory in proportion to the length', async () => {
    const length = 12_000;
    const random = new SeededRandom(1);
    const tensor = () => ({ dims: [1, 1, length, 8], data: random.normals(length * 8) });
    const inputs = { query: tensor(), key: tensor(), value: tensor() };
    const before = process.resourceUsage().maxRSS;
    await runNode(node, inputs, { scale: null, left: 64, right: 64, offset: null });
    const grown = (process.resourceUsage().maxRSS - before) * 1024;
    assert.ok(grown < (length * length * 4) / 4, `took ${grown} bytes`);
  });
});
