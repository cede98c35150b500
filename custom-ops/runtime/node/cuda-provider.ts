import { InputError } from '../../../rewriter/errors.js';

/**
 * What ONNX Runtime says when the CUDA provider, or a library of CUDA that it needs, cannot be loaded, as an error
 * with the remedy; undefined for other errors.
 */
export function cudaRefusal(error: unknown): InputError | undefined {
  const { message } = error as Error;
  if (!/onnxruntime_providers_(cuda|shared)|CUDA execution provider is not enabled/.test(message))
    return undefined;
  return new InputError(`the CUDA execution provider does not load: ${message}`, {
    remedy:
      'Fetch it with `npm rebuild onnxruntime-node --ignore-scripts=false --onnxruntime-node-install=cuda12`, and ' +
      'install CUDA 12 and cuDNN 9, their libraries on LD_LIBRARY_PATH; or leave out "cuda".',
  });
}
