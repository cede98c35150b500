import { BufferUsage, MapMode } from './gpu-flags.js';
import type { GpuRange } from './gpu-recorder.js';

/** Writes bytes to the start of a range, filled up with zeros to whole 32-bit words. */
export function writeRange(device: GPUDevice, range: GpuRange, data: ArrayBufferView): void {
  const words = new Uint8Array(Math.ceil(data.byteLength / 4) * 4);
  words.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  device.queue.writeBuffer(range.buffer, range.offset, words);
}

/** Copies a range to main memory, after everything submitted before. */
export async function readRange(device: GPUDevice, range: GpuRange): Promise<ArrayBuffer> {
  const staging = device.createBuffer({
    label: `${range.label}, to be read`,
    size: range.bytes,
    usage: BufferUsage.MAP_READ | BufferUsage.COPY_DST,
  });
  try {
    const encoder = device.createCommandEncoder();
    encoder.copyBufferToBuffer(range.buffer, range.offset, staging, 0, range.bytes);
    device.queue.submit([encoder.finish()]);
    await staging.mapAsync(MapMode.READ);
    return staging.getMappedRange().slice(0);
  } finally {
    staging.destroy();
  }
}
