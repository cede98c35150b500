import { DOMAIN, DOMAIN_VERSION, type Tensor } from '../../../custom-ops/operator.js';
import {
  INPUT_NAMES,
  OP_TYPE,
  structuredMatMulBody,
} from '../../../custom-ops/structured-matmul/function-body.js';
import { structuredMatMul } from '../../../custom-ops/structured-matmul/operator.js';
import {
  attributesOf,
  factorShapes,
  type Structure,
} from '../../../custom-ops/structured-matmul/parameters.js';
import { buildModel } from '../../../rewriter/onnx/encode.js';
import { DataType, type ValueSpec } from '../../../rewriter/onnx/spec.js';
import { attributeSpecs } from '../../../rewriter/replacement-nodes.js';
import { storedTensor } from '../stored-tensor.js';

export interface NodeModelOptions {
  /** Default domain of the model. */
  readonly opset?: number;
  readonly float16?: boolean;
  /** Axes of x. */
  readonly rank?: number;
  /** Leaves the function body out: a kernel has to be there. */
  readonly bare?: boolean;
  /** The factors as constants of the model; inputs of it where absent. */
  readonly factors?: readonly Tensor[];
}

/** A model of one StructuredMatMul node, every dimension of x dynamic. */
export function nodeModel(
  structure: Structure,
  { opset = 18, float16 = false, rank = 3, bare = false, factors = [] }: NodeModelOptions = {},
): Uint8Array {
  const dataType = float16 ? DataType.FLOAT16 : DataType.FLOAT;
  const shapes = factorShapes(structure);
  const names = INPUT_NAMES.slice(0, 1 + shapes.length);
  const free = (name: string): ValueSpec => ({
    name,
    dataType,
    dims: Array.from({ length: rank }, (_, axis) => `${name}_${axis}`),
  });
  return buildModel({
    irVersion: 8,
    opsetImports: { '': opset, [DOMAIN]: DOMAIN_VERSION },
    graph: {
      name: 'structured_matmul',
      nodes: [
        {
          opType: OP_TYPE,
          domain: DOMAIN,
          inputs: names,
          outputs: ['output'],
          attributes: attributeSpecs(structuredMatMul, attributesOf(structure)),
        },
      ],
      inputs: [
        free('x'),
        ...(factors.length > 0 ? [] : shapes.map((dims, n) => ({ name: names[n + 1]!, dataType, dims }))),
      ],
      outputs: [free('output')],
      initializers: factors.map((factor, n) => storedTensor(names[n + 1]!, factor, float16)),
    },
    functions: bare ? [] : [structuredMatMulBody(structure, { opset, elementType: dataType })],
  });
}
