import { multipoleFunctionBody, OP_TYPE } from '../../../custom-ops/multipole-attention/function-body.js';
import { multipoleAttention } from '../../../custom-ops/multipole-attention/operator.js';
import {
  attributesOf,
  type MultipoleParameters,
} from '../../../custom-ops/multipole-attention/parameters.js';
import type { MultipoleInputs } from '../../../custom-ops/multipole-attention/reference.js';
import { DOMAIN, DOMAIN_VERSION } from '../../../custom-ops/operator.js';
import { buildModel } from '../../../rewriter/onnx/encode.js';
import { type AttributeSpec, DataType, type ValueSpec } from '../../../rewriter/onnx/spec.js';
import { attributeSpecs } from '../../../rewriter/replacement-nodes.js';

export interface BodyModelOptions {
  /** Names of the inputs that the node connects. */
  readonly connected: readonly string[];
  /** Default domain of the model. */
  readonly opset?: number;
  readonly float16?: boolean;
  /** Also outputs the discrete choices of the body. */
  readonly traced?: boolean;
}

/** A model of one MultipoleAttention node and its function body, every dimension dynamic. */
export function bodyModel(
  parameters: MultipoleParameters,
  { connected, opset = 18, float16 = false, traced = false }: BodyModelOptions,
): Uint8Array {
  const float = float16 ? DataType.FLOAT16 : DataType.FLOAT;
  const model = { opset, elementType: float };
  const body = multipoleFunctionBody(parameters, [...connected, 'lse'], model, traced);
  const types: Readonly<Record<string, DataType>> = {
    key_mask: DataType.BOOL,
    key_clusters: DataType.INT64,
    query_centroids: DataType.FLOAT,
    row_clusters: DataType.INT64,
    selected: DataType.FLOAT,
  };
  const ranks: Readonly<Record<string, number>> = {
    key_mask: 2,
    lse: 3,
    key_clusters: 3,
    row_clusters: 2,
    selected: 3,
  };
  const value = (name: string): ValueSpec => ({
    name,
    dataType: types[name] ?? float,
    dims: Array.from({ length: ranks[name] ?? 4 }, (_, axis) => `${name}_${axis}`),
  });
  return buildModel({
    irVersion: 8,
    opsetImports: { '': opset, [DOMAIN]: DOMAIN_VERSION },
    graph: {
      name: 'multipole_attention',
      nodes: [
        {
          opType: OP_TYPE,
          domain: DOMAIN,
          inputs: body.inputs.map(name => (connected.includes(name) ? name : '')),
          outputs: body.outputs,
          attributes: nodeAttributes(parameters),
        },
      ],
      inputs: connected.map(value),
      outputs: body.outputs.map(value),
    },
    functions: [body],
  });
}

/** Attributes as they are written on a node. */
export function nodeAttributes(parameters: MultipoleParameters): Record<string, AttributeSpec> {
  return attributeSpecs(multipoleAttention, attributesOf(parameters));
}

/** Names of the inputs that these inputs connect. */
export function connectedInputs(inputs: MultipoleInputs): string[] {
  return [
    'query',
    'key',
    'value',
    ...(inputs.keyMask ? ['key_mask'] : []),
    ...(inputs.pastQuery ? ['past_query'] : []),
  ];
}
