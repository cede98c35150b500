import { statSync, writeFileSync } from 'node:fs';
import { InputError } from '../rewriter/errors.js';
import { FileTransaction } from '../rewriter/onnx/file-transaction.js';

/** An output file under way. */
export interface PendingFile {
  /** Writes the file, all or nothing. */
  finish(text: string): void;
  /** Leaves nothing behind; without effect after `finish`. */
  discard(): void;
}

/**
 * Begins a file whose contents take long to get: one that cannot be written is known at once.
 * @throws InputError for a folder, Error of the file system
 */
export function beginFile(file: string): PendingFile {
  if (statSync(file, { throwIfNoEntry: false })?.isDirectory()) {
    throw new InputError(`${file}: this is a folder`, { file, remedy: 'Give the path of a file.' });
  }
  const transaction = new FileTransaction();
  try {
    const staged = transaction.stage(file);
    writeFileSync(staged, '');
    return {
      finish: text => {
        writeFileSync(staged, text);
        transaction.commit();
      },
      discard: () => transaction.rollback(),
    };
  } catch (error) {
    transaction.rollback();
    // The user knows nothing of temporary names.
    throw error instanceof Error ? Object.assign(error, { path: file }) : error;
  }
}
