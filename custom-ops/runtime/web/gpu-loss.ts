import { GpuLostError } from './gpu-limit-error.js';

/** How long a failed call waits to hear whether the device is gone: both are told at about the same time. */
const PATIENCE_MS = 100;

/** @throws GpuLostError when the device is gone */
export async function checkDevice(device: GPUDevice): Promise<void> {
  // Of promises that are settled already the first one wins.
  const info = await Promise.race([device.lost, null]);
  if (info) throw lost(info);
}

/** What an error of a call on this device comes from: the loss of the device, or the error itself. */
export async function causeOf(error: unknown, device: GPUDevice): Promise<unknown> {
  const info = await Promise.race([device.lost, later(PATIENCE_MS)]);
  return info ? lost(info) : error;
}

const later = (ms: number) => new Promise<null>(resolve => setTimeout(resolve, ms, null));

function lost({ reason, message }: GPUDeviceLostInfo): GpuLostError {
  const why = message || reason;
  return new GpuLostError(
    `the GPU was lost${why ? ` (${why.replace(/\.$/, '')})` : ''}, until the page is loaded or its worker started again`,
  );
}
