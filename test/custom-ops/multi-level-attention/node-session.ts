import type { InferenceSession, Tensor as OrtTensor } from 'onnxruntime-common';
import {
  INPUT_NAMES,
  multiLevelFunctionBody,
  OP_TYPE,
  OUTPUT_NAMES,
} from '../../../custom-ops/multi-level-attention/function-body.js';
import { multiLevelAttention } from '../../../custom-ops/multi-level-attention/operator.js';
import {
  attributesOf,
  type MultiLevelParameters,
} from '../../../custom-ops/multi-level-attention/parameters.js';
import type {
  MultiLevelInputs,
  MultiLevelResult,
} from '../../../custom-ops/multi-level-attention/reference.js';
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
  /** Optional outputs to connect; all of them by default. */
  readonly outputs?: readonly string[];
}

/** Output names of a node with so many levels. */
function outputNames(levels: number): string[] {
  return OUTPUT_NAMES.slice(0, 3 + levels);
}

/** A model of one MultiLevelAttention node, every dimension dynamic. */
export function nodeModel(
  parameters: MultiLevelParameters,
  connected: readonly string[],
  { opset = 18, float16 = false, bare = false, outputs: wanted }: NodeOptions = {},
): Uint8Array {
  const float = float16 ? DataType.FLOAT16 : DataType.FLOAT;
  const all = outputNames(parameters.ranks.length);
  const kept = all.map(name => (name === 'output' || !wanted || wanted.includes(name) ? name : ''));
  const body = multiLevelFunctionBody(parameters, [...connected, ...kept], { opset, elementType: float });
  const ranks: Readonly<Record<string, number>> = { key_mask: 2, lse: 3 };
  const value = (name: string): ValueSpec => ({
    name,
    dataType: name === 'key_mask' ? DataType.BOOL : float,
    dims: Array.from({ length: ranks[name] ?? 4 }, (_, axis) => `${name}_${axis}`),
  });
  return buildModel({
    irVersion: 8,
    opsetImports: { '': opset, [DOMAIN]: DOMAIN_VERSION },
    graph: {
      name: 'multi_level_attention',
      nodes: [
        {
          opType: OP_TYPE,
          domain: DOMAIN,
          inputs: body.inputs.map(name => (connected.includes(name) ? name : '')),
          outputs: body.outputs.map(name => (kept.includes(name) ? name : '')),
          attributes: attributeSpecs(multiLevelAttention, attributesOf(parameters)),
        },
      ],
      inputs: connected.map(value),
      outputs: kept.filter(name => name !== '').map(value),
    },
    functions: bare ? [] : [body],
  });
}

/** Runs MultiLevelAttention nodes, each in one session for all shapes. */
export class NodeSessions {
  readonly #sessions = new Map<string, Promise<InferenceSession>>();

  constructor(
    private readonly runtime: OnnxRuntime,
    private readonly options: InferenceSession.SessionOptions = {},
  ) {}

  async run(
    parameters: MultiLevelParameters,
    inputs: MultiLevelInputs,
    options: NodeOptions = {},
  ): Promise<MultiLevelResult> {
    const results = await this.runRaw(parameters, inputs, options);
    const tensor = (name: string): Tensor => {
      const { dims, data } = results[name]!;
      const bits = data as Float32Array | Uint16Array;
      return { dims, data: bits instanceof Float32Array ? bits : float16ToFloat32(Uint16Array.from(bits)) };
    };
    return {
      output: tensor('output'),
      lse: tensor('lse'),
      present: {
        value: tensor('present_value'),
        keys: parameters.ranks.map((_, level) => tensor(`present_key_${level + 1}`)),
      },
    };
  }

  /** The connected outputs as ONNX Runtime gives them. */
  async runRaw(
    parameters: MultiLevelParameters,
    inputs: MultiLevelInputs,
    options: NodeOptions = {},
  ): Promise<Record<string, OrtTensor>> {
    const feeds = this.#feeds(inputs, options.float16 ?? false);
    const connected = INPUT_NAMES.filter(name => name in feeds);
    const key = JSON.stringify([parameters, connected, options]);
    let session = this.#sessions.get(key);
    if (!session) {
      const model = nodeModel(parameters, connected, options);
      session = this.runtime.InferenceSession.create(model, { logSeverityLevel: 3, ...this.options });
      this.#sessions.set(key, session);
    }
    return (await session).run(feeds);
  }

  async release(): Promise<void> {
    const created = await Promise.allSettled(this.#sessions.values());
    this.#sessions.clear();
    for (const session of created) if (session.status === 'fulfilled') await session.value.release();
  }

  #feeds(
    { query, key, value, keyMask, past }: MultiLevelInputs,
    float16: boolean,
  ): Record<string, OrtTensor> {
    const { Tensor } = this.runtime;
    const float = ({ dims, data }: Tensor) =>
      float16 ? new Tensor('float16', float32ToFloat16(data), dims) : new Tensor('float32', data, dims);
    const keys = key.dims[2]! + (past?.value.dims[2] ?? 0);
    return {
      query: float(query),
      key: float(key),
      value: float(value),
      ...(keyMask && { key_mask: new Tensor('bool', keyMask, [key.dims[0]!, keys]) }),
      ...(past && { past_value: float(past.value) }),
      ...Object.fromEntries(
        (past?.keys ?? []).map((level, l) => [`past_key_${l + 1}`, float(level)] as const),
      ),
    };
  }
}
