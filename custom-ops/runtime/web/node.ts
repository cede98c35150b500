/**
 * The WebGPU kernels in Node.js, over the npm package `webgpu` (Dawn), which the user installs. For tests and
 * measurements of kernels: whole models run in Node through `onnx-rewrite/node`.
 */

export { elementwiseAttention } from '../../elementwise-attention/webgpu.js';
export { localAttention } from '../../local-attention/webgpu.js';
export { multiLevelAttention } from '../../multi-level-attention/webgpu.js';
export { multipoleAttention } from '../../multipole-attention/webgpu.js';
export { GpuLimitError } from './gpu-limit-error.js';
export type { GpuElementType, GpuTensor, WebGpuOperator } from './operator.js';
export { type HostTensor, OperatorRunner } from './operator-runner.js';

/** Dawn crashes some time after its entry object has been collected. */
const entries: GPU[] = [];

/**
 * A device of the first adapter that Dawn finds, or null without one. `options` are Dawn's, for instance
 * `backend=vulkan`. The features and limits asked for are those that the adapter has, `limits` excepted.
 */
export async function openDevice(
  options: readonly string[] = [],
  limits: Readonly<Record<string, number>> | null = null,
): Promise<GPUDevice | null> {
  const { create } = await import('webgpu');
  const gpu = create([...options]);
  entries.push(gpu);
  const adapter = await gpu.requestAdapter();
  if (!adapter) return null;
  const requiredFeatures = (['timestamp-query', 'subgroups'] as const).filter(name =>
    adapter.features.has(name),
  );
  return adapter.requestDevice({ requiredFeatures, requiredLimits: limits ?? adapterLimits(adapter) });
}

/** The limits that kernels make use of, as the adapter has them. */
function adapterLimits({ limits }: GPUAdapter): Record<string, number> {
  return {
    maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
    maxBufferSize: limits.maxBufferSize,
    maxComputeWorkgroupStorageSize: limits.maxComputeWorkgroupStorageSize,
    maxComputeInvocationsPerWorkgroup: limits.maxComputeInvocationsPerWorkgroup,
    maxComputeWorkgroupSizeX: limits.maxComputeWorkgroupSizeX,
  };
}
