import type { InferenceSession, TensorConstructor } from 'onnxruntime-common';

/** What onnxruntime-node, onnxruntime-web and the session with kernels have in common. */
export interface OnnxRuntime {
  readonly InferenceSession: {
    create(model: Uint8Array, options?: InferenceSession.SessionOptions): Promise<InferenceSession>;
  };
  readonly Tensor: TensorConstructor;
}
