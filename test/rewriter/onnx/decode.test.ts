import assert from 'node:assert/strict';
import onnxProto from 'onnx-proto';
import { InputError } from '../../../rewriter/errors.js';
import { concatenate } from '../../../rewriter/onnx/bytes.js';
import { decodeModel } from '../../../rewriter/onnx/decode.js';
import { field } from '../../../rewriter/onnx/encode.js';
import {
  AttributeField,
  FunctionField,
  GraphField,
  ModelField,
  NodeField,
} from '../../../rewriter/onnx/field-numbers.js';
import { DataType, type GraphSpec } from '../../../rewriter/onnx/spec.js';
import { readTensorData } from '../../../rewriter/onnx/tensor-data.js';
import { encodeVarint } from '../../../rewriter/onnx/wire.js';
import { floatValue, incrementModel, model, nestedModel, node, variedModel } from './builders.js';

const { onnx } = onnxProto;

/** Tags of TypeProto.Sequence.elem_type and TypeProto.sequence_type; field number of ValueInfoProto.type. */
const SEQUENCE_ELEM_TYPE = 0x0a;
const TYPE_SEQUENCE = 0x22;
const VALUE_INFO_TYPE = 2;

describe('decodeModel', () => {
  const varied = decodeModel(variedModel(), { file: 'varied.onnx' });

  it('reads the model around the graph', () => {
    assert.equal(varied.file, 'varied.onnx');
    assert.equal(varied.irVersion, 10);
    assert.deepEqual(
      [...varied.opsetImports],
      [
        ['', 18],
        ['test.ops', 1],
        ['test.functions', 1],
      ],
    );
    assert.equal(varied.producerName, 'test');
    assert.deepEqual([...varied.metadata], [['license', 'none']]);
  });

  it('reads nodes with fields newer than onnx-proto', () => {
    const [everything] = varied.graph.nodes;
    assert.ok(everything);
    const { name, opType, domain, overload, inputs, outputs, metadata } = everything;
    assert.deepEqual(
      { name, opType, domain, overload, inputs, outputs, metadata: [...metadata] },
      {
        name: 'everything',
        opType: 'Everything',
        domain: 'test.ops',
        overload: 'first',
        inputs: ['x', '', 'weights'],
        outputs: ['inner', ''],
        metadata: [
          ['scope', 'encoder.0'],
          ['pkg.key', 'value'],
        ],
      },
    );
  });

  it('reads attributes of every type', () => {
    const { attributes } = varied.graph.nodes[0]!;
    const values = [...attributes.values()].filter(({ type }) => type !== 'tensor');
    assert.deepEqual(
      values.map(({ name, type, value }) => [name, type, value]),
      [
        ['int', 'int', -7],
        ['long', 'int', 2 ** 63],
        ['float', 'float', 0.25],
        ['string', 'string', 'größer'],
        ['ints', 'ints', [0, -1, 2 ** 40]],
        ['floats', 'floats', [1.5, -2.5]],
        ['strings', 'strings', ['a', 'b']],
      ],
    );
    const tensor = attributes.get('tensor');
    assert.ok(tensor?.type === 'tensor');
    assert.deepEqual(tensor.value.dims, [2]);
    assert.deepEqual([...new Float32Array(readTensorData(tensor.value, varied)!.buffer)], [8, 9]);
  });

  it('reads values with known, named and unknown sizes, and without a rank', () => {
    assert.deepEqual(
      varied.graph.inputs.map(({ name, kind, dataType, dims }) => [name, kind, dataType, dims]),
      [
        ['x', 'tensor', DataType.FLOAT, ['batch', 3, null]],
        ['anything', 'tensor', DataType.INT4, null],
      ],
    );
    assert.deepEqual(
      varied.graph.valueInfos.map(({ name, dims }) => [name, dims]),
      [['inner', [3, 'time']]],
    );
  });

  it('reads a size of -1 as unknown', () => {
    const negative = decodeModel(
      model({ name: 'g', nodes: [], inputs: [floatValue('x', -1, 4)], outputs: [] }),
    );
    assert.deepEqual(negative.graph.inputs[0]!.dims, [null, 4]);
  });

  it('names types that are no tensors', () => {
    const tensorType = { elemType: DataType.FLOAT };
    const types = {
      sequence: { sequenceType: { elemType: { tensorType } } },
      optional: { optionalType: { elemType: { tensorType } } },
      map: { mapType: { keyType: DataType.INT64, valueType: { tensorType } } },
      'sparse-tensor': { sparseTensorType: { elemType: DataType.FLOAT, shape: { dim: [{ dimValue: 2 }] } } },
      unknown: {},
    };
    const input = Object.entries(types).map(([name, type]) => ({ name, type }));
    const { graph } = decodeModel(onnx.ModelProto.encode({ irVersion: 8, graph: { input } }).finish());
    assert.deepEqual(
      graph.inputs.map(({ kind }) => kind),
      Object.keys(types),
    );
    assert.deepEqual(graph.inputs[3]!.dims, [2]);
  });

  it('keeps weights as ranges of the source', () => {
    const [weights, nibbles] = varied.graph.initializers;
    assert.ok(weights?.storage.kind === 'raw' && nibbles);
    const { start, end } = weights.storage.range;
    assert.deepEqual([...new Float32Array(variedModel().slice(start, end).buffer)], [1, 2, 3, 4, 5, 6]);
    assert.equal(nibbles.dataType, DataType.INT4);
  });

  it('gives ranges that hold exactly the messages', () => {
    const bytes = variedModel();
    for (const { range, name } of varied.graph.nodes) {
      assert.equal(onnx.NodeProto.decode(bytes.subarray(range.body, range.end)).name, name);
      assert.equal(bytes[range.start], GraphField.node * 8 + 2);
    }
    const { range } = varied.functions[0]!;
    assert.equal(onnx.FunctionProto.decode(bytes.subarray(range.body, range.end)).name, 'Twice');
  });

  it('reads functions', () => {
    const [twice] = varied.functions;
    assert.ok(twice);
    const { name, domain, overload, inputs, outputs, attributes } = twice;
    assert.deepEqual(
      { name, domain, overload, inputs, outputs, attributes },
      {
        name: 'Twice',
        domain: 'test.functions',
        overload: '',
        inputs: ['a'],
        outputs: ['b'],
        attributes: ['unused'],
      },
    );
    assert.deepEqual(
      twice.nodes.map(({ opType }) => opType),
      ['Add'],
    );
  });

  it('reads the fields of functions that came after ONNX 1.10', () => {
    const text = (value: string) => [new TextEncoder().encode(value)];
    const entry = [onnx.StringStringEntryProto.encode({ key: 'k', value: 'v' }).finish()];
    const type = onnx.AttributeProto.AttributeType.INT;
    const body = concatenate([
      onnx.FunctionProto.encode({ name: 'F', domain: 'd' }).finish(),
      ...field(FunctionField.overload, text('variant')),
      ...field(FunctionField.metadataProps, entry),
      ...field(FunctionField.attributeProto, [
        onnx.AttributeProto.encode({ name: 'axis', type, i: 2 }).finish(),
      ]),
      ...field(FunctionField.valueInfo, [onnx.ValueInfoProto.encode({ name: 'inside' }).finish()]),
    ]);
    const { functions } = decodeModel(
      concatenate([incrementModel(), ...field(ModelField.functions, [body])]),
    );
    const [info] = functions;
    assert.ok(info);
    assert.equal(info.overload, 'variant');
    assert.deepEqual([...info.metadata], [['k', 'v']]);
    assert.equal(info.attributeDefaults.get('axis')?.value, 2);
    assert.deepEqual(
      info.valueInfos.map(({ name }) => name),
      ['inside'],
    );
  });

  it('reads subgraphs, and knows the fields around them', () => {
    const bytes = nestedModel();
    const { graph } = decodeModel(bytes);
    const body = graph.nodes[1]!.attributes.get('body');
    assert.ok(body?.type === 'graph');
    const branch = body.value.nodes[1]!.attributes.get('else_branch');
    assert.ok(branch?.type === 'graph');
    assert.deepEqual(
      branch.value.nodes.map(({ opType }) => opType),
      ['Sub'],
    );
    const { enclosing } = branch.value;
    assert.deepEqual(
      enclosing.map(({ start }) => bytes[start]! >> 3),
      [
        ModelField.graph,
        GraphField.node,
        NodeField.attribute,
        AttributeField.g,
        GraphField.node,
        NodeField.attribute,
        AttributeField.g,
      ],
    );
    for (const [i, inner] of enclosing.slice(1).entries()) {
      const outer = enclosing[i]!;
      assert.ok(outer.body <= inner.start && inner.end <= outer.end);
    }
  });

  it('takes both spellings of the default domain for one', () => {
    const spelled = decodeModel(incrementModel({ opsetImports: { 'ai.onnx': 17 } }));
    assert.deepEqual([...spelled.opsetImports], [['', 17]]);
  });

  it('reads references to attributes of the calling function', () => {
    const attribute = onnx.AttributeProto.encode({ name: 'axis', refAttrName: 'dim', type: 2 }).finish();
    const call = concatenate([
      onnx.NodeProto.encode({ opType: 'Softmax' }).finish(),
      ...field(NodeField.attribute, [attribute]),
    ]);
    const graph = field(ModelField.graph, field(GraphField.node, [call]));
    const { nodes } = decodeModel(concatenate([incrementHeader(), ...graph])).graph;
    assert.deepEqual(nodes[0]!.attributes.get('axis')?.type, 'reference');
    assert.deepEqual(nodes[0]!.attributes.get('axis')?.value, 'dim');
  });

  it('keeps attributes of types that ONNX may add later', () => {
    const attribute = onnx.AttributeProto.encode({ name: 'new', type: 99 as number }).finish();
    const call = concatenate(field(NodeField.attribute, [attribute]));
    const graph = field(ModelField.graph, field(GraphField.node, [call]));
    const { nodes } = decodeModel(concatenate([incrementHeader(), ...graph])).graph;
    assert.equal(nodes[0]!.attributes.get('new')?.type, 'unknown');
  });

  it('passes over unknown fields of every wire type, groups included', () => {
    const unknown = Uint8Array.of(
      ...[0xf8, 0x7f, 0x96, 0x01], // varint
      ...[0xf9, 0x7f, 1, 2, 3, 4, 5, 6, 7, 8], // fixed64
      ...[0xfa, 0x7f, 2, 0xff, 0xff], // bytes
      ...[0xfb, 0x7f, 0xfb, 0x7f, 0x08, 0x01, 0xfc, 0x7f, 0xfc, 0x7f], // group in a group
      ...[0xfd, 0x7f, 1, 2, 3, 4], // fixed32
    );
    const { graph } = decodeModel(concatenate([unknown, incrementModel(), unknown]));
    assert.equal(graph.nodes.length, 1);
  });

  it('takes a known field of the wrong wire type for an unknown one', () => {
    const graph = Uint8Array.of(GraphField.name * 8, 5, GraphField.node * 8, 5);
    const info = decodeModel(concatenate([incrementHeader(), ...field(ModelField.graph, [graph])])).graph;
    assert.deepEqual([info.name, info.nodes.length], ['', 0]);
  });

  it('looks no deeper into types than a tensor', () => {
    const [input] = decodeModel(nestedTypes(100_000)).graph.inputs;
    assert.deepEqual([input!.kind, input!.dims], ['sequence', null]);
  });

  describe('refuses, as bad input,', () => {
    const refusals: Record<string, [Uint8Array, RegExp]> = {
      'a model without a graph': [incrementHeader(), /it has no graph/],
      'a model without an IR version': [
        onnx.ModelProto.encode({ graph: { name: 'g' } }).finish(),
        /it has no ir_version/,
      ],
      'two graphs': [concatenate([incrementModel(), incrementModel()]), /more than one graph/],
      'an operator set in two versions': [
        concatenate([
          incrementModel(),
          ...field(ModelField.opsetImport, [
            onnx.OperatorSetIdProto.encode({ domain: '', version: 9 }).finish(),
          ]),
        ]),
        /imports domain '' in two versions/,
      ],
      'an attribute that occurs twice': [
        onnx.ModelProto.encode({
          irVersion: 8,
          graph: {
            node: [
              {
                opType: 'X',
                attribute: [
                  { name: 'a', type: 2 },
                  { name: 'a', type: 2 },
                ],
              },
            ],
          },
        }).finish(),
        /attribute 'a' occurs twice/,
      ],
      'an attribute without the value of its type': [
        onnx.ModelProto.encode({
          irVersion: 8,
          graph: { node: [{ opType: 'X', attribute: [{ name: 'a', type: 4 }] }] },
        }).finish(),
        /it has no value in attribute 'a'/,
      ],
      'a tensor of negative size': [
        onnx.ModelProto.encode({
          irVersion: 8,
          graph: { initializer: [{ name: 'w', dims: [2, -3] }] },
        }).finish(),
        /tensor 'w' has a negative size/,
      ],
      'external data without a location': [
        onnx.ModelProto.encode({
          irVersion: 8,
          graph: { initializer: [{ name: 'w', dataLocation: 1 }] },
        }).finish(),
        /tensor 'w' has external data without a location/,
      ],
      'external data at a negative offset': [
        onnx.ModelProto.encode({
          irVersion: 8,
          graph: {
            initializer: [
              {
                name: 'w',
                dataLocation: 1,
                externalData: [
                  { key: 'location', value: 'w.bin' },
                  { key: 'offset', value: '-1' },
                ],
              },
            ],
          },
        }).finish(),
        /tensor 'w' has offset '-1'/,
      ],
      'subgraphs without end': [nestedGraphs(200), /subgraphs nest too deeply/],
      'a list of numbers that is cut off': [
        concatenate([
          incrementHeader(),
          ...field(
            ModelField.graph,
            field(
              GraphField.node,
              field(NodeField.attribute, [Uint8Array.of(AttributeField.floats * 8 + 2, 3, 0, 0, 0)]),
            ),
          ),
        ]),
        /the bytes end inside a number/,
      ],
      'a length beyond the end': [
        concatenate([
          incrementHeader(),
          Uint8Array.of(ModelField.graph * 8 + 2, 0xff, 0xff, 0xff, 0xff, 0x7f),
        ]),
        /claims 34359738367 bytes where 0 are left/,
      ],
      'a varint that does not end': [
        concatenate([incrementHeader(), new Uint8Array(20).fill(0xff)]),
        /varint is longer than 10 bytes/,
      ],
      'a group that does not end': [
        concatenate([incrementHeader(), Uint8Array.of(0xfb, 0x7f)]),
        /end inside a varint/,
      ],
      'the end of a group that did not start': [
        concatenate([incrementHeader(), Uint8Array.of(0xfc, 0x7f)]),
        /a group ends that never started/,
      ],
      'field number zero': [
        concatenate([incrementHeader(), Uint8Array.of(0x02, 0)]),
        /not a protobuf field tag/,
      ],
    };
    for (const [what, [bytes, message]] of Object.entries(refusals)) {
      it(what, () => {
        assert.throws(
          () => decodeModel(bytes, { file: 'bad.onnx' }),
          (error: unknown) =>
            error instanceof InputError &&
            error.details.file === 'bad.onnx' &&
            error.details.remedy !== undefined &&
            message.test(error.message),
        );
      });
    }
  });
});

/** A model message that lacks its graph. */
function incrementHeader(): Uint8Array {
  return onnx.ModelProto.encode({ irVersion: 8, opsetImport: [{ domain: '', version: 17 }] }).finish();
}

function nestedGraphs(depth: number): Uint8Array {
  let graph: GraphSpec = { name: 'innermost', nodes: [], inputs: [], outputs: [] };
  for (let i = 0; i < depth; i++) {
    graph = { ...graph, nodes: [node('If', ['c'], ['y'], { then_branch: { type: 'graph', value: graph } })] };
  }
  return model(graph);
}

function nestedTypes(depth: number): Uint8Array {
  const innermostFirst: Uint8Array[] = [];
  let length = 0;
  for (let i = 0; i < depth; i++) {
    for (const tag of [SEQUENCE_ELEM_TYPE, TYPE_SEQUENCE]) {
      const head = concatenate([Uint8Array.of(tag), encodeVarint(length)]);
      innermostFirst.push(head);
      length += head.length;
    }
  }
  const value = field(VALUE_INFO_TYPE, innermostFirst.reverse());
  return concatenate([incrementHeader(), ...field(ModelField.graph, field(GraphField.input, value))]);
}
