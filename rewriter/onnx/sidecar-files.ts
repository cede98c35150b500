import { realpathSync } from 'node:fs';
import { dirname, isAbsolute, join, relative, sep } from 'node:path';
import { InputError } from '../errors.js';
import type { ByteSource } from './byte-source.js';
import { FileSource } from './byte-source-file.js';
import { checkLocation } from './external-data.js';
import type { Sidecars } from './model-info.js';

/**
 * The external data files beside a model file. Node only.
 *
 * Symbolic links may lead anywhere inside the folder of the model, or inside the folder that the model file
 * itself is a link into: caches that keep all files of a download in one place do that.
 */
export class SidecarFiles implements Sidecars {
  private readonly sources = new Map<string, FileSource>();

  constructor(private readonly modelFile: string) {}

  open(location: string): ByteSource {
    const known = this.sources.get(location);
    if (known) return known;
    const source = new FileSource(this.path(location));
    this.sources.set(location, source);
    return source;
  }

  /**
   * The real path of the file at `location`.
   * @throws InputError when it is missing or outside
   */
  path(location: string): string {
    checkLocation(location, this.modelFile);
    const named = join(dirname(this.modelFile), location);
    let real: string;
    try {
      real = realpathSync(named);
    } catch (error) {
      throw new InputError(
        `${this.modelFile}: external data file '${location}' is missing`,
        { file: this.modelFile, remedy: `Put it at ${named}, under the name that the model gives it.` },
        { cause: error },
      );
    }
    const folders = [realpathSync(dirname(this.modelFile)), dirname(realpathSync(this.modelFile))];
    if (folders.some(folder => contains(folder, real))) return real;
    throw new InputError(
      `${this.modelFile}: external data file '${location}' is a link that leaves the folder of the model`,
      { file: this.modelFile, remedy: 'Replace the link by the file.' },
    );
  }

  close(): void {
    for (const source of this.sources.values()) source.close();
    this.sources.clear();
  }
}

/** Whether `file` is `folder` or inside it; both are real paths. */
export function contains(folder: string, file: string): boolean {
  const path = relative(folder, file);
  return path !== '..' && !path.startsWith(`..${sep}`) && !isAbsolute(path);
}
