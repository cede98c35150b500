import assert from 'node:assert/strict';
import {
  attributesOf,
  defaultParameters,
  type MultipoleParameters,
} from '../../../custom-ops/multipole-attention/parameters.js';
import { BufferPool } from '../../../custom-ops/runtime/web/buffer-pool.js';
import { GpuRecorder } from '../../../custom-ops/runtime/web/gpu-recorder.js';
import { multipoleAttention, openDevice } from '../../../custom-ops/runtime/web/node.js';
import { type GpuElementType, type GpuTensor, gpuBytes } from '../../../custom-ops/runtime/web/operator.js';
import type { Kernel } from '../../../custom-ops/runtime/web/wgsl.js';

const [KEYS, PAST] = [300, 50];

/** Records one call with every input; its tensors are in buffers of the recorder's device. */
function record(
  recorder: GpuRecorder,
  type: 'float32' | 'float16',
  size: number,
  parameters: MultipoleParameters,
): void {
  const tensor = (name: string, kind: GpuElementType, ...dims: number[]): GpuTensor => ({
    type: kind,
    dims,
    range: recorder.scratch(name, gpuBytes(kind, dims)),
  });
  const heads = (name: string, rows: number) => tensor(name, type, 1, 4, rows, size);
  multipoleAttention.record(
    recorder,
    attributesOf(parameters),
    [
      heads('query', KEYS - PAST),
      tensor('key', type, 1, 2, KEYS, size),
      tensor('value', type, 1, 2, KEYS, size),
      tensor('key_mask', 'bool', 1, KEYS),
      heads('past_query', PAST),
    ],
    [heads('output', KEYS - PAST), tensor('lse', type, 1, 4, KEYS - PAST)],
  );
}

const VARIANTS = [false, true].flatMap(causal =>
  (['tile', 'sliding', 'cluster'] as const).flatMap(selection =>
    (['kmeans', 'contiguous'] as const).map(keyGrouping => ({
      ...defaultParameters(causal),
      selection,
      keyGrouping,
    })),
  ),
);

/** Bytes that a kernel declares in workgroup memory. */
function workgroupBytes({ code }: Kernel): number {
  const sizes: Readonly<Record<string, number>> = {
    'vec4<f32>': 16,
    f32: 4,
    u32: 4,
    bool: 4,
    'atomic<u32>': 4,
  };
  let bytes = 0;
  for (const [, declared] of code.matchAll(/var<workgroup> \w+: (.+);/g)) {
    const [, element = declared!, count = '1'] = /^array<(.+), (\d+)>$/.exec(declared!) ?? [];
    assert(element in sizes, `size of ${element}`);
    bytes += sizes[element]! * Number(count);
  }
  return bytes;
}

/** A device of hardware that only counts what it is given. */
function imaginaryDevice(workgroupMemory: number, threads: number): GPUDevice {
  return {
    limits: {
      maxBufferSize: 2 ** 28,
      maxStorageBufferBindingSize: 2 ** 27,
      maxComputeWorkgroupStorageSize: workgroupMemory,
      maxComputeInvocationsPerWorkgroup: threads,
      maxComputeWorkgroupSizeX: threads,
    },
    adapterInfo: { isFallbackAdapter: false },
    createBuffer: ({ size }: GPUBufferDescriptor) => ({ size }),
  } as unknown as GPUDevice;
}

/** Keeps the kernels that were recorded. */
class Collector extends GpuRecorder {
  readonly kernels = new Set<Kernel>();

  override dispatch(...[kernel]: Parameters<GpuRecorder['dispatch']>): void {
    this.kernels.add(kernel);
  }
}

describe('WGSL of MultipoleAttention', () => {
  it('is valid for every element type, head size and variant, within the limits of every device', async () => {
    // Dawn's backend without a GPU: it validates everything and runs nothing.
    const device = (await openDevice(['backend=null'], {}))!;
    const pool = new BufferPool(device);
    for (const type of ['float32', 'float16'] as const) {
      for (const size of [64, 96, 100, 128]) {
        device.pushErrorScope('validation');
        for (const parameters of VARIANTS) {
          const recorder = new GpuRecorder(device, pool);
          record(recorder, type, size, parameters);
          recorder.submit();
          pool.trim();
        }
        assert.equal((await device.popErrorScope())?.message, undefined, `${type}, head size ${size}`);
      }
    }
    pool.destroy();
    device.destroy();
  });

  for (const [limit, threads] of [
    [16384, 256],
    [16384, 1024],
    [32768, 256],
    [49152, 256],
    [49152, 1024],
  ] as const) {
    it(`stays within ${limit} bytes of workgroup memory and ${threads} threads`, () => {
      const device = imaginaryDevice(limit, threads);
      for (const size of [4, 64, 128]) {
        for (const parameters of VARIANTS) {
          const recorder = new Collector(device, new BufferPool(device));
          record(recorder, 'float32', size, parameters);
          assert(recorder.kernels.size > 0);
          for (const kernel of recorder.kernels) {
            assert(workgroupBytes(kernel) <= limit, `${kernel.label} takes ${workgroupBytes(kernel)} bytes`);
            const size = Number(/@workgroup_size\((\d+)\)/.exec(kernel.code)![1]);
            assert(size <= threads, `${kernel.label} takes ${size} threads`);
          }
        }
      }
    });
  }
});
