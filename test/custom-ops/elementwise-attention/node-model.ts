import type { OnnxValue } from 'onnxruntime-common';
import { Tensor as OrtTensor } from 'onnxruntime-node';
import {
  elementwiseFunctionBody,
  INPUT_NAMES,
  OP_TYPE,
  OUTPUT_NAMES,
} from '../../../custom-ops/elementwise-attention/function-body.js';
import type { ElementwiseParameters } from '../../../custom-ops/elementwise-attention/parameters.js';
import type {
  ElementwiseInputs,
  ElementwiseResult,
} from '../../../custom-ops/elementwise-attention/reference.js';
import { DOMAIN, DOMAIN_VERSION, type Tensor } from '../../../custom-ops/operator.js';
import { buildModel } from '../../../rewriter/onnx/encode.js';
import { float16ToFloat32, float32ToFloat16 } from '../../../rewriter/onnx/float16.js';
import { DataType, type ValueSpec } from '../../../rewriter/onnx/spec.js';

export interface NodeModelOptions {
  /** Default domain of the model. */
  readonly opset?: number;
  readonly float16?: boolean;
}

const RANKS: Readonly<Record<string, number>> = {
  key_mask: 2,
  past_state: 4,
  past_offset: 2,
  present_state: 4,
  present_offset: 2,
};

/** A model of one ElementwiseAttention node and its function body, every dimension dynamic. */
export function nodeModel(
  parameters: ElementwiseParameters,
  connected: readonly string[],
  { opset = 18, float16 = false }: NodeModelOptions = {},
): Uint8Array {
  const float = float16 ? DataType.FLOAT16 : DataType.FLOAT;
  const outputs = parameters.order === 0 ? OUTPUT_NAMES.slice(0, 1) : OUTPUT_NAMES;
  const body = elementwiseFunctionBody(parameters, [...connected, ...outputs], {
    opset,
    elementType: float,
  });
  const value = (name: string): ValueSpec => ({
    name,
    dataType: name === 'key_mask' ? DataType.BOOL : /state|offset/.test(name) ? DataType.FLOAT : float,
    dims: Array.from({ length: RANKS[name] ?? 3 }, (_, axis) => `${name}_${axis}`),
  });
  return buildModel({
    irVersion: 8,
    opsetImports: { '': opset, [DOMAIN]: DOMAIN_VERSION },
    graph: {
      name: 'elementwise_attention',
      nodes: [
        {
          opType: OP_TYPE,
          domain: DOMAIN,
          inputs: body.inputs.map(name => (connected.includes(name) ? name : '')),
          outputs: body.outputs,
          attributes: {
            order: { type: 'int', value: parameters.order },
            causal: { type: 'int', value: Number(parameters.causal) },
          },
        },
      ],
      inputs: INPUT_NAMES.filter(name => connected.includes(name)).map(value),
      outputs: body.outputs.map(value),
    },
    functions: [body],
  });
}

/** Names of the inputs that these inputs connect. */
export function connectedInputs({ keyMask, past }: ElementwiseInputs): string[] {
  return [
    'query',
    'key',
    'value',
    ...(keyMask ? ['key_mask'] : []),
    ...(past ? ['past_state', 'past_offset'] : []),
  ];
}

export function feeds(
  { query, key, value, keyMask, past }: ElementwiseInputs,
  float16 = false,
): Record<string, OrtTensor> {
  const float = ({ dims, data }: Tensor) =>
    float16 ? new OrtTensor('float16', float32ToFloat16(data), dims) : new OrtTensor('float32', data, dims);
  return {
    query: float(query),
    key: float(key),
    value: float(value),
    ...(keyMask && { key_mask: new OrtTensor('bool', keyMask, key.dims.slice(0, 2)) }),
    ...(past && {
      past_state: new OrtTensor('float32', past.state.data, past.state.dims),
      past_offset: new OrtTensor('float32', past.offset.data, past.offset.dims),
    }),
  };
}

export function resultOf(outputs: Readonly<Record<string, OnnxValue>>): ElementwiseResult {
  const tensor = (name: string): Tensor => {
    const { dims, data } = outputs[name] as OrtTensor;
    const widened =
      data instanceof Float32Array ? data : float16ToFloat32(Uint16Array.from(data as Uint16Array));
    return { dims, data: widened };
  };
  const present = 'present_state' in outputs;
  return {
    output: tensor('output'),
    present: present ? { state: tensor('present_state'), offset: tensor('present_offset') } : null,
  };
}
