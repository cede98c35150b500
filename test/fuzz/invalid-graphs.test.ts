import assert from 'node:assert/strict';
import { InputError } from '../../rewriter/errors.js';
import { ModelGraph } from '../../rewriter/graph/model-graph.js';
import { decodeModel } from '../../rewriter/onnx/decode.js';
import type { GraphSpec, NodeSpec } from '../../rewriter/onnx/spec.js';
import { boolValue, floats, floatValue, incrementModel, model, node } from '../rewriter/onnx/builders.js';

/** A graph from x to y. */
function graph(nodes: readonly NodeSpec[], rest: Partial<GraphSpec> = {}): Uint8Array {
  return model({
    name: 'g',
    inputs: [floatValue('x', 'n')],
    outputs: [floatValue('y', 'n')],
    nodes,
    ...rest,
  });
}

/** An If whose branches consist of these nodes. */
function branches(output: string, ...nodes: NodeSpec[]): NodeSpec {
  const body: GraphSpec = { name: 'branch', inputs: [], outputs: [floatValue('inner')], nodes };
  return node('If', ['flip'], [output], {
    then_branch: { type: 'graph', value: body },
    else_branch: { type: 'graph', value: body },
  });
}
const flip = { inputs: [floatValue('x', 'n'), boolValue('flip')] };

const INVALID: Record<string, [Uint8Array, RegExp]> = {
  'an empty graph': [graph([], { outputs: [] }), /graph is empty/],
  'a node that reads its own output': [graph([node('Add', ['x', 'y'], ['y'])]), /depends on its own output/],
  'a cycle of two nodes': [
    graph([node('Add', ['x', 'b'], ['a']), node('Relu', ['a'], ['b']), node('Neg', ['a'], ['y'])]),
    /depends on its own output/,
  ],
  'a cycle through a subgraph': [
    graph(
      [
        node('Relu', ['b'], ['a']),
        branches('b', node('Add', ['x', 'a'], ['inner'])),
        node('Neg', ['b'], ['y']),
      ],
      flip,
    ),
    /depends on its own output/,
  ],
  'an input that nothing defines': [
    graph([node('Add', ['x', 'nowhere'], ['y'])]),
    /Add 'y_node' reads 'nowhere'/,
  ],
  'an input of a subgraph that nothing defines': [
    graph([branches('y', node('Add', ['x', 'nowhere'], ['inner']))], flip),
    /Add 'inner_node' reads 'nowhere'/,
  ],
  'a value of a subgraph read outside': [
    graph([branches('b', node('Relu', ['x'], ['inner'])), node('Add', ['b', 'inner'], ['y'])], flip),
    /reads 'inner'/,
  ],
  'a node without the input that it computes from': [
    graph([node('Softmax', [], ['y'])]),
    /Softmax 'y_node' lacks input 1/,
  ],
  'a node whose second input is left out': [
    graph([node('MatMul', ['x', ''], ['y'])]),
    /MatMul 'y_node' lacks input 2/,
  ],
  'an output that nothing computes': [
    graph([node('Relu', ['x'], ['z'])]),
    /output 'y' is computed by no node/,
  ],
  'an output computed twice': [
    graph([node('Relu', ['x'], ['y']), node('Neg', ['x'], ['y'])]),
    /'y' is defined twice/,
  ],
  'a node that computes an input': [
    graph([node('Relu', ['y'], ['x']), node('Neg', ['x'], ['y'])]),
    /'x' is defined twice/,
  ],
  'a node that computes an initializer': [
    graph([node('Relu', ['x'], ['w']), node('Neg', ['w'], ['y'])], { initializers: [floats('w', [1], [1])] }),
    /'w' is defined twice/,
  ],
};

describe('graphs that are none', () => {
  it('a valid one is accepted', () => {
    assert.equal(new ModelGraph(decodeModel(incrementModel())).main.nodes.length, 1);
  });

  for (const [what, [bytes, message]] of Object.entries(INVALID)) {
    it(`${what} is refused, naming the file, the place and a remedy`, () => {
      assert.throws(
        () => new ModelGraph(decodeModel(bytes, { file: 'bad.onnx' })),
        (error: unknown) => {
          assert.ok(error instanceof InputError, String(error));
          assert.match(error.message, message);
          assert.ok(error.message.startsWith('bad.onnx'), error.message);
          assert.equal(error.details.file, 'bad.onnx');
          assert.ok(error.details.remedy);
          return true;
        },
      );
    });
  }
});
