import assert from 'node:assert/strict';
import onnxProto from 'onnx-proto';
import { decodeModel } from '../../../rewriter/onnx/decode.js';
import { buildModel, encodeOpsetImport, encodeUntypedValue } from '../../../rewriter/onnx/encode.js';
import { type AttributeSpec, DataType, type ModelSpec } from '../../../rewriter/onnx/spec.js';

const { onnx } = onnxProto;

const attributes: Readonly<Record<string, AttributeSpec>> = {
  int: { type: 'int', value: -1 },
  large: { type: 'int', value: -(2n ** 63n) },
  float: { type: 'float', value: 0.25 },
  string: { type: 'string', value: '\u{1F9E9} é' },
  empty: { type: 'string', value: '' },
  ints: { type: 'ints', value: [0, -7, 300, 2n ** 40n] },
  floats: { type: 'floats', value: [1.5, -2] },
  strings: { type: 'strings', value: ['a', ''] },
  tensor: { type: 'tensor', value: { dataType: DataType.UINT8, dims: [2], data: Uint8Array.of(3, 4) } },
  graph: {
    type: 'graph',
    value: {
      name: 'inner',
      nodes: [],
      inputs: [],
      outputs: [{ name: 'y', dataType: DataType.FLOAT, dims: [] }],
    },
  },
};

const spec: ModelSpec = {
  irVersion: 8,
  producerName: 'test',
  opsetImports: { '': 18, 'test.ops': 1 },
  metadata: { key: 'value' },
  functions: [
    {
      domain: 'test.ops',
      name: 'F',
      inputs: ['a', 'b'],
      outputs: ['c'],
      attributes: ['alpha'],
      opsetImports: { '': 18 },
      nodes: [{ opType: 'Add', inputs: ['a', 'b'], outputs: ['c'] }],
    },
  ],
  graph: {
    name: 'graph',
    nodes: [{ opType: 'F', domain: 'test.ops', name: 'n', inputs: ['x', ''], outputs: ['y'], attributes }],
    inputs: [{ name: 'x', dataType: DataType.FLOAT, dims: [1, 'n', null, 0] }],
    outputs: [{ name: 'y', dataType: DataType.INT64 }],
    values: [{ name: 'z', dataType: DataType.BOOL, dims: [] }],
    initializers: [
      {
        name: 'w',
        dataType: DataType.FLOAT,
        dims: [200],
        external: { location: 'w.bin', offset: 4096, length: 800 },
      },
    ],
  },
};

/** What onnx-proto, an independent implementation, reads. */
function read(bytes: Uint8Array) {
  return onnx.ModelProto.toObject(onnx.ModelProto.decode(bytes), { longs: String, arrays: true });
}

describe('buildModel', () => {
  const model = read(buildModel(spec));

  it('writes the model around the graph', () => {
    assert.equal(model.irVersion, '8');
    assert.equal(model.producerName, 'test');
    assert.deepEqual(
      model.opsetImport.map(({ domain, version }: Record<string, unknown>) => [domain ?? '', version]),
      [
        ['', '18'],
        ['test.ops', '1'],
      ],
    );
    assert.deepEqual(model.metadataProps, [{ key: 'key', value: 'value' }]);
  });

  it('writes attributes of every type', () => {
    const [node] = model.graph.node;
    assert.deepEqual([node.opType, node.domain, node.name], ['F', 'test.ops', 'n']);
    assert.deepEqual([node.input, node.output], [['x', ''], ['y']]);
    const found = Object.fromEntries(
      node.attribute.map((attribute: Record<string, unknown>) => [attribute.name, attribute]),
    );
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    assert.equal(found.int.i, '-1');
    assert.equal(found.large.i, String(-(2n ** 63n)));
    assert.equal(found.float.f, 0.25);
    assert.equal(text(found.string.s), '\u{1F9E9} é');
    assert.equal(text(found.empty.s), '');
    assert.deepEqual(found.ints.ints, ['0', '-7', '300', String(2n ** 40n)]);
    assert.deepEqual(found.floats.floats, [1.5, -2]);
    assert.deepEqual(found.strings.strings.map(text), ['a', '']);
    assert.deepEqual([found.tensor.t.dims, [...found.tensor.t.rawData]], [['2'], [3, 4]]);
    assert.deepEqual(found.graph.g.output[0].type.tensorType.shape, { dim: [] });
    const { AttributeType } = onnx.AttributeProto;
    assert.deepEqual(
      Object.values(found).map(({ type }) => type),
      [
        ...[AttributeType.INT, AttributeType.INT, AttributeType.FLOAT, AttributeType.STRING],
        ...[AttributeType.STRING, AttributeType.INTS, AttributeType.FLOATS, AttributeType.STRINGS],
        ...[AttributeType.TENSOR, AttributeType.GRAPH],
      ],
    );
  });

  it('writes types, with sizes known, named and unknown', () => {
    const { input, output, valueInfo } = model.graph;
    assert.deepEqual(input[0].type.tensorType, {
      elemType: DataType.FLOAT,
      shape: { dim: [{ dimValue: '1' }, { dimParam: 'n' }, {}, { dimValue: '0' }] },
    });
    assert.deepEqual(output[0].type.tensorType, { elemType: DataType.INT64 });
    assert.deepEqual(valueInfo[0].type.tensorType, { elemType: DataType.BOOL, shape: { dim: [] } });
  });

  it('writes external data and functions', () => {
    const [weights] = model.graph.initializer;
    assert.deepEqual(
      [weights.name, weights.dims, weights.dataLocation],
      ['w', ['200'], onnx.TensorProto.DataLocation.EXTERNAL],
    );
    assert.deepEqual(
      weights.externalData.map(({ key, value }: Record<string, string>) => [key, value]),
      [
        ['location', 'w.bin'],
        ['offset', '4096'],
        ['length', '800'],
      ],
    );
    const [body] = model.functions;
    assert.deepEqual(
      [body.name, body.domain, body.input, body.output, body.attribute],
      ['F', 'test.ops', ['a', 'b'], ['c'], ['alpha']],
    );
    assert.deepEqual(
      body.node.map(({ opType }: Record<string, unknown>) => opType),
      ['Add'],
    );
  });

  it('writes the fields that are newer than onnx-proto, as decodeModel reads them', () => {
    const nodes = [
      { opType: 'F', inputs: [], outputs: [], overload: 'one', metadata: { scope: 'here', empty: '' } },
    ];
    const functions = [{ ...spec.functions![0]!, overload: 'one' }];
    const newer = decodeModel(buildModel({ ...spec, functions, graph: { ...spec.graph, nodes } }));
    assert.equal(newer.functions[0]!.overload, 'one');
    assert.equal(newer.graph.nodes[0]!.overload, 'one');
    assert.deepEqual(
      [...newer.graph.nodes[0]!.metadata],
      [
        ['scope', 'here'],
        ['empty', ''],
      ],
    );
  });

  it('writes single messages', () => {
    const { domain, version } = onnx.OperatorSetIdProto.decode(encodeOpsetImport('d', 3));
    assert.deepEqual([domain, Number(version)], ['d', 3]);
    assert.equal(onnx.ValueInfoProto.decode(encodeUntypedValue('v')).name, 'v');
  });

  it('refuses a number that is no integer', () => {
    const nodes = [
      { opType: 'F', inputs: [], outputs: [], attributes: { a: { type: 'int', value: 0.5 } } },
    ] as const;
    assert.throws(() => buildModel({ ...spec, graph: { ...spec.graph, nodes } }), RangeError);
  });
});
