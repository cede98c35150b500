import { randomBytes } from 'node:crypto';
import { mkdirSync, renameSync, rmdirSync, rmSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';

const open = new Set<FileTransaction>();

/** Undoes every transaction that is under way; for handlers of signals. */
export function rollbackAll(): void {
  for (const transaction of open) transaction.rollback();
}

/**
 * Output files that appear together or not at all: written under temporary names in their folders, renamed
 * when all are complete. Node only.
 */
export class FileTransaction {
  private readonly staged: { name: string; readonly target: string }[] = [];
  /** Deepest first. */
  private readonly folders: string[] = [];

  constructor() {
    open.add(this);
  }

  /** The name to write to, for a file that will be `target`; missing folders are made. */
  stage(target: string): string {
    this.makeFolder(dirname(target));
    const temporary = join(dirname(target), `.${basename(target)}.${randomBytes(6).toString('hex')}.tmp`);
    this.staged.push({ name: temporary, target });
    return temporary;
  }

  /**
   * Gives all files their names, in the order of staging, or none. Only the last one may replace an existing
   * file: undoing removes the ones before.
   */
  commit(): void {
    try {
      for (const file of this.staged) {
        renameSync(file.name, file.target);
        file.name = file.target;
      }
    } catch (error) {
      this.rollback();
      throw error;
    }
    open.delete(this);
  }

  /** Removes what was written so far; without effect after `commit` or a second time. */
  rollback(): void {
    if (!open.delete(this)) return;
    for (const { name } of this.staged) rmSync(name, { force: true });
    for (const folder of this.folders) removeIfEmpty(folder);
  }

  private makeFolder(folder: string): void {
    const first = mkdirSync(folder, { recursive: true });
    if (first === undefined) return;
    const made = [folder];
    while (made.at(-1) !== first) made.push(dirname(made.at(-1)!));
    this.folders.unshift(...made);
  }
}

/** Another program may have come to use a folder that was made here; then it stays. */
function removeIfEmpty(folder: string): void {
  try {
    rmdirSync(folder);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOTEMPTY' && code !== 'EEXIST' && code !== 'ENOENT') throw error;
  }
}
