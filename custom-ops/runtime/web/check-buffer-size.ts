import { GpuLimitError } from './gpu-limit-error.js';

/** @throws GpuLimitError when a storage buffer of `bytes` bytes is more than `limits` allow */
export function checkBufferSize(limits: GPUSupportedLimits, tensor: string, bytes: number): void {
  for (const limit of ['maxStorageBufferBindingSize', 'maxBufferSize'] as const) {
    if (bytes > limits[limit]) throw new GpuLimitError(tensor, bytes, limit, limits[limit]);
  }
}
