import assert from 'node:assert/strict';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { decodeModel } from '../../../rewriter/onnx/decode.js';
import { editModel, type ModelEdit } from '../../../rewriter/onnx/edit.js';
import type { GraphInfo, ModelInfo, NodeInfo, NodeListInfo } from '../../../rewriter/onnx/model-info.js';
import { DataType } from '../../../rewriter/onnx/spec.js';
import { writeToMemory } from '../../../rewriter/onnx/write.js';
import { floats, floatValue, incrementModel, nestedModel, node, variedModel } from './builders.js';
import { addUnknownFields, unknownFieldsIn } from './unknown-fields.js';

function edit(model: ModelInfo, ...edits: ModelEdit[]): Uint8Array<ArrayBuffer> {
  return writeToMemory(model.source, editModel(model, edits));
}

async function run(model: Uint8Array, feeds: Record<string, Tensor>): Promise<number[]> {
  const session = await InferenceSession.create(model, { logSeverityLevel: 3 });
  const { y } = await session.run(feeds);
  await session.release();
  return [...(y!.data as Float32Array)];
}

const x = (...values: number[]) => ({ x: new Tensor('float32', values, [values.length]) });
const nestedFeeds = (flip: boolean) => ({
  ...x(10, 20),
  trips: new Tensor('int64', [3n], []),
  flip: new Tensor('bool', [flip], []),
});

/** The graph in an attribute of a node. */
function subgraph(parent: NodeListInfo, index: number, attribute: string): GraphInfo {
  const found = parent.nodes[index]?.attributes.get(attribute);
  assert.ok(found?.type === 'graph');
  return found.value;
}

function replace(into: NodeListInfo, old: NodeInfo, opType: string): ModelEdit[] {
  return [
    { kind: 'insert-nodes', into, before: old, nodes: [{ ...node(opType, old.inputs, old.outputs) }] },
    { kind: 'remove', from: into, item: old },
  ];
}

describe('editModel', () => {
  const models = { increment: incrementModel(), nested: nestedModel(), varied: variedModel() };

  for (const [name, bytes] of Object.entries(models)) {
    it(`reproduces ${name} byte for byte when there is nothing to do`, () => {
      const { model } = addUnknownFields(bytes);
      assert.deepEqual(edit(decodeModel(bytes)), bytes);
      assert.deepEqual(edit(decodeModel(model)), model);
    });
  }

  it('runs the models unedited', async () => {
    assert.deepEqual(await run(models.increment, x(1, 2)), [2, 3]);
    assert.deepEqual(await run(models.nested, nestedFeeds(true)), [13, 23]);
    assert.deepEqual(await run(models.nested, nestedFeeds(false)), [7, 17]);
  });

  it('replaces, inserts and appends nodes', async () => {
    const model = decodeModel(models.increment);
    const { graph } = model;
    const [add] = graph.nodes;
    const output = edit(
      model,
      { kind: 'insert-nodes', into: graph, before: add!, nodes: [node('Mul', ['x', 'three'], ['tripled'])] },
      { kind: 'insert-nodes', into: graph, before: add!, nodes: [node('Add', ['tripled', 'one'], ['sum'])] },
      { kind: 'remove', from: graph, item: add! },
      { kind: 'insert-nodes', into: graph, before: null, nodes: [node('Neg', ['sum'], ['y'])] },
      { kind: 'add-initializer', to: graph, tensor: floats('three', [], [3]) },
      { kind: 'add-value', to: graph, value: floatValue('tripled', 'n') },
    );
    assert.deepEqual(await run(output, x(1, 2)), [-4, -7]);
    const { nodes, valueInfos } = decodeModel(output).graph;
    assert.deepEqual(
      nodes.map(({ opType }) => opType),
      ['Mul', 'Add', 'Neg'],
    );
    assert.deepEqual(
      valueInfos.map(({ name }) => name),
      ['tripled'],
    );
  });

  it('edits subgraphs of subgraphs', async () => {
    const model = decodeModel(models.nested);
    const body = subgraph(model.graph, 1, 'body');
    const minus = subgraph(body, 1, 'else_branch');
    const output = edit(model, ...replace(minus, minus.nodes[0]!, 'Mul'));
    assert.deepEqual(await run(output, nestedFeeds(true)), [13, 23]);
    assert.deepEqual(await run(output, nestedFeeds(false)), [10, 20]);
  });

  it('edits several levels at once, with nodes long enough to lengthen the lengths around', async () => {
    const model = decodeModel(models.nested);
    const body = subgraph(model.graph, 1, 'body');
    const plus = subgraph(body, 1, 'then_branch');
    const metadata = { note: 'long '.repeat(5000) };
    const output = edit(
      model,
      ...replace(model.graph, model.graph.nodes[0]!, 'Mul'),
      {
        kind: 'insert-nodes',
        into: body,
        before: null,
        nodes: [{ ...node('Abs', ['next'], ['unused']), metadata }],
      },
      { kind: 'insert-nodes', into: plus, before: plus.nodes[0]!, nodes: [node('Neg', ['step'], ['back'])] },
      {
        kind: 'insert-nodes',
        into: plus,
        before: null,
        nodes: [node('Add', ['state', 'back'], ['plus_state'])],
      },
      { kind: 'remove', from: plus, item: plus.nodes[0]! },
    );
    assert.deepEqual(await run(output, nestedFeeds(true)), [9.25, 19.25]);
    assert.deepEqual(await run(output, nestedFeeds(false)), [9.25, 19.25]);
  });

  it('drops edits inside of what it removes', async () => {
    const model = decodeModel(models.nested);
    const body = subgraph(model.graph, 1, 'body');
    const output = edit(
      model,
      ...replace(body, body.nodes[0]!, 'Not'),
      ...[
        { kind: 'remove', from: model.graph, item: model.graph.nodes[1]! } as const,
        {
          kind: 'insert-nodes',
          into: model.graph,
          before: null,
          nodes: [node('Add', ['x', 'step'], ['y'])],
        } as const,
      ],
    );
    assert.deepEqual(await run(output, nestedFeeds(true)), [11, 21]);
  });

  it('adds functions with what they need, one name in several overloads', async () => {
    const model = decodeModel(models.increment);
    const { graph } = model;
    const body = (overload: string, opType: string) =>
      ({
        kind: 'add-function',
        body: {
          domain: 'test',
          name: 'Change',
          overload,
          inputs: ['a', 'b'],
          outputs: ['c'],
          opsetImports: { '': 17 },
          nodes: [node(opType, ['a', 'b'], ['c'])],
        },
      }) as const;
    const call = (overload: string, inputs: string[], output: string) => ({
      ...node('Change', inputs, [output]),
      domain: 'test',
      overload,
    });
    const output = edit(
      model,
      { kind: 'remove', from: graph, item: graph.nodes[0]! },
      {
        kind: 'insert-nodes',
        into: graph,
        before: null,
        nodes: [call('up', ['x', 'one'], 'more'), call('double', ['more', 'more'], 'y')],
      },
      body('up', 'Add'),
      body('double', 'Mul'),
      { kind: 'import-opset', into: model, domain: 'test', version: 1 },
      { kind: 'set-ir-version', version: 10 },
    );
    assert.deepEqual(await run(output, x(1, 2)), [4, 9]);
    const edited = decodeModel(output);
    assert.equal(edited.irVersion, 10);
    assert.deepEqual(
      edited.functions.map(({ name, overload }) => [name, overload]),
      [
        ['Change', 'up'],
        ['Change', 'double'],
      ],
    );
  });

  it('edits functions', async () => {
    const model = decodeModel(models.varied);
    const [twice] = model.functions;
    const [everything] = model.graph.nodes;
    const output = edit(
      model,
      ...replace(twice!, twice!.nodes[0]!, 'Mul'),
      { kind: 'insert-nodes', into: twice!, before: null, nodes: [] },
      { kind: 'import-opset', into: twice!, domain: 'com.microsoft', version: 1 },
      ...replace(model.graph, everything!, 'Identity').slice(1),
      {
        kind: 'insert-nodes',
        into: model.graph,
        before: model.graph.nodes[1]!,
        nodes: [node('Flatten', ['x'], ['inner'])],
      },
      ...['anything'].map(
        name =>
          ({
            kind: 'remove',
            from: model.graph,
            item: model.graph.inputs.find(input => input.name === name)!,
          }) as const,
      ),
      ...model.graph.initializers.map(item => ({ kind: 'remove', from: model.graph, item }) as const),
      ...model.graph.valueInfos.map(item => ({ kind: 'remove', from: model.graph, item }) as const),
    );
    assert.deepEqual(
      [...decodeModel(output).functions[0]!.opsetImports],
      [
        ['', 18],
        ['com.microsoft', 1],
      ],
    );
    const session = await InferenceSession.create(output, { logSeverityLevel: 3 });
    const { y } = await session.run({ x: new Tensor('float32', [1, 2, 3], [1, 3, 1]) });
    assert.deepEqual([...(y!.data as Float32Array)], [1, 4, 9]);
  });

  it('adds graph inputs and outputs', async () => {
    const model = decodeModel(models.increment);
    const { graph } = model;
    const output = edit(
      model,
      { kind: 'add-input', to: graph, value: floatValue('z', 'n') },
      { kind: 'insert-nodes', into: graph, before: null, nodes: [node('Mul', ['y', 'z'], ['product'])] },
      { kind: 'add-output', to: graph, name: 'product' },
    );
    const session = await InferenceSession.create(output, { logSeverityLevel: 3 });
    const { product } = await session.run({ ...x(1, 2), z: new Tensor('float32', [5, 5], [2]) });
    assert.deepEqual([...(product!.data as Float32Array)], [10, 15]);
  });

  it('keeps unknown fields of every message but the removed ones', async () => {
    const { model: bytes, labels } = addUnknownFields(models.nested);
    const model = decodeModel(bytes);
    const body = subgraph(model.graph, 1, 'body');
    const plus = subgraph(body, 1, 'then_branch');
    const [removed] = plus.nodes;
    const inRemoved = unknownFieldsIn(bytes.subarray(removed!.range.start, removed!.range.end), labels);
    assert.equal(inRemoved.length, 1);
    const output = edit(
      model,
      ...replace(plus, removed!, 'Mul'),
      { kind: 'set-ir-version', version: 10 },
      { kind: 'add-initializer', to: model.graph, tensor: floats('more', [1], [1]) },
      { kind: 'import-opset', into: model, domain: 'test', version: 1 },
    );
    assert.equal(unknownFieldsIn(bytes, labels).length, labels.length);
    assert.deepEqual(
      unknownFieldsIn(output, labels),
      labels.filter(label => !inRemoved.includes(label)),
    );
    assert.deepEqual(await run(output, nestedFeeds(true)), [10, 20]);
  });

  it('writes attributes of tensors in 4 bits and long integers as they were given', () => {
    const model = decodeModel(models.varied);
    const nodes = [
      node('Constant', [], ['packed'], {
        value: {
          type: 'tensor',
          value: { dataType: DataType.INT4, dims: [3], data: Uint8Array.of(0x21, 0x03) },
        },
        far: { type: 'int', value: -(2n ** 63n) },
      }),
    ];
    const output = edit(model, { kind: 'insert-nodes', into: model.graph, before: null, nodes });
    const { attributes } = decodeModel(output).graph.nodes.at(-1)!;
    assert.equal(attributes.get('far')?.value, -(2 ** 63));
    const value = attributes.get('value');
    assert.ok(value?.type === 'tensor');
    assert.deepEqual([value.value.dataType, value.value.dims], [DataType.INT4, [3]]);
  });
});
