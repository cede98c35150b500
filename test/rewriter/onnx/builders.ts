import { buildModel } from '../../../rewriter/onnx/encode.js';
import {
  DataType,
  type GraphSpec,
  type ModelSpec,
  type NodeSpec,
  type TensorSpec,
  type ValueSpec,
} from '../../../rewriter/onnx/spec.js';

/** A float32 tensor. */
export function floats(name: string, dims: readonly number[], values: readonly number[]): TensorSpec {
  return { name, dataType: DataType.FLOAT, dims, data: new Uint8Array(Float32Array.from(values).buffer) };
}

/** An int64 tensor. */
export function int64s(name: string, dims: readonly number[], values: readonly number[]): TensorSpec {
  const data = new Uint8Array(BigInt64Array.from(values, BigInt).buffer);
  return { name, dataType: DataType.INT64, dims, data };
}

/** A float32 value. */
export function uint8s(name: string, dims: readonly number[], values: readonly number[]): TensorSpec {
  return { name, dataType: DataType.UINT8, dims, data: Uint8Array.from(values) };
}

export function floatValue(name: string, ...dims: (number | string | null)[]): ValueSpec {
  return { name, dataType: DataType.FLOAT, dims };
}

export function boolValue(name: string, ...dims: (number | string | null)[]): ValueSpec {
  return { name, dataType: DataType.BOOL, dims };
}

export function node(
  opType: string,
  inputs: readonly string[],
  outputs: readonly string[],
  attributes: NodeSpec['attributes'] = {},
): NodeSpec {
  return { opType, name: `${outputs[0]}_node`, inputs, outputs, attributes };
}

export function model(graph: GraphSpec, rest: Partial<ModelSpec> = {}): Uint8Array<ArrayBuffer> {
  return buildModel({ irVersion: 8, opsetImports: { '': 17 }, graph, ...rest });
}

/** x + 1, elementwise. */
export function incrementModel(rest: Partial<ModelSpec> = {}): Uint8Array<ArrayBuffer> {
  return model(
    {
      name: 'increment',
      inputs: [floatValue('x', 'n')],
      outputs: [floatValue('y', 'n')],
      initializers: [floats('one', [], [1])],
      nodes: [node('Add', ['x', 'one'], ['y'])],
    },
    rest,
  );
}

/**
 * Subgraphs in subgraphs: a Loop of `trips` rounds over a state, whose body holds an If on `flip` that adds
 * the captured `step` or subtracts it.
 */
export function nestedModel(): Uint8Array<ArrayBuffer> {
  const branch = (name: string, opType: string): GraphSpec => ({
    name,
    inputs: [],
    outputs: [floatValue(`${name}_state`, 'n')],
    nodes: [node(opType, ['state', 'step'], [`${name}_state`])],
  });
  const body: GraphSpec = {
    name: 'body',
    inputs: [
      { name: 'round', dataType: DataType.INT64, dims: [] },
      boolValue('go_on'),
      floatValue('state', 'n'),
    ],
    outputs: [boolValue('still'), floatValue('next', 'n')],
    nodes: [
      node('Identity', ['go_on'], ['still']),
      node('If', ['flip'], ['next'], {
        then_branch: { type: 'graph', value: branch('plus', 'Add') },
        else_branch: { type: 'graph', value: branch('minus', 'Sub') },
      }),
    ],
  };
  return model({
    name: 'nested',
    inputs: [floatValue('x', 'n'), { name: 'trips', dataType: DataType.INT64, dims: [] }, boolValue('flip')],
    outputs: [floatValue('y', 'n')],
    initializers: [
      floats('half', [], [0.5]),
      { name: 'yes', dataType: DataType.BOOL, dims: [], data: Uint8Array.of(1) },
    ],
    values: [floatValue('step')],
    nodes: [
      node('Add', ['half', 'half'], ['step']),
      node('Loop', ['trips', 'yes', 'x'], ['y'], { body: { type: 'graph', value: body } }),
    ],
  });
}

/** A model with every kind of attribute, a function, metadata and typed values. */
export function variedModel(): Uint8Array<ArrayBuffer> {
  return model(
    {
      name: 'varied',
      inputs: [floatValue('x', 'batch', 3, null), { name: 'anything', dataType: DataType.INT4 }],
      outputs: [floatValue('y', 'batch')],
      initializers: [
        floats('weights', [2, 3], [1, 2, 3, 4, 5, 6]),
        { name: 'nibbles', dataType: DataType.INT4, dims: [3], data: Uint8Array.of(0x21, 0x03) },
      ],
      values: [floatValue('inner', 3, 'time')],
      nodes: [
        {
          opType: 'Everything',
          domain: 'test.ops',
          overload: 'first',
          name: 'everything',
          inputs: ['x', '', 'weights'],
          outputs: ['inner', ''],
          attributes: {
            int: { type: 'int', value: -7 },
            long: { type: 'int', value: 2n ** 63n - 1n },
            float: { type: 'float', value: 0.25 },
            string: { type: 'string', value: 'größer' },
            ints: { type: 'ints', value: [0, -1, 2n ** 40n] },
            floats: { type: 'floats', value: [1.5, -2.5] },
            strings: { type: 'strings', value: ['a', 'b'] },
            tensor: { type: 'tensor', value: floats('inside', [2], [8, 9]) },
          },
          metadata: { scope: 'encoder.0', 'pkg.key': 'value' },
        },
        { opType: 'Twice', domain: 'test.functions', inputs: ['inner'], outputs: ['y'] },
      ],
    },
    {
      irVersion: 10,
      opsetImports: { '': 18, 'test.ops': 1, 'test.functions': 1 },
      producerName: 'test',
      metadata: { license: 'none' },
      functions: [
        {
          domain: 'test.functions',
          name: 'Twice',
          inputs: ['a'],
          outputs: ['b'],
          attributes: ['unused'],
          opsetImports: { '': 18 },
          nodes: [node('Add', ['a', 'a'], ['b'])],
        },
      ],
    },
  );
}
