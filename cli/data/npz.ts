import { unzipSync, zipSync } from 'fflate';
import { decodeNpy, encodeNpy } from './npy.js';
import type { TensorValue } from './tensor.js';

/**
 * The arrays of a NumPy archive (`np.savez` or `np.savez_compressed`) by name.
 * @throws Error with the reason when it is no archive of arrays; the message names the array
 */
export function decodeNpz(bytes: Uint8Array): Map<string, TensorValue> {
  const tensors = new Map<string, TensorValue>();
  for (const [file, content] of Object.entries(unzipSync(bytes))) {
    const name = file.replace(/\.npy$/, '');
    try {
      tensors.set(name, decodeNpy(content));
    } catch (error) {
      throw new Error(`array "${name}": ${(error as Error).message}`, { cause: error });
    }
  }
  return tensors;
}

/** Stores tensors as an uncompressed NumPy archive, which `np.load` can map into memory. */
export function encodeNpz(tensors: ReadonlyMap<string, TensorValue>): Uint8Array {
  const files: Record<string, Uint8Array> = {};
  for (const [name, tensor] of tensors) files[`${name}.npy`] = encodeNpy(tensor);
  return zipSync(files, { level: 0 });
}
