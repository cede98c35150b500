/** ONNX Runtime Web with this project's WebGPU kernels. */
export { GpuLimitError, GpuLostError, GpuMemoryError } from './gpu-limit-error.js';
export { type Execution, InferenceSession, type WebSessionOptions } from './inference-session.js';
export { Lock, onnxRuntimeLock } from './lock.js';
