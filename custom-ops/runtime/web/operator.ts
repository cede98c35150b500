import type { Attributes } from '../../operator.js';
import type { GpuRange, GpuRecorder } from './gpu-recorder.js';

export type GpuElementType = 'float32' | 'float16' | 'bool';

/** A tensor in GPU memory, dense and row-major; booleans are bytes. */
export interface GpuTensor {
  readonly type: GpuElementType;
  readonly dims: readonly number[];
  readonly range: GpuRange;
}

const BYTES: Readonly<Record<GpuElementType, number>> = { float32: 4, float16: 2, bool: 1 };

/** Bytes of a tensor's elements. */
export function elementBytes(type: GpuElementType, dims: readonly number[]): number {
  return dims.reduce((a, b) => a * b, 1) * BYTES[type];
}

/** Bytes that a tensor takes in GPU memory: whole 32-bit words, and enough for the smallest binding. */
export function gpuBytes(type: GpuElementType, dims: readonly number[]): number {
  return Math.max(16, Math.ceil(elementBytes(type, dims) / 4) * 4);
}

/** WebGPU kernels of one custom operator. Absent optional inputs and outputs are null. */
export interface WebGpuOperator {
  /** Operator type in the graph. */
  readonly opType: string;
  /** Why these attributes cannot run on WebGPU, or null when they can. The function body covers the rest. */
  refusal(attributes: Attributes): string | null;
  /** Outputs, by index, that are float32 whatever goes in; the others have the first input's element type. */
  readonly float32Outputs: ReadonlySet<number>;
  /**
   * Dims of every output.
   * @throws InputError when the inputs do not fit together
   */
  outputDims(
    attributes: Attributes,
    inputDims: readonly (readonly number[] | null)[],
  ): readonly (readonly number[])[];
  /**
   * Records the work.
   * @throws GpuLimitError when a tensor is too large for the device; nothing has run then
   */
  record(
    recorder: GpuRecorder,
    attributes: Attributes,
    inputs: readonly (GpuTensor | null)[],
    outputs: readonly (GpuTensor | null)[],
  ): void;
}
