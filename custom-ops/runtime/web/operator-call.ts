import type { Attributes } from '../../operator.js';
import type { BufferPool } from './buffer-pool.js';
import { GpuRecorder } from './gpu-recorder.js';
import type { GpuTensor, WebGpuOperator } from './operator.js';
import type { DispatchTimer, Recording } from './recording.js';

type Tensors = readonly (GpuTensor | null)[];

/**
 * One operator that runs again and again. Runs on tensors of the same shapes as the last time are not recorded anew:
 * that would cost the processor several times what submitting does.
 */
export class OperatorCall {
  #last: { readonly shapes: string; readonly recording: Recording } | null = null;

  constructor(
    readonly operator: WebGpuOperator,
    readonly attributes: Attributes,
  ) {}

  /**
   * Queues one run. Waits for nothing.
   * @param pool for scratch memory, the same one for all runs
   * @throws GpuLimitError when a tensor is too large for the device; nothing has run then
   */
  submit(pool: BufferPool, inputs: Tensors, outputs: Tensors, timer: DispatchTimer | null = null): void {
    const tensors = [...inputs, ...outputs];
    const buffers = [...new Set(tensors.flatMap(tensor => (tensor ? [tensor.range.buffer] : [])))];
    const shapes = JSON.stringify(
      tensors.map(
        tensor =>
          tensor && [
            tensor.type,
            tensor.dims,
            tensor.range.offset,
            tensor.range.bytes,
            // Which tensors share memory.
            buffers.indexOf(tensor.range.buffer),
          ],
      ),
    );
    if (this.#last?.shapes === shapes && this.#last.recording.submit(buffers, timer)) return;
    this.forget();
    const recorder = new GpuRecorder(pool.device, pool);
    try {
      this.operator.record(recorder, this.attributes, inputs, outputs);
      const recording = recorder.finish(buffers);
      recording.submit(buffers, timer);
      this.#last = { shapes, recording };
    } finally {
      recorder.abandon();
    }
  }

  /** Gives back what the last run left for the next. */
  forget(): void {
    this.#last?.recording.release();
    this.#last = null;
  }
}
