import {
  INPUT_NAMES,
  localFunctionBody,
  OP_TYPE,
} from '../../../custom-ops/local-attention/function-body.js';
import { localAttention } from '../../../custom-ops/local-attention/operator.js';
import { attributesOf, type LocalParameters } from '../../../custom-ops/local-attention/parameters.js';
import type { LocalInputs, LocalResult } from '../../../custom-ops/local-attention/reference.js';
import { DOMAIN, DOMAIN_VERSION, type Tensor } from '../../../custom-ops/operator.js';
import { buildModel } from '../../../rewriter/onnx/encode.js';
import { float16ToFloat32, float32ToFloat16 } from '../../../rewriter/onnx/float16.js';
import { DataType, type ValueSpec } from '../../../rewriter/onnx/spec.js';
import { attributeSpecs } from '../../../rewriter/replacement-nodes.js';
import type { OnnxRuntime } from '../onnx-runtime.js';

export interface NodeOptions {
  readonly opset?: number;
  readonly float16?: boolean;
  /** Leaves the function body out: a kernel has to be there. */
  readonly bare?: boolean;
  readonly threads?: number;
}

/** Runs a model of one LocalAttention node, every dimension dynamic. */
export async function runNode(
  runtime: OnnxRuntime,
  { query, key, value, keyMask }: LocalInputs,
  parameters: LocalParameters,
  { opset = 18, float16 = false, bare = false, threads = 2 }: NodeOptions = {},
): Promise<LocalResult> {
  const { InferenceSession, Tensor: OrtTensor } = runtime;
  const float = ({ dims, data }: Tensor) =>
    float16 ? new OrtTensor('float16', float32ToFloat16(data), dims) : new OrtTensor('float32', data, dims);
  const feeds = {
    query: float(query),
    key: float(key),
    value: float(value),
    ...(keyMask && { key_mask: new OrtTensor('bool', keyMask, [key.dims[0]!, key.dims[2]!]) }),
  };
  const elementType = float16 ? DataType.FLOAT16 : DataType.FLOAT;
  const valueSpec = (name: string): ValueSpec => ({
    name,
    dataType: name === 'key_mask' ? DataType.BOOL : elementType,
    dims: Array.from({ length: { key_mask: 2, lse: 3 }[name] ?? 4 }, (_, axis) => `${name}_${axis}`),
  });
  const inputs = INPUT_NAMES.filter(name => name in feeds);
  const outputs = ['output', 'lse'];
  const model = buildModel({
    irVersion: 8,
    opsetImports: { '': opset, [DOMAIN]: DOMAIN_VERSION },
    graph: {
      name: 'local_attention',
      nodes: [
        {
          opType: OP_TYPE,
          domain: DOMAIN,
          inputs,
          outputs,
          attributes: attributeSpecs(localAttention, attributesOf(parameters)),
        },
      ],
      inputs: inputs.map(valueSpec),
      outputs: outputs.map(valueSpec),
    },
    functions: bare ? [] : [localFunctionBody(parameters, [...inputs, ...outputs], { opset, elementType })],
  });
  // Inputs that are to be refused would be logged.
  const session = await InferenceSession.create(model, { logSeverityLevel: 4, intraOpNumThreads: threads });
  try {
    const results = await session.run(feeds);
    const tensor = (name: string): Tensor => {
      const { dims, data } = results[name]!;
      const bits = data as Float32Array | Uint16Array;
      return {
        dims,
        data: bits instanceof Float32Array ? bits.slice() : float16ToFloat32(Uint16Array.from(bits)),
      };
    };
    return { output: tensor('output'), lse: tensor('lse') };
  } finally {
    await session.release();
  }
}
