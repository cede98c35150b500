import type { Tensor as OrtTensor } from 'onnxruntime-common';
import { type BilinearCase, caseInputs } from '../../../custom-ops/bilinear-attention/cases.js';
import {
  bilinearFunctionBody,
  INPUT_NAMES,
  OP_TYPE,
} from '../../../custom-ops/bilinear-attention/function-body.js';
import { bilinearAttention as bilinearOperator } from '../../../custom-ops/bilinear-attention/operator.js';
import { attributesOf, type BilinearParameters } from '../../../custom-ops/bilinear-attention/parameters.js';
import { type BilinearInputs, bilinearAttention } from '../../../custom-ops/bilinear-attention/reference.js';
import { DOMAIN, DOMAIN_VERSION, type Tensor } from '../../../custom-ops/operator.js';
import { buildModel } from '../../../rewriter/onnx/encode.js';
import { float16ToFloat32, float32ToFloat16 } from '../../../rewriter/onnx/float16.js';
import { DataType, type ValueSpec } from '../../../rewriter/onnx/spec.js';
import { attributeSpecs } from '../../../rewriter/replacement-nodes.js';
import { HALF, SINGLE } from '../../comparison.js';
import { assertClose } from '../elementwise-attention/comparison.js';
import type { OnnxRuntime } from '../onnx-runtime.js';
import { storedTensor } from '../stored-tensor.js';

export interface NodeOptions {
  /** Default domain of the model. */
  readonly opset?: number;
  /** Leaves the function body out: a kernel has to be there. */
  readonly bare?: boolean;
  /** Weights are constants of the model, as in models of this attention, instead of inputs. */
  readonly stored?: boolean;
}

/** Runs a case as a model of one node and compares it with the reference. */
export async function checkCase(
  runtime: OnnxRuntime,
  shared: BilinearCase,
  options: NodeOptions = {},
): Promise<void> {
  const inputs = caseInputs(shared);
  const expected = bilinearAttention(inputs, shared.parameters);
  const actual = await runNode(runtime, inputs, shared.parameters, { ...options, float16: shared.float16 });
  assertClose(actual, expected, shared.float16 ? HALF : SINGLE, 'output');
}

/** The output of a model of one node. */
export async function runNode(
  runtime: OnnxRuntime,
  inputs: BilinearInputs,
  parameters: BilinearParameters,
  {
    opset = 18,
    bare = false,
    stored = false,
    float16 = false,
  }: NodeOptions & { readonly float16?: boolean } = {},
): Promise<Tensor> {
  const tensors = namedInputs(inputs);
  const connected = INPUT_NAMES.filter(name => tensors.has(name) || (name === 'key_mask' && inputs.keyMask));
  const model = nodeModel(parameters, connected, tensors, { opset, bare, stored, float16 });
  const session = await runtime.InferenceSession.create(model, { logSeverityLevel: 3 });
  const feeds: Record<string, OrtTensor> = {};
  for (const [name, { dims, data }] of tensors) {
    if (stored && isWeight(name)) continue;
    feeds[name] = float16
      ? new runtime.Tensor('float16', float32ToFloat16(data), dims)
      : new runtime.Tensor('float32', data, dims);
  }
  if (inputs.keyMask) {
    feeds.key_mask = new runtime.Tensor('bool', inputs.keyMask, inputs.x.dims.slice(0, 2));
  }
  const output = (await session.run(feeds)).output as OrtTensor;
  const data = output.data as Float32Array | Uint16Array;
  const result = {
    dims: output.dims,
    data: data instanceof Float32Array ? data.slice() : float16ToFloat32(Uint16Array.from(data)),
  };
  await session.release();
  return result;
}

const isWeight = (name: string): boolean => !['x', 'value', 'key_mask'].includes(name);

function namedInputs({ x, value, train, levels = [] }: BilinearInputs): Map<string, Tensor> {
  const optional = (name: string, tensor: Tensor | undefined): [string, Tensor][] =>
    tensor === undefined ? [] : [[name, tensor]];
  return new Map([
    ['x', x],
    ['value', value],
    ...optional('left', train?.left),
    ...optional('right', train?.right),
    ...optional('key_norm_1', train?.keyNorm),
    ...levels.flatMap(({ query, key, queryNorm, keyNorm }, l): [string, Tensor][] => [
      [`query_${l + 1}`, query],
      [`key_${l + 1}`, key],
      ...optional(`query_norm_${l + 1}`, queryNorm),
      ...optional(`key_norm_${l + 1}`, keyNorm),
    ]),
  ]);
}

function nodeModel(
  parameters: BilinearParameters,
  connected: readonly string[],
  tensors: ReadonlyMap<string, Tensor>,
  { opset, bare, stored, float16 }: Required<NodeOptions> & { readonly float16: boolean },
): Uint8Array {
  const float = float16 ? DataType.FLOAT16 : DataType.FLOAT;
  const body = bilinearFunctionBody(parameters, connected, { opset, elementType: float });
  const free = (name: string, rank: number, dataType = float): ValueSpec => ({
    name,
    dataType,
    dims: Array.from({ length: rank }, (_, axis) => `${name}_${axis}`),
  });
  return buildModel({
    irVersion: 8,
    opsetImports: { '': opset, [DOMAIN]: DOMAIN_VERSION },
    graph: {
      name: 'bilinear_attention',
      nodes: [
        {
          opType: OP_TYPE,
          domain: DOMAIN,
          inputs: body.inputs.map(name => (connected.includes(name) ? name : '')),
          outputs: ['output'],
          attributes: attributeSpecs(bilinearOperator, attributesOf(parameters)),
        },
      ],
      inputs: connected
        .filter(name => !(stored && isWeight(name)))
        .map(name =>
          name === 'key_mask' ? free(name, 2, DataType.BOOL) : free(name, tensors.get(name)!.dims.length),
        ),
      initializers: connected
        .filter(name => stored && isWeight(name))
        .map(name => storedTensor(name, tensors.get(name)!, float16)),
      outputs: [free('output', 4)],
    },
    functions: bare ? [] : [body],
  });
}
