import type { InferenceSession, Tensor as OrtTensor, TensorConstructor } from 'onnxruntime-common';
import type { MultipoleParameters } from '../../../custom-ops/multipole-attention/parameters.js';
import type { MultipoleInputs } from '../../../custom-ops/multipole-attention/reference.js';
import type { Tensor } from '../../../custom-ops/operator.js';
import { float16ToFloat32, float32ToFloat16 } from '../../../rewriter/onnx/float16.js';
import { type BodyModelOptions, bodyModel, connectedInputs } from './body-model.js';

/** What onnxruntime-node and onnxruntime-web have in common. */
export interface OnnxRuntime {
  readonly InferenceSession: {
    create(model: Uint8Array, options?: InferenceSession.SessionOptions): Promise<InferenceSession>;
  };
  readonly Tensor: TensorConstructor;
}

/** Runs function bodies, each in one session for all shapes. */
export class BodySessions {
  readonly #sessions = new Map<string, Promise<InferenceSession>>();

  constructor(
    private readonly runtime: OnnxRuntime,
    private readonly options: InferenceSession.SessionOptions = {},
  ) {}

  async run(
    parameters: MultipoleParameters,
    inputs: MultipoleInputs,
    options: Omit<BodyModelOptions, 'connected'> = {},
  ): Promise<{ output: Tensor; lse: Tensor }> {
    const results = await this.runRaw(parameters, inputs, options);
    const widened = (name: string): Tensor => {
      const { dims, data } = results[name]!;
      const bits = data as Float32Array | Uint16Array;
      return { dims, data: bits instanceof Float32Array ? bits : float16ToFloat32(Uint16Array.from(bits)) };
    };
    return { output: widened('output'), lse: widened('lse') };
  }

  /** All outputs as ONNX Runtime gives them. */
  async runRaw(
    parameters: MultipoleParameters,
    inputs: MultipoleInputs,
    options: Omit<BodyModelOptions, 'connected'> = {},
  ): Promise<Record<string, OrtTensor>> {
    const modelOptions = { ...options, connected: connectedInputs(inputs) };
    const key = JSON.stringify([parameters, modelOptions]);
    let session = this.#sessions.get(key);
    if (!session) {
      const model = bodyModel(parameters, modelOptions);
      session = this.runtime.InferenceSession.create(model, { logSeverityLevel: 3, ...this.options });
      this.#sessions.set(key, session);
    }
    return (await session).run(this.#feeds(inputs, options.float16 ?? false));
  }

  async release(): Promise<void> {
    for (const session of this.#sessions.values()) await (await session).release();
    this.#sessions.clear();
  }

  #feeds(inputs: MultipoleInputs, float16: boolean): Record<string, OrtTensor> {
    const { Tensor } = this.runtime;
    const float = ({ dims, data }: Tensor) =>
      float16 ? new Tensor('float16', float32ToFloat16(data), dims) : new Tensor('float32', data, dims);
    const { query, key, value, keyMask, pastQuery } = inputs;
    return {
      query: float(query),
      key: float(key),
      value: float(value),
      ...(keyMask && { key_mask: new Tensor('bool', keyMask, [key.dims[0]!, key.dims[2]!]) }),
      ...(pastQuery && { past_query: float(pastQuery) }),
    };
  }
}
