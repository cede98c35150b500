import { Tensor } from 'onnxruntime-node';
import type { Binding, DeviceHandle } from './binding.js';
import { typeName, viewOf } from './element-types.js';

/** Bytes per element of the types that tensors on a GPU can have. */
const ELEMENT_BYTES: Readonly<Record<string, number>> = {
  float32: 4,
  float16: 2,
  int32: 4,
  int64: 8,
  uint32: 4,
  uint8: 1,
  bool: 1,
};

/** CUDA memory, standing where onnxruntime-common's tensors have a WebGPU buffer. */
class CudaMemory {
  readonly mapState = 'unmapped';

  constructor(
    readonly size: number,
    readonly handle: DeviceHandle,
  ) {}
}

/**
 * A tensor whose data stays in CUDA memory, `location` being `gpu-buffer`. `getData()` copies it to the host,
 * `dispose()` gives the memory back at once.
 * @throws Error for an element type that onnxruntime-common does not allow there
 */
export function gpuTensor(
  binding: Binding,
  dataType: number,
  dims: readonly number[],
  handle: DeviceHandle,
): Tensor {
  const type = typeName(dataType);
  const bytes = ELEMENT_BYTES[type];
  if (bytes === undefined) throw new Error(`tensors of type ${type} cannot stay on the GPU`);
  const size = dims.reduce((count, dim) => count * dim, bytes);
  const memory = new CudaMemory(size, handle) as unknown as Tensor.GpuBufferType;
  return Tensor.fromGpuBuffer(memory, {
    dataType: type as Tensor.GpuBufferDataTypes,
    dims,
    download: async () => {
      const data = viewOf(dataType, new ArrayBuffer(size));
      await binding.download(handle, data);
      return data as Tensor.DataTypeMap[Tensor.GpuBufferDataTypes];
    },
    dispose: () => binding.dispose(handle),
  });
}

/** The memory of a tensor that `gpuTensor` made; undefined for any other. */
export function deviceHandle(tensor: Tensor): DeviceHandle | undefined {
  if (tensor.location !== 'gpu-buffer') return undefined;
  const memory: unknown = tensor.gpuBuffer;
  return memory instanceof CudaMemory ? memory.handle : undefined;
}
