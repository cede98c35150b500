import * as node from 'onnxruntime-node';
import { STRUCTURED_MATMUL_CASES } from '../../../custom-ops/structured-matmul/cases.js';
import { checkCase } from './check-case.js';

describe('StructuredMatMul function body in onnxruntime-node', () => {
  for (const shared of STRUCTURED_MATMUL_CASES) {
    it(`agrees with the reference: ${shared.name}`, () => checkCase(node, shared));
  }

  for (const opset of [11, 12, 13, 14, 16, 17, 20, 22]) {
    it(`is valid in models of opset ${opset}`, async () => {
      for (const name of ['contraction of several levels', 'Kronecker, rectangular', 'butterfly']) {
        await checkCase(node, STRUCTURED_MATMUL_CASES.find(shared => shared.name === name)!, { opset });
      }
    });
  }
});
