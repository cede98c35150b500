import type { Attributes } from '../../operator.js';
import type { GpuRange, GpuRecorder } from './gpu-recorder.js';

export type GpuElementType = 'float32' | 'float16' | 'bool';

/** A tensor in GPU memory, dense and row-major; booleans are bytes. */
export interface GpuTensor {
  readonly type: GpuElementType;
  readonly dims: readonly number[];
  readonly range: GpuRange;
}

/** WebGPU kernels of one custom operator. Absent optional inputs and outputs are null. */
export interface WebGpuOperator {
  /** Operator type in the graph. */
  readonly opType: string;
  /** Why these attributes cannot run on WebGPU, or null when they can. The function body covers the rest. */
  refusal(attributes: Attributes): string | null;
  /**
   * Element type and dims of every output.
   * @throws InputError when the inputs do not fit together
   */
  outputs(
    attributes: Attributes,
    inputs: readonly (Omit<GpuTensor, 'range'> | null)[],
  ): readonly Omit<GpuTensor, 'range'>[];
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
