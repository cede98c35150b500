import { extname } from 'node:path';
import { InvalidArgumentError } from 'commander';
import { beginFile } from './pending-file.js';

/** A report file under way. */
export interface PendingReport<Report> {
  /** Writes the report, all or nothing. */
  finish(report: Report): void;
  /** Leaves nothing behind; without effect after `finish`. */
  discard(): void;
}

/** The forms in which one kind of report can be written; the extension of the file chooses. */
export class ReportForms<Report> {
  /** @param renderers text of a report, by extension with its dot */
  constructor(private readonly renderers: Readonly<Record<string, (report: Report) => string>>) {}

  /** Parser of the option that names a report file. */
  readonly parse = (file: string): string => {
    if (extname(file).toLowerCase() in this.renderers) return file;
    const extensions = Object.keys(this.renderers).join(', ');
    throw new InvalidArgumentError(`Expected a file name that ends in ${extensions}.`);
  };

  /**
   * Begins a report whose contents take long to get: a file that cannot be written is known at once.
   * @throws InputError for a folder, Error of the file system
   */
  begin(file: string): PendingReport<Report> {
    const pending = beginFile(file);
    return {
      finish: report => pending.finish(this.renderers[extname(file).toLowerCase()]!(report)),
      discard: pending.discard,
    };
  }

  /**
   * Writes a report, all or nothing.
   * @throws InputError for a folder, Error of the file system
   */
  write(report: Report, file: string): void {
    const pending = this.begin(file);
    try {
      pending.finish(report);
    } finally {
      pending.discard();
    }
  }
}
