import assert from 'node:assert/strict';
import { attributesOf as elementwiseAttributes } from '../../../../custom-ops/elementwise-attention/parameters.js';
import {
  attributesOf as multiLevelAttributes,
  plainParameters,
} from '../../../../custom-ops/multi-level-attention/parameters.js';
import {
  defaultParameters,
  attributesOf as multipoleAttributes,
} from '../../../../custom-ops/multipole-attention/parameters.js';
import type { Attributes } from '../../../../custom-ops/operator.js';
import { BufferPool } from '../../../../custom-ops/runtime/web/buffer-pool.js';
import { GpuRecorder } from '../../../../custom-ops/runtime/web/gpu-recorder.js';
import {
  elementwiseAttention,
  GpuLimitError,
  multiLevelAttention,
  multipoleAttention,
} from '../../../../custom-ops/runtime/web/node.js';
import {
  type GpuTensor,
  gpuBytes,
  type WebGpuOperator,
} from '../../../../custom-ops/runtime/web/operator.js';
import type { Kernel } from '../../../../custom-ops/runtime/web/wgsl.js';

/** What every WebGPU device has. */
const DEFAULT_LIMITS = {
  maxStorageBufferBindingSize: 128 * 2 ** 20,
  maxBufferSize: 256 * 2 ** 20,
  maxComputeWorkgroupStorageSize: 16384,
  maxComputeInvocationsPerWorkgroup: 256,
  maxComputeWorkgroupSizeX: 256,
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
  readonly kernels: Kernel[] = [];

  override dispatch(...call: Parameters<GpuRecorder['dispatch']>): void {
    super.dispatch(...call);
    this.most = Math.max(this.most, call[0].bindings.length);
    this.kernels.push(call[0]);
  }
}

interface Call {
  readonly operator: WebGpuOperator;
  readonly attributes: Attributes;
  /** Dims of query, key and value, and whether outputs for later tokens are asked for. */
  readonly dims: readonly number[];
  readonly later?: boolean;
}

function record({ operator, attributes, dims, later = false }: Call) {
  const device = new CountingDevice();
  const gpu = device as unknown as GPUDevice;
  const recorder = new Bindings(gpu, new BufferPool(gpu));
  const tensor = (label: string, size: readonly number[]): GpuTensor => ({
    type: 'float32',
    dims: size,
    range: { label, buffer: {} as GPUBuffer, offset: 0, bytes: gpuBytes('float32', size) },
  });
  operator.record(
    recorder,
    attributes,
    ['query', 'key', 'value'].map(name => tensor(name, dims)),
    operator
      .outputDims(attributes, [dims, dims, dims])
      .map((size, n) => (n === 0 || later ? tensor(`output ${n}`, size) : null)),
  );
  return { device, recorder };
}

const perHead = [1, HEADS, TOKENS, SIZE];
const multipole = (changes: Partial<ReturnType<typeof defaultParameters>>, causal = false): Call => ({
  operator: multipoleAttention,
  attributes: multipoleAttributes({ ...defaultParameters(causal), ...changes }),
  dims: perHead,
});
const multiLevel = (ranks: readonly number[], causal: boolean): Call => ({
  operator: multiLevelAttention,
  attributes: multiLevelAttributes(plainParameters(ranks, TOKENS / 2 ** (ranks.length - 1), { causal })),
  dims: perHead,
  later: true,
});
const elementwise = (order: number, causal: boolean): Call => ({
  operator: elementwiseAttention,
  attributes: elementwiseAttributes({ order, causal }),
  dims: [1, TOKENS, HEADS * SIZE],
  later: true,
});

const CALLS: Readonly<Record<string, Call>> = {
  'MultipoleAttention, acausal': multipole({}),
  'MultipoleAttention, causal': multipole({}, true),
  'MultipoleAttention, k-means': multipole({ keyGrouping: 'kmeans' }),
  'MultipoleAttention, exact': multipole({ retrieve: [-1] }),
  'MultiLevelAttention, eight levels': multiLevel([8, 8, 8, 8, 8, 8, 8, 8], false),
  'MultiLevelAttention, uneven levels, causal': multiLevel([32, 8, 6, 4, 4, 4, 4, 2], true),
  'ElementwiseAttention, order 0': elementwise(0, true),
  'ElementwiseAttention, order 6': elementwise(6, false),
  'ElementwiseAttention, order 6, causal': elementwise(6, true),
};

describe(`kernels over ${TOKENS} tokens within the limits of every WebGPU device`, () => {
  for (const [name, call] of Object.entries(CALLS)) {
    it(`fit in float32: ${name}`, () => {
      const { device, recorder } = record(call);
      assert(recorder.kernels.length >= 1);
      assert(device.largest <= DEFAULT_LIMITS.maxStorageBufferBindingSize);
      assert(recorder.most <= DEFAULT_LIMITS.maxStorageBuffersPerShaderStage);
      // As much again as query, key, value and output take.
      const tensors = 4 * gpuBytes('float32', call.dims);
      assert(device.total <= tensors, `${device.total} bytes of scratch`);
    });
  }
});

describe('kernels with more than a device can hold', () => {
  for (const [name, call] of Object.entries({
    MultiLevelAttention: { ...multiLevel([16, 16], false), dims: [1, 1, 2 ** 21, 32], later: false },
    ElementwiseAttention: { ...elementwise(16, true), dims: [4, 16384, 2048] },
    MultipoleAttention: { ...multipole({ segment: 0, keyClusters: 4096 }), dims: [1, 1, 2 ** 20, 64] },
  })) {
    it(`name the tensor, its size and the limit, and run nothing: ${name}`, () => {
      assert.throws(
        () => record(call),
        (error: unknown) =>
          error instanceof GpuLimitError &&
          error.bytes > error.allowed &&
          error.limit === 'maxStorageBufferBindingSize' &&
          error.tensor.length > 0 &&
          error.message.includes(error.tensor) &&
          error.message.includes(String(error.bytes)),
      );
    });
  }
});
