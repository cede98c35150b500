/** A tensor that the device cannot hold, found before anything was allocated. */
export class GpuLimitError extends Error {
  override readonly name = 'GpuLimitError';

  constructor(
    /** What the tensor is, for instance `logits of MultipoleAttention`. */
    readonly tensor: string,
    readonly bytes: number,
    readonly limit: 'maxStorageBufferBindingSize' | 'maxBufferSize',
    readonly allowed: number,
  ) {
    super(
      `${tensor} takes ${bytes} bytes, more than the ${allowed} bytes of this device's ${limit}: ` +
        'shorten the input, lower the batch, or run the model on wasm',
    );
  }
}

/** The GPU ran out of memory. */
export class GpuMemoryError extends Error {
  override readonly name = 'GpuMemoryError';
}

/** The GPU went away: its driver was reset, the browser took it back, or someone destroyed the device. */
export class GpuLostError extends Error {
  override readonly name = 'GpuLostError';
}
