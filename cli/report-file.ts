import type { RewriteReport } from '../rewriter/report.js';
import { renderHtml } from '../rewriter/report-html.js';
import { renderMarkdown } from '../rewriter/report-markdown.js';
import { ReportForms } from './report-forms.js';

const FORMS = new ReportForms<RewriteReport>({
  '.html': renderHtml,
  '.md': renderMarkdown,
  '.json': report => `${JSON.stringify(report, null, 2)}\n`,
});

/** Parser of the option that names the report of a rewrite. */
export const reportFile = FORMS.parse;

/** Writes the report of a rewrite in the form that the extension of `file` asks for, all or nothing. */
export function writeReport(report: RewriteReport, file: string): void {
  FORMS.write(report, file);
}
