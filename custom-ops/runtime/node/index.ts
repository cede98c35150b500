/**
 * Sessions for Node: `import { InferenceSession, Tensor } from 'onnx-rewrite/node'`. Tensor and everything
 * else that is not ours is onnxruntime-node's own, so tensors pass freely between the two.
 */
import { register } from './backend.js';

export * from 'onnxruntime-node';
export { BACKEND_NAME } from './backend.js';
export { nativeParts } from './binding.js';
export { hookOnnxruntimeNode } from './hook.js';
export { InferenceSession, type OnnxRewriteReport } from './inference-session.js';
export type { NodePlacement } from './placement.js';

register();
