import assert from 'node:assert/strict';
import { InputError } from '../../../rewriter/errors.js';
import { ModelGraph } from '../../../rewriter/graph/model-graph.js';
import { deadNodes } from '../../../rewriter/graph/slices.js';
import { decodeModel } from '../../../rewriter/onnx/decode.js';
import { DataType } from '../../../rewriter/onnx/spec.js';
import { Net } from '../net.js';
import { nestedModel, variedModel } from '../onnx/builders.js';

/** y = relu(x + 1), with a side branch that nothing uses. */
function chain(): Net {
  const net = new Net();
  const x = net.input('x', ['n']);
  const sum = net.op('Add', [x, net.scalar(1)], {}, ['sum']);
  net.op('Neg', [sum], {}, ['side']);
  net.op('Relu', [sum], {}, ['y']);
  net.output('y');
  return net;
}

function loadError(net: Net): InputError {
  try {
    net.load();
  } catch (error) {
    assert.ok(error instanceof InputError);
    return error;
  }
  throw new assert.AssertionError({ message: 'the graph was accepted' });
}

describe('ModelGraph', () => {
  it('links values to their producers and uses', () => {
    const { main } = chain().load();
    const sum = main.resolve('sum')!;
    assert.equal(sum.producer!.type, 'Add');
    assert.deepEqual(
      sum.uses.map(({ node, slot }) => [node.type, slot]),
      [
        ['Neg', 0],
        ['Relu', 0],
      ],
    );
    assert.deepEqual(main.resolve('y')!.outputOf, [main]);
    assert.equal(main.resolve('x')!.fed, true);
    assert.equal(main.resolve('nowhere'), null);
  });

  it('puts nodes in topological order, and leaves an order that is one', () => {
    const net = chain();
    const sorted = net.load().main.nodes.map(({ type }) => type);
    assert.deepEqual(sorted, ['Add', 'Neg', 'Relu']);
    net.nodes.reverse();
    const restored = net.load().main.nodes.map(({ type }) => type);
    assert.equal(restored[0], 'Add');
    assert.equal(restored.length, 3);
  });

  it('orders long chains without running out of stack', () => {
    const net = new Net();
    let value = net.input('x', ['n']);
    for (let i = 0; i < 8000; i++) value = net.op('Relu', [value]);
    net.output(value);
    net.nodes.reverse();
    const { nodes } = net.load().main;
    assert.ok(nodes.every((node, i) => i === 0 || node.inputs[0]!.producer === nodes[i - 1]));
  });

  it('refuses cycles, dangling names, names defined twice and empty graphs, naming node and remedy', () => {
    const cyclic = chain();
    cyclic.nodes[0] = { ...cyclic.nodes[0]!, inputs: ['y', 'x'] };
    assert.match(loadError(cyclic).message, /depends on its own output/);

    const dangling = chain();
    dangling.nodes[2] = { ...dangling.nodes[2]!, inputs: ['lost'] };
    const error = loadError(dangling);
    assert.match(error.message, /'lost'/);
    assert.equal(error.details.node, 'Relu_y');
    assert.ok(error.details.remedy);

    const twice = chain();
    twice.op('Relu', ['x'], {}, ['sum']);
    assert.match(loadError(twice).message, /'sum' is defined twice/);

    const noOutput = chain();
    noOutput.output('absent');
    assert.match(loadError(noOutput).message, /'absent'/);

    assert.match(loadError(new Net()).message, /empty/);
  });

  it('names the file of a broken graph', () => {
    const twice = chain();
    twice.op('Relu', ['x'], {}, ['sum']);
    const broken = decodeModel(twice.bytes(), { file: 'broken.onnx' });
    assert.throws(
      () => new ModelGraph(broken),
      (error: InputError) => error.details.file === 'broken.onnx',
    );
  });

  it('takes unknown operators and says when the opset is newer than known', () => {
    const net = chain();
    net.op('Surprise', ['sum'], {}, ['surprise']);
    net.op('vendor::Thing', ['sum'], {}, ['thing']);
    const known = net.load({ opsetImports: { '': 21, vendor: 1 } });
    assert.deepEqual(known.warnings, []);
    assert.equal(known.main.resolve('thing')!.producer!.type, 'vendor::Thing');
    const [warning] = net.load({ opsetImports: { '': 99, vendor: 1 } }).warnings;
    assert.match(warning!, /opset 99/);
  });

  it('lets subgraphs use the very values that they capture', () => {
    const { main } = new ModelGraph(decodeModel(nestedModel()));
    const step = main.resolve('step')!;
    const graphs = [...main.withSubgraphs()];
    assert.equal(graphs.length, 4);
    assert.deepEqual(
      step.uses.map(({ node }) => node.type),
      ['Add', 'Sub'],
    );
    const branch = step.uses[0]!.node.graph;
    assert.equal(branch.owner!.attribute, 'then_branch');
    assert.equal(branch.root, main);
    assert.equal(branch.resolve('step'), step);
  });

  it('knows functions, their calls and the operator sets in force', () => {
    const graph = new ModelGraph(decodeModel(variedModel()));
    const body = graph.functions.get('test.functions::Twice')!;
    const call = graph.main.nodes.find(node => graph.bodyOf(node) === body)!;
    assert.equal(graph.callOf(body), call);
    assert.equal(body.isFunction, true);
    assert.equal(body.nodes[0]!.opset, 18);
  });

  it('hands out names that nothing has, in any subgraph or function', () => {
    const { names } = new ModelGraph(decodeModel(nestedModel()));
    assert.equal(names.fresh('free'), 'free');
    assert.equal(names.fresh('free'), 'free_1');
    assert.equal(names.fresh('minus_state'), 'minus_state_1');
    const { names: others } = new ModelGraph(decodeModel(variedModel()));
    assert.equal(others.fresh('b'), 'b_1');
  });
});

describe('Constants', () => {
  it('reads initializers and every form of Constant, behind Identity and Cast too', () => {
    const net = new Net();
    net.input('x', ['n']);
    const half = net.stored({
      name: 'half',
      dataType: DataType.FLOAT16,
      dims: [2],
      data: new Uint8Array(Uint16Array.of(0x3800, 0xfbff).buffer),
    });
    net.op('Identity', [half], {}, ['same']);
    net.op('Cast', ['same'], { to: DataType.INT64 }, ['whole']);
    net.op('Constant', [], { value_ints: [4, 5] }, ['ints']);
    net.op('Constant', [], { value_float: 2.5 }, ['float']);
    net.op('Constant', [], { value_int: 7 }, ['int']);
    net.op('Relu', ['x'], {}, ['y']);
    net.output('y');
    const { main, constants } = net.load();
    const read = (name: string) => Array.from(constants.of(main.resolve(name)!)?.data ?? []);
    assert.deepEqual(read('half'), [0.5, -65504]);
    assert.deepEqual(read('whole'), [0, -65504]);
    assert.deepEqual(read('ints'), [4, 5]);
    assert.equal(constants.scalar(main.resolve('float')!), 2.5);
    assert.equal(constants.scalar(main.resolve('int')!), 7);
    assert.equal(constants.of(main.resolve('y')!), null);
    assert.equal(constants.of(main.resolve('x')!), null);
  });
});

describe('deadNodes', () => {
  it('finds what only served a replaced value, and keeps what anything else needs', () => {
    const net = new Net();
    const x = net.input('x', ['n']);
    net.op('Neg', [x], {}, ['shared']);
    net.op('Abs', [x], {}, ['kept']);
    net.op('Exp', ['shared'], {}, ['inner']);
    net.op('Add', ['inner', 'kept'], {}, ['replaced']);
    net.op('Relu', ['replaced'], {}, ['y']);
    net.op('Sqrt', ['shared'], {}, ['z']);
    net.output('y');
    net.output('z');
    const { main } = net.load();
    const value = (name: string) => main.resolve(name)!;
    const dead = (kept: string[]) =>
      deadNodes([value('replaced')], new Set(kept.map(value)))
        .map(({ type }) => type)
        .sort();
    assert.deepEqual(dead([]), ['Abs', 'Add', 'Exp']);
    assert.deepEqual(dead(['kept']), ['Add', 'Exp']);
  });

  it('sees uses inside subgraphs', () => {
    const { main } = new ModelGraph(decodeModel(nestedModel()));
    const loop = main.resolve('y')!;
    assert.deepEqual(
      deadNodes([loop], new Set()).map(({ type }) => type),
      ['Loop', 'Add'],
    );
  });
});
