import assert from 'node:assert/strict';
import { scopeOf } from '../../../rewriter/graph/scope.js';
import { Net } from '../net.js';

describe('scopeOf', () => {
  const scopeOfNode = (name: string, metadata: Record<string, string> = {}) => {
    const net = new Net();
    const spec = { opType: 'Relu', name, inputs: [net.input('x', ['n'])], outputs: ['y'], metadata };
    net.nodes.push(spec);
    net.output('y');
    return scopeOf(net.load({ irVersion: 10 }).main.nodes[0]!);
  };

  it('reads the module path that the legacy exporter puts into names', () => {
    assert.equal(scopeOfNode('/blocks.0/attn/MatMul_1'), 'blocks.0.attn');
    assert.equal(scopeOfNode('/MatMul'), null);
    assert.equal(scopeOfNode('MatMul_12'), null);
  });

  it('reads the scopes that the dynamo exporter puts into metadata: the innermost module', () => {
    const scopes = (...paths: string[]) => ({
      'pkg.torch.onnx.name_scopes': `[${paths.map(path => `'${path}'`).join(', ')}]`,
    });
    const found = scopeOfNode('node_matmul_3', scopes('', 'blocks.0', 'blocks.0.attn', 'matmul'));
    assert.equal(found, 'blocks.0.attn');
    assert.equal(scopeOfNode('node_matmul_3', scopes('', 'matmul')), null);
  });
});
