import assert from 'node:assert/strict';
import { DataType } from '../../../rewriter/onnx/spec.js';
import { drawn } from '../../../rewriter/probe/feed.js';
import { Laboratory, OTHER_DATA, PLAIN } from '../../../rewriter/probe/laboratory.js';
import { elements, type UnknownSample } from '../../../rewriter/probe/sample.js';
import { Structure } from '../../../rewriter/probe/structure.js';
import { Net } from '../net.js';

const { BOOL, INT64 } = DataType;

/** Shapes of a value in the trials. */
function shapes(net: Net, name: string): (readonly number[])[] {
  const graph = net.load();
  return new Laboratory(graph).trials.map(trial => trial.probe(PLAIN).sample(graph.main.resolve(name)!).dims);
}

describe('Laboratory', () => {
  it('gives each symbol its own size, others in each trial', () => {
    const net = new Net();
    net.input('x', ['batch', 'sequence', 8]);
    net.input('y', ['batch', 'other', 8]);
    net.op('Concat', ['x', 'y'], { axis: 1 }, ['z']);
    net.output('z');
    const [first, second] = shapes(net, 'z');
    const [one] = shapes(net, 'x');
    const [two] = shapes(net, 'y');
    assert.deepEqual(first, [one![0], one![1]! + two![1]!, 8]);
    assert.notEqual(one![1], two![1]);
    assert.ok(second!.every((size, axis) => axis === 2 || size !== first![axis]));
  });

  it('has one trial for a model whose sizes are all fixed', () => {
    const net = new Net();
    net.input('x', [2, 3]);
    net.op('Relu', ['x'], {}, ['y']);
    net.output('y');
    assert.deepEqual(shapes(net, 'y'), [[2, 3]]);
    assert.equal(new Laboratory(net.load()).longTrial(100), null);
  });

  it('makes as many frames of raw audio as a sequence has tokens', () => {
    const net = new Net();
    net.input('input_values', ['batch', 1, 'samples']);
    const weights = net.tensor([4, 1, 400], Array(1600).fill(0.1));
    net.op('Conv', ['input_values', weights], { strides: [320] }, ['frames']);
    net.output('frames');
    assert.deepEqual(shapes(net, 'frames'), [
      [2, 4, 5],
      [3, 4, 6],
    ]);
    const graph = net.load();
    const long = new Laboratory(graph).longTrial(50)!;
    assert.deepEqual(long.probe(PLAIN).sample(graph.main.resolve('frames')!).dims, [2, 4, 50]);
  });

  it('takes the leading dimensions of all inputs for one batch', () => {
    const net = new Net();
    net.input('ids', ['s0', 's1'], INT64);
    net.input('mask', ['s2', 's1'], INT64);
    net.op('Add', ['ids', 'mask'], {}, ['sum']);
    net.output('sum', undefined, INT64);
    for (const [batch] of shapes(net, 'sum')) assert.ok(batch === 2 || batch === 3);
  });

  it('makes sizes agree that have to', () => {
    const net = new Net();
    net.input('a', ['batch', 'n']);
    net.input('b', ['batch', 'm']);
    net.op('Add', ['a', 'b'], {}, ['sum']);
    net.output('sum');
    const [a, b, sum] = ['a', 'b', 'sum'].map(name => shapes(net, name)[0]);
    assert.deepEqual(a, b);
    assert.deepEqual(sum, a);
  });

  it('finds a size that the exporter wrote into the graph', () => {
    const net = new Net();
    net.input('x', ['batch', 'sequence', 4]);
    net.op('Reshape', ['x', net.ints(-1, 9, 2, 2)], {}, ['heads']);
    net.op('Concat', ['x', net.op('Reshape', ['x', net.ints(-1, 9, 4)])], { axis: 1 }, ['y']);
    net.op('Add', ['x', net.op('Reshape', ['heads', net.ints(-1, 9, 4)])], {}, ['z']);
    net.output('y');
    net.output('z');
    for (const [, length] of shapes(net, 'z')) assert.equal(length, 9);
  });

  for (const [cache, shape] of [
    ['the cache', ['b2', 4, 'past', 8]],
    ['keys and values of a cache', [2, 'b2', 4, 'past', 8]],
  ] as const) {
    it(`lets an attention mask cover ${cache} and the new tokens`, () => {
      const net = new Net();
      net.input('input_ids', ['b0', 'n'], INT64);
      net.input('attention_mask', ['b1', 'total'], INT64);
      net.input('past', shape);
      net.op('Identity', ['attention_mask'], {}, ['y']);
      net.output('y', undefined, INT64);
      const sizes = (filling: 'filled' | 'empty') => {
        const graph = net.load();
        const [trial] = new Laboratory(graph, filling).trials;
        const dims = (name: string) => trial!.probe(PLAIN).sample(graph.main.resolve(name)!).dims;
        const [batch, , past] = dims('past').slice(-4);
        return { batch: batch!, past: past!, mask: dims('y'), tokens: dims('input_ids')[1]! };
      };
      const filled = sizes('filled');
      assert.ok(filled.past > 0);
      assert.deepEqual(filled.mask, [filled.batch, filled.tokens + filled.past]);
      const empty = sizes('empty');
      assert.equal(empty.past, 0);
      assert.equal(empty.mask[1], empty.tokens);
    });
  }

  it('reads sums of symbols', () => {
    const net = new Net();
    net.input('x', ['batch', 'past + n']);
    net.input('y', ['batch', 'n']);
    net.input('z', ['batch', 'past']);
    net.op('Sub', ['x', net.op('Concat', ['z', 'y'], { axis: 1 })], {}, ['w']);
    net.output('w');
    assert.deepEqual(shapes(net, 'w'), shapes(net, 'x'));
  });

  it('knows numbers that hold whatever the inputs', () => {
    const net = new Net();
    net.input('x', ['batch', 'n', 16]);
    net.input('temperature', []);
    const width = net.op('Gather', [net.op('Shape', ['x']), net.int(2)]);
    net.op('Sqrt', [net.op('Cast', [width], { to: DataType.FLOAT })], {}, ['root']);
    net.op('Gather', [net.op('Shape', ['x']), net.int(1)], {}, ['length']);
    net.op('ReduceMax', ['x'], { keepdims: 0 }, ['data']);
    net.op('Mul', ['root', 'temperature'], {}, ['scaled']);
    net.output('scaled');
    const graph = net.load();
    const laboratory = new Laboratory(graph);
    const scalar = (name: string) => laboratory.scalar(graph.main.resolve(name)!);
    assert.equal(scalar('root'), 4);
    assert.equal(scalar('length'), null);
    assert.equal(scalar('data'), null);
    assert.equal(scalar('temperature'), null);
    assert.equal(scalar('x'), null);
  });

  it('follows the branch of an If that the condition takes, and calls of functions', () => {
    const branch = (length: number) => {
      const net = new Net();
      const value = net.op('Expand', ['x', net.ints(length, 1)], {}, [`out_${length}`]);
      net.output(value);
      return net.graph();
    };
    const net = new Net();
    net.input('x', [1, 3]);
    const condition = net.op('Equal', [net.op('Size', ['x']), net.int(3)]);
    net.op('If', [condition], { then_branch: branch(2), else_branch: branch(7) }, ['y']);
    net.op('local::Twice', ['y'], {}, ['z']);
    net.output('z');
    const graph = net.load({
      opsetImports: { '': 17, local: 1 },
      functions: [
        {
          domain: 'local',
          name: 'Twice',
          inputs: ['a'],
          outputs: ['b'],
          opsetImports: { '': 17 },
          nodes: [
            {
              opType: 'Concat',
              inputs: ['a', 'a'],
              outputs: ['b'],
              attributes: { axis: { type: 'int', value: 0 } },
            },
          ],
        },
      ],
    });
    const probe = new Laboratory(graph).trials[0]!.probe(PLAIN);
    assert.deepEqual(probe.sample(graph.main.resolve('y')!).dims, [2, 3]);
    assert.deepEqual(probe.sample(graph.main.resolve('z')!).dims, [4, 3]);
    const [body] = graph.functions.values();
    assert.deepEqual(probe.sample(body!.resolve('a')!).dims, [2, 3]);
  });

  it('says where it loses the way, and goes on from declared shapes', () => {
    const net = new Net();
    net.input('x', ['batch', 'n']);
    net.op('vendor::Mystery', ['x'], {}, ['y']);
    net.op('Relu', ['y'], {}, ['z']);
    net.output('z');
    const lost = net.load({ opsetImports: { '': 17, vendor: 1 } });
    const sample = () => new Laboratory(lost).trials[0]!.probe(PLAIN).sample(lost.main.resolve('z')!);
    assert.throws(sample, (error: UnknownSample) => /vendor::Mystery/.test(error.message));

    net.outputs.push({ name: 'y', dataType: DataType.FLOAT, dims: ['batch', 5] });
    const declared = net.load({ opsetImports: { '': 17, vendor: 1 } });
    const { dims } = new Laboratory(declared).trials[0]!.probe(PLAIN).sample(declared.main.resolve('z')!);
    assert.deepEqual(dims, [2, 5]);
  });

  it('goes through graphs deeper than the call stack', () => {
    const net = new Net();
    let value = net.input('x', ['batch', 'n']);
    for (let i = 0; i < 8000; i++) value = net.op('Transpose', [value], { perm: [0, 1] });
    net.output(value);
    assert.equal(shapes(net, value)[0]!.length, 2);
  });

  it('feeds masks, ids, positions and lengths as their names and shapes say', () => {
    const net = new Net();
    net.input('attention_mask', ['batch', 'n'], INT64);
    net.input('position_ids', ['batch', 'n'], INT64);
    net.input('lengths', ['batch'], INT64);
    net.input('flags', ['batch', 'n'], BOOL);
    net.input('states', ['batch', 'n', 4]);
    net.op('Relu', ['states'], {}, ['y']);
    net.output('y');
    const graph = net.load();
    const [trial] = new Laboratory(graph).trials;
    const read = (name: string, feed = PLAIN) => [
      ...elements(trial!.probe(feed).sample(graph.main.resolve(name)!)),
    ];
    assert.ok(read('attention_mask').every(value => value === 1));
    assert.deepEqual(read('position_ids').slice(0, 5), [0, 1, 2, 3, 4]);
    assert.ok(read('lengths').every(value => value > 1000));
    const absent = drawn(1, [0]);
    assert.ok(read('attention_mask', absent).every(value => value === 0));
    assert.ok(read('lengths', absent).every(value => value < 5));
    assert.notDeepEqual(read('states'), read('states', OTHER_DATA));
    assert.deepEqual(read('flags'), read('flags', OTHER_DATA));
  });
});

describe('Structure', () => {
  it('names values alike that are computed alike, and no others', () => {
    const net = new Net();
    net.input('x', ['batch', 'n', 4]);
    net.input('z', ['batch', 'n', 6]);
    const triangle = (like: string, upper: number) => {
      const length = net.op('Slice', [net.op('Shape', [like]), net.ints(1), net.ints(2)]);
      return net.op(
        'Trilu',
        [net.op('Expand', [net.scalar(1), net.op('Concat', [length, length], { axis: 0 })])],
        {
          upper,
        },
      );
    };
    const relu = net.op('Relu', ['x']);
    const same = [triangle('x', 0), triangle(relu, 0)];
    const others = [triangle('x', 1), triangle('z', 0), relu];
    net.output(relu);
    const graph = net.load();
    const structure = new Structure(new Laboratory(graph), graph.constants);
    const name = (value: string) => structure.ofValue(graph.main.resolve(value)!);
    assert.equal(name(same[0]!), name(same[1]!));
    assert.equal(new Set([same[0]!, ...others].map(name)).size, 4);
  });
});
