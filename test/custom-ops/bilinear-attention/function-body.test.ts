import * as node from 'onnxruntime-node';
import { BILINEAR_CASES } from '../../../custom-ops/bilinear-attention/cases.js';
import { checkCase } from './check-case.js';

describe('BilinearAttention function body in onnxruntime-node', () => {
  for (const shared of BILINEAR_CASES) {
    it(`agrees with the reference: ${shared.name}`, () => checkCase(node, shared));
  }

  for (const opset of [11, 12, 13, 14, 16, 17, 20, 22]) {
    it(`is valid in models of opset ${opset}`, async () => {
      for (const name of ['causal random mask', 'acausal levels']) {
        await checkCase(node, BILINEAR_CASES.find(shared => shared.name === name)!, { opset });
      }
    });
  }
});
