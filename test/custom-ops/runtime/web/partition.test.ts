import assert from 'node:assert/strict';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { multipoleAttention } from '../../../../custom-ops/multipole-attention/reference.js';
import { partialModel } from '../../../../custom-ops/runtime/web/partial-model.js';
import { type Partition, partition } from '../../../../custom-ops/runtime/web/partition.js';
import { dataType } from '../../../../custom-ops/runtime/web/tensor-type.js';
import { SeededRandom } from '../../../../custom-ops/seeded-random.js';
import { ModelGraph } from '../../../../rewriter/graph/model-graph.js';
import type { Node } from '../../../../rewriter/graph/node.js';
import { decodeModel } from '../../../../rewriter/onnx/decode.js';
import { DataType, type GraphSpec } from '../../../../rewriter/onnx/spec.js';
import { boolValue, floats, floatValue, int64s, node } from '../../../rewriter/onnx/builders.js';
import { attention, attentionModel, EXACT, heads } from './attention-graph.js';

type Feeds = Record<string, Tensor>;

/** Errors only: ONNX Runtime warns of what it cannot simplify in subgraphs. */
const OPTIONS = { logSeverityLevel: 3 } as const;

const isOperator = (candidate: Node) => candidate.type === 'ai.onnxrewrite::MultipoleAttention';

function cut(model: Uint8Array): { graph: ModelGraph; plan: Partition } {
  const graph = new ModelGraph(decodeModel(model));
  return { graph, plan: partition(graph, isOperator) };
}

/** Runs a partition on the CPU: its models in ONNX Runtime, its operators by the reference. */
async function runInParts(model: Uint8Array, feeds: Feeds): Promise<Feeds> {
  const { graph, plan } = cut(model);
  const values = new Map(Object.entries(feeds));
  for (const [index, step] of plan.steps.entries()) {
    if (step.kind === 'model') {
      const bytes = partialModel(graph.model, step, name => {
        const { type } = values.get(name)!;
        return { dataType: dataType(type) };
      });
      const session = await InferenceSession.create(bytes, OPTIONS);
      const results = await session.run(
        Object.fromEntries(session.inputNames.map(name => [name, values.get(name)!])),
      );
      for (const [name, value] of Object.entries(results)) values.set(name, value as Tensor);
    } else {
      const [query, key, value] = step.inputs.map(name => {
        const tensor = values.get(name!)!;
        return { dims: tensor.dims, data: tensor.data as Float32Array };
      });
      const result = multipoleAttention({ query: query!, key: key!, value: value! }, EXACT);
      const outputs = [result.output, result.lse];
      step.node.outputs.forEach((output, n) => {
        const { data, dims } = outputs[n]!;
        if (output) values.set(output.name, new Tensor('float32', data, dims));
      });
    }
    for (const name of plan.released[index]!)
      assert(values.delete(name) || name in feeds, `${name} is not there`);
  }
  return Object.fromEntries(graph.main.outputs.map(({ name }) => [name, values.get(name)!]));
}

async function assertSame(graph: GraphSpec, feeds: Feeds): Promise<void> {
  const model = attentionModel(graph);
  const session = await InferenceSession.create(model, OPTIONS);
  const expected = await session.run(feeds);
  const actual = await runInParts(model, feeds);
  assert.deepEqual(Object.keys(actual).sort(), Object.keys(expected).sort());
  for (const [name, value] of Object.entries(expected)) {
    const other = actual[name]!;
    assert.deepEqual(other.dims, value.dims);
    const numbers = Array.from(other.data as Float32Array, Number);
    numbers.forEach((number, n) => {
      const reference = Number((value.data as Float32Array)[n]);
      assert(Math.abs(number - reference) < 1e-5, `${name}[${n}] is ${number}, not ${reference}`);
    });
  }
}

/** Steps by their operators and the first outputs of their nodes. */
function summary(graph: GraphSpec): string[] {
  return cut(attentionModel(graph)).plan.steps.map(step =>
    step.kind === 'operator'
      ? `[${step.node.info.outputs[0]}]`
      : step.nodes.map(({ info }) => info.outputs[0]).join(' '),
  );
}

describe('partition of a model', () => {
  const random = new SeededRandom(3);
  const tensor = (tokens = 20) => new Tensor('float32', random.normals(2 * tokens * 4), [1, 2, tokens, 4]);

  it('runs what comes before, between and after operators as one model each', async () => {
    const graph: GraphSpec = {
      name: 'chain',
      inputs: [heads('x')],
      outputs: [heads('z')],
      initializers: [floats('half', [], [0.5]), floats('weight', [4, 4], Array.from(random.normals(16)))],
      nodes: [
        node('MatMul', ['x', 'weight'], ['a']),
        node('Mul', ['x', 'half'], ['b']),
        attention(['a', 'b', 'x'], ['c']),
        node('Add', ['c', 'x'], ['d']),
        node('MatMul', ['d', 'weight'], ['e']),
        attention(['e', 'd', 'd'], ['f']),
        node('Mul', ['f', 'half'], ['g']),
        node('Add', ['g', 'd'], ['z']),
      ],
    };
    assert.deepEqual(summary(graph), ['a b', '[c]', 'd e', '[f]', 'g z']);
    await assertSame(graph, { x: tensor() });
    await assertSame(graph, { x: tensor(1) });
  });

  it('needs no model before, after or between operators', async () => {
    const graph: GraphSpec = {
      name: 'operators only',
      inputs: [heads('q'), heads('k'), heads('v')],
      outputs: [heads('z'), heads('a'), heads('q')],
      nodes: [attention(['q', 'k', 'v'], ['a']), attention(['a', 'k', 'v'], ['z'])],
    };
    assert.deepEqual(summary(graph), ['[a]', '[z]']);
    await assertSame(graph, { q: tensor(), k: tensor(), v: tensor() });
  });

  it('keeps independent operators, and operators in a row, between the same two models', async () => {
    const graph: GraphSpec = {
      name: 'parallel',
      inputs: [heads('x'), heads('y')],
      outputs: [heads('z'), floatValue('lse', 'batch', 2, 'tokens'), heads('b')],
      nodes: [
        node('Neg', ['x'], ['a']),
        node('Neg', ['y'], ['b']),
        attention(['a', 'x', 'x'], ['c']),
        attention(['b', 'y', 'y'], ['d', 'lse']),
        attention(['c', 'd', 'x'], ['e']),
        node('Add', ['e', 'c'], ['f']),
        node('Add', ['d', 'f'], ['z']),
      ],
    };
    assert.deepEqual(summary(graph), ['a b', '[c]', '[d]', '[e]', 'f z']);
    await assertSame(graph, { x: tensor(), y: tensor() });
  });

  it('hands shapes, masks and everything else around the operators', async () => {
    const graph: GraphSpec = {
      name: 'bypass',
      inputs: [heads('x'), boolValue('keep', 'batch', 1, 'tokens', 1), floatValue('untouched', 'n')],
      outputs: [
        heads('z'),
        { name: 'size', dataType: DataType.INT64, dims: [4] },
        floatValue('untouched', 'n'),
      ],
      initializers: [floats('zero', [], [0])],
      nodes: [
        node('Shape', ['x'], ['size']),
        node('Not', ['keep'], ['drop']),
        attention(['x', 'x', 'x'], ['a']),
        node('Where', ['drop', 'zero', 'a'], ['b']),
        node('Reshape', ['b', 'size'], ['z']),
      ],
    };
    assert.deepEqual(summary(graph), ['size drop', '[a]', 'b z']);
    const keep = new Tensor(
      'bool',
      Uint8Array.from({ length: 20 }, (_, n) => Number(n % 3 > 0)),
      [1, 1, 20, 1],
    );
    await assertSame(graph, { x: tensor(), keep, untouched: new Tensor('float32', [1, 2, 3], [3]) });
  });

  it('gives out stored tensors that operators read, and repeats constants', async () => {
    const constant = node('Constant', [], ['two'], { value: { type: 'tensor', value: floats('', [], [2]) } });
    const stored = floats('memory', [1, 2, 20, 4], Array.from(random.normals(160)));
    const graph: GraphSpec = {
      name: 'stored',
      inputs: [heads('x')],
      outputs: [heads('z'), floatValue('two')],
      initializers: [stored],
      nodes: [
        constant,
        attention(['x', 'memory', 'memory'], ['a']),
        node('Mul', ['a', 'two'], ['b']),
        attention(['b', 'memory', 'memory'], ['c']),
        node('Mul', ['c', 'two'], ['z']),
      ],
    };
    assert.deepEqual(summary(graph), ['two', '[a]', 'two b', '[c]', 'two z']);
    await assertSame(graph, { x: tensor() });
  });

  it('leaves operators inside subgraphs to their function bodies, and counts what those capture', async () => {
    const branch = (name: string, nodes: GraphSpec['nodes']): GraphSpec => ({
      name,
      inputs: [],
      outputs: [heads(`${name}_out`)],
      nodes,
    });
    const graph: GraphSpec = {
      name: 'branches',
      inputs: [heads('x'), boolValue('flag')],
      outputs: [heads('z')],
      initializers: [floats('half', [], [0.5])],
      nodes: [
        node('Mul', ['x', 'half'], ['early']),
        attention(['x', 'early', 'x'], ['a']),
        node('If', ['flag'], ['z'], {
          then_branch: {
            type: 'graph',
            value: branch('then', [attention(['a', 'early', 'x'], ['then_out'])]),
          },
          else_branch: {
            type: 'graph',
            value: branch('else', [node('Mul', ['early', 'half'], ['else_out'])]),
          },
        }),
      ],
    };
    assert.deepEqual(summary(graph), ['early', '[a]', 'z']);
    for (const flag of [0, 1]) await assertSame(graph, { x: tensor(), flag: new Tensor('bool', [flag], []) });
  });

  it('does as much as it can before it waits for an operator', () => {
    const graph: GraphSpec = {
      name: 'late',
      inputs: [heads('x')],
      outputs: [heads('z')],
      initializers: [int64s('axes', [1], [0])],
      nodes: [
        attention(['x', 'x', 'x'], ['a']),
        node('Neg', ['x'], ['needed_late']),
        node('Neg', ['a'], ['b']),
        attention(['b', 'b', 'b'], ['c']),
        node('Add', ['c', 'needed_late'], ['z']),
      ],
    };
    assert.deepEqual(summary(graph), ['needed_late', '[a]', 'b', '[c]', 'z']);
  });

  it('keeps metadata, functions and the types of the whole model', () => {
    const graph: GraphSpec = {
      name: 'typed',
      inputs: [heads('x')],
      outputs: [heads('z')],
      values: [heads('a'), heads('b')],
      nodes: [node('Neg', ['x'], ['a']), attention(['a', 'a', 'a'], ['b']), node('Neg', ['b'], ['z'])],
    };
    const { graph: whole, plan } = cut(attentionModel(graph));
    const [first, , last] = plan.steps;
    assert(first?.kind === 'model' && last?.kind === 'model');
    const before = decodeModel(partialModel(whole.model, first, () => assert.fail('all inputs are known')));
    assert.deepEqual(
      before.graph.inputs.map(({ name, dims }) => [name, dims]),
      [['x', ['batch', 2, 'tokens', 4]]],
    );
    assert.deepEqual(
      before.graph.outputs.map(({ name }) => name),
      ['a'],
    );
    assert.deepEqual(
      before.functions.map(({ name }) => name),
      ['MultipoleAttention', 'MultipoleAttention'],
    );
    const after = decodeModel(
      partialModel(whole.model, last, () => ({ dataType: DataType.FLOAT, dims: [1, 2] })),
    );
    assert.deepEqual(
      after.graph.inputs.map(({ name, dims }) => [name, dims]),
      [['b', [1, 2]]],
    );
    assert.deepEqual(
      after.graph.outputs.map(({ name }) => name),
      ['z'],
    );
  });
});
