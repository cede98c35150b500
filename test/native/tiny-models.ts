import { DOMAIN, DOMAIN_VERSION } from '../../custom-ops/operator.js';
import { Tensor } from '../../custom-ops/runtime/node/index.js';
import { buildModel } from '../../rewriter/onnx/encode.js';
import { DataType, type FunctionSpec, type NodeSpec, type ValueSpec } from '../../rewriter/onnx/spec.js';

interface Parts {
  readonly nodes: readonly NodeSpec[];
  readonly inputs: readonly ValueSpec[];
  readonly outputs: readonly ValueSpec[];
  readonly functions?: readonly FunctionSpec[];
}

export function model({ nodes, inputs, outputs, functions = [] }: Parts): Uint8Array {
  return buildModel({
    irVersion: 10,
    opsetImports: { '': 18, [DOMAIN]: DOMAIN_VERSION },
    graph: { name: 'test', nodes, inputs, outputs },
    functions,
  });
}

/** A value of shape [n]. */
export const vector = (name: string, dataType = DataType.FLOAT): ValueSpec => ({
  name,
  dataType,
  dims: ['n'],
});

/** c = a + b */
export const addition = (): Uint8Array =>
  model({
    nodes: [{ opType: 'Add', inputs: ['a', 'b'], outputs: ['c'] }],
    inputs: [vector('a'), vector('b')],
    outputs: [vector('c')],
  });

export const floats = (...values: number[]): Tensor =>
  new Tensor('float32', Float32Array.from(values), [values.length]);
