import type * as Ort from 'onnxruntime-common';
import { create, globals } from 'webgpu';
import { identityModel } from '../../custom-ops/runtime/web/identity-model.js';

/** Dawn crashes some time after its entry object has been collected. */
let entry: GPU | null = null;

/**
 * onnxruntime-web with its WebGPU execution provider, in Node over Dawn, and its device. The process cannot end by
 * itself afterwards: see {@link endProcess}.
 * @param options of Dawn, for instance `backend=vulkan`
 */
export async function openOnnxRuntime(
  options: readonly string[],
): Promise<{ readonly ort: typeof Ort; readonly device: GPUDevice }> {
  entry = create([...options]);
  Object.assign(globalThis, globals);
  Object.defineProperty(globalThis, 'navigator', { value: { gpu: entry }, configurable: true });
  copySharedMemory();
  // Dawn's promises are settled between timers: without one they never are.
  setInterval(() => {}, 1);
  const ort = await import('onnxruntime-web/webgpu');
  ort.env.wasm.numThreads = 1;
  ort.env.logLevel = 'error';
  // The device is there from the first session on, and gone with the last one.
  await ort.InferenceSession.create(identityModel(), { executionProviders: ['webgpu'] });
  return { ort, device: (await ort.env.webgpu.device) as GPUDevice };
}

/** Dawn in Node refuses to write from shared memory, in which ONNX Runtime keeps its tensors. */
function copySharedMemory(): void {
  const { writeBuffer } = GPUQueue.prototype;
  GPUQueue.prototype.writeBuffer = function (buffer, offset, data, dataOffset = 0, size) {
    const view = ArrayBuffer.isView(data) ? data : new Uint8Array(data);
    const element = 'BYTES_PER_ELEMENT' in view ? Number(view.BYTES_PER_ELEMENT) : 1;
    const start = view.byteOffset + dataOffset * element;
    const bytes = size === undefined ? view.byteLength - dataOffset * element : size * element;
    const copy = new Uint8Array(bytes);
    copy.set(new Uint8Array(view.buffer, start, bytes));
    writeBuffer.call(this, buffer, offset, copy);
  };
}

/** Ends the process, which ONNX Runtime's threads over Dawn do not let end. What it printed is what counts. */
export function endProcess(): void {
  process.kill(process.pid, 'SIGKILL');
}
