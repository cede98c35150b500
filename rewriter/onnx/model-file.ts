import { FileSource } from './byte-source-file.js';
import { decodeModel } from './decode.js';
import { checkExternalData } from './external-data.js';
import type { ModelInfo } from './model-info.js';
import { SidecarFiles } from './sidecar-files.js';

/** A model whose files stay open, so that their bytes can still be read. */
export interface ModelFile {
  readonly file: string;
  readonly model: ModelInfo;
  readonly sidecars: SidecarFiles;
  close(): void;
}

/**
 * Opens a model file, reading neither weights nor external data, of which only the presence is checked.
 * Node only.
 * @throws InputError when the file cannot be read, is not an ONNX model, or lacks external data
 */
export function openModelFile(file: string): ModelFile {
  const source = new FileSource(file);
  const sidecars = new SidecarFiles(file);
  const close = () => {
    source.close();
    sidecars.close();
  };
  try {
    const model = decodeModel(source, { file, sidecars });
    checkExternalData(model);
    return { file, model, sidecars, close };
  } catch (error) {
    close();
    throw error;
  }
}
