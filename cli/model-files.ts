import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { InputError } from '../rewriter/errors.js';

/**
 * The model files that a list of arguments names: files as they are, folders as all .onnx files inside.
 * @throws InputError for a folder without any
 */
export function modelFiles(paths: readonly string[]): string[] {
  return paths.flatMap(path => {
    if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) return [path];
    const files = readdirSync(path, { recursive: true, encoding: 'utf8' })
      .filter(name => name.endsWith('.onnx') && statSync(join(path, name)).isFile())
      .sort()
      .map(name => join(path, name));
    if (files.length > 0) return files;
    throw new InputError(`${path}: no .onnx files in this folder`, {
      file: path,
      remedy: 'Give a model file.',
    });
  });
}
