import assert from 'node:assert/strict';
import {
  attributesOf,
  defaultParameters,
  type MultipoleParameters,
} from '../../../custom-ops/multipole-attention/parameters.js';
import { BufferPool } from '../../../custom-ops/runtime/web/buffer-pool.js';
import { GpuRecorder } from '../../../custom-ops/runtime/web/gpu-recorder.js';
import { multipoleAttention } from '../../../custom-ops/runtime/web/node.js';
import { type GpuTensor, gpuBytes } from '../../../custom-ops/runtime/web/operator.js';

/** What every WebGPU device has. */
const DEFAULT_LIMITS = {
  maxStorageBufferBindingSize: 128 * 2 ** 20,
  maxBufferSize: 256 * 2 ** 20,
  maxComputeWorkgroupStorageSize: 16384,
  maxStorageBuffersPerShaderStage: 8,
};
const [HEADS, TOKENS, SIZE] = [8, 32768, 64];

/** A device that counts the bytes of its buffers. */
class CountingDevice {
  readonly limits = DEFAULT_LIMITS;
  readonly adapterInfo = { isFallbackAdapter: false };
  largest = 0;
  total = 0;

  createBuffer({ size }: GPUBufferDescriptor): { size: number } {
    this.largest = Math.max(this.largest, size);
    this.total += size;
    return { size };
  }
}

/** Keeps how many storage buffers a dispatch binds; GpuRecorder itself checks the size of each of them. */
class Bindings extends GpuRecorder {
  most = 0;
  dispatches = 0;

  override dispatch(...call: Parameters<GpuRecorder['dispatch']>): void {
    super.dispatch(...call);
    this.most = Math.max(this.most, call[0].bindings.length);
    this.dispatches++;
  }
}

function record(parameters: MultipoleParameters): { device: CountingDevice; recorder: Bindings } {
  const device = new CountingDevice();
  const gpu = device as unknown as GPUDevice;
  const recorder = new Bindings(gpu, new BufferPool(gpu));
  const dims = [1, HEADS, TOKENS, SIZE];
  const tensor = (label: string): GpuTensor => ({
    type: 'float32',
    dims,
    range: { label, buffer: {} as GPUBuffer, offset: 0, bytes: gpuBytes('float32', dims) },
  });
  multipoleAttention.record(
    recorder,
    attributesOf(parameters),
    [tensor('query'), tensor('key'), tensor('value')],
    [tensor('output'), null],
  );
  return { device, recorder };
}

describe(`MultipoleAttention over ${TOKENS} tokens within the limits of every WebGPU device`, () => {
  for (const [name, parameters] of Object.entries({
    acausal: defaultParameters(false),
    causal: defaultParameters(true),
    'acausal, k-means': { ...defaultParameters(false), keyGrouping: 'kmeans' as const },
    'acausal, exact': { ...defaultParameters(false), retrieve: [-1] },
  })) {
    it(`fits in float32: ${name}`, () => {
      const { device, recorder } = record(parameters);
      assert(recorder.dispatches >= 2);
      assert(device.largest <= DEFAULT_LIMITS.maxStorageBufferBindingSize);
      assert(recorder.most <= DEFAULT_LIMITS.maxStorageBuffersPerShaderStage);
      // As much again as query, key, value and output take.
      const tensors = 4 * gpuBytes('float32', [HEADS, TOKENS, SIZE]);
      assert(device.total <= tensors, `${device.total} bytes of scratch`);
    });
  }
});
