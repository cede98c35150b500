import { FileSource } from './byte-source-file.js';
import { decodeModel } from './decode.js';
import type { ModelInfo } from './model-info.js';

/** A model whose file stays open, so that its bytes can still be read. */
export interface ModelFile {
  readonly model: ModelInfo;
  close(): void;
}

/**
 * Opens a model file, reading neither weights nor external data. Node only.
 * @throws InputError when the file cannot be read or is not an ONNX model
 */
export function openModelFile(file: string): ModelFile {
  const source = new FileSource(file);
  try {
    return { model: decodeModel(source, { file }), close: () => source.close() };
  } catch (error) {
    source.close();
    throw error;
  }
}
