import { closeSync, openSync, readSync, statSync } from 'node:fs';
import { InputError } from '../errors.js';
import { type ByteSource, checkRange } from './byte-source.js';

/** Small reads are served from a window of this size; large ones go to the file. */
const WINDOW = 16 * 1024;

/**
 * A file read in windows, so that memory does not depend on its size. It is opened when it is first read: a model
 * may have more files of external data than a process may open. Node only.
 */
export class FileSource implements ByteSource {
  readonly length: number;
  private descriptor: number | null = null;
  private window: Uint8Array = new Uint8Array(0);
  private windowStart = 0;

  /** @throws InputError when `file` is no regular file */
  constructor(private readonly file: string) {
    this.length = checkFile(file);
  }

  bytes(start: number, end: number): Uint8Array {
    checkRange(this, start, end);
    if (end - start > WINDOW) return this.read(start, end);
    if (start < this.windowStart || end > this.windowStart + this.window.length) {
      this.window = this.read(start, Math.min(start + WINDOW, this.length));
      this.windowStart = start;
    }
    return this.window.subarray(start - this.windowStart, end - this.windowStart);
  }

  close(): void {
    if (this.descriptor !== null) closeSync(this.descriptor);
    this.descriptor = null;
  }

  private read(start: number, end: number): Uint8Array {
    this.descriptor ??= attempt(this.file, () => openSync(this.file, 'r'));
    const bytes = new Uint8Array(end - start);
    for (let done = 0; done < bytes.length; ) {
      const count = readSync(this.descriptor, bytes, done, bytes.length - done, start + done);
      if (count === 0)
        throw new InputError(`${this.file}: the file became shorter while it was read`, { file: this.file });
      done += count;
    }
    return bytes;
  }
}

/** Looks before opening, since opening a pipe would wait for its writer. Returns the size. */
function checkFile(file: string): number {
  const stat = attempt(file, () => statSync(file));
  if (stat.isFile()) return stat.size;
  throw new InputError(`${file}: ${stat.isDirectory() ? 'a directory' : 'not a regular file'}`, {
    file,
    remedy: 'Give the path of a model file.',
  });
}

function attempt<T>(file: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const why = (code && REASONS[code]) ?? String(error);
    throw new InputError(`${file}: ${why}`, { file, remedy: 'Check the path.' }, { cause: error });
  }
}

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: 'no such file',
  ENOTDIR: 'no such file',
  EACCES: 'no permission to read it',
};
