import { writeFileSync } from 'node:fs';
import { extname } from 'node:path';
import { InvalidArgumentError } from 'commander';
import { FileTransaction } from '../rewriter/onnx/file-transaction.js';
import type { RewriteReport } from '../rewriter/report.js';
import { renderHtml } from '../rewriter/report-html.js';
import { renderMarkdown } from '../rewriter/report-markdown.js';

const RENDERERS: Readonly<Record<string, (report: RewriteReport) => string>> = {
  '.html': renderHtml,
  '.md': renderMarkdown,
  '.json': report => `${JSON.stringify(report, null, 2)}\n`,
};

/** Parser of the option that names a report file; its extension chooses the form. */
export function reportFile(file: string): string {
  if (extname(file).toLowerCase() in RENDERERS) return file;
  throw new InvalidArgumentError(`Expected a file name that ends in ${Object.keys(RENDERERS).join(', ')}.`);
}

/** Writes a report in the form that the extension of `file` asks for, all or nothing. */
export function writeReport(report: RewriteReport, file: string): void {
  const text = RENDERERS[extname(file).toLowerCase()]!(report);
  const transaction = new FileTransaction();
  try {
    writeFileSync(transaction.stage(file), text);
    transaction.commit();
  } catch (error) {
    transaction.rollback();
    throw error;
  }
}
