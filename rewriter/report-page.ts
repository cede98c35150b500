import { html, type Markup } from './markup.js';
import { STYLE } from './report-style.js';

/** What every page of a report has around its sections. */
export interface Page {
  /** Title of the document, and of the window. */
  readonly title: string;
  /** A line over the heading. */
  readonly kicker: string;
  readonly heading: string;
  readonly verdict: PageVerdict | null;
  readonly facts: readonly Fact[];
  /** Anything that limits what the page shows. */
  readonly notices: readonly string[];
  readonly sections: readonly (Markup | null)[];
  /** The command line that made the page. */
  readonly command: string;
  /** When and on what machine, one sentence. */
  readonly made: string;
}

/** How it ended, in one line. */
export interface PageVerdict {
  readonly kind: 'good' | 'bad' | 'neutral';
  readonly sign: string;
  readonly text: string;
}

/** A fact in one line, for the head of a page. */
export interface Fact {
  readonly label: string;
  readonly value: string;
  readonly detail: string;
}

/** A self-contained HTML page: no scripts, no requests, light and dark, readable on a phone and on paper. */
export function renderPage(page: Page): string {
  const { verdict } = page;
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${page.title}</title>
<style>${STYLE}</style>
</head>
<body>
<header>
<p class="kicker">${page.kicker}</p>
<h1>${page.heading}</h1>
${verdict && html`<p class="verdict ${verdict.kind}"><span aria-hidden="true">${verdict.sign}</span> ${verdict.text}</p>`}
<dl class="facts">
${page.facts.map(
  ({
    label,
    value,
    detail,
  }) => html`<div><dt>${label}</dt><dd><strong>${value}</strong><small>${detail}</small></dd></div>
`,
)}</dl>
${notes(page.notices)}
</header>
<main>
${page.sections}
</main>
<footer>
<h2>How this was made</h2>
<pre>${page.command}</pre>
<p>${page.made}</p>
</footer>
</body>
</html>
`.text;
}

export function section(title: string, ...content: readonly (Markup | null)[]): Markup {
  return html`<section>
<h2>${title}</h2>
${content}
</section>`;
}

/**
 * A table whose rows become cards on narrow screens. Roles are spelled out because browsers drop those of table
 * elements that are laid out otherwise. The first cell of a row is its header.
 */
export function dataTable(
  caption: string,
  titles: readonly string[],
  rows: readonly (readonly Markup[])[],
): Markup {
  return html`<div class="scroll" role="region" aria-label="${caption}" tabindex="0"><table role="table">
<caption>${caption}</caption>
<thead role="rowgroup"><tr role="row">${titles.map(title => html`<th role="columnheader" scope="col">${title}</th>`)}</tr></thead>
<tbody role="rowgroup">
${rows.map(
  ([first, ...rest]) => html`<tr role="row"><th role="rowheader" scope="row">${first!}</th>${rest.map(
    (cell, i) => html`<td role="cell" data-title="${titles[i + 1]!}"><div>${cell}</div></td>`,
  )}</tr>
`,
)}</tbody>
</table></div>`;
}

export function notes(texts: readonly string[]): Markup | null {
  return texts.length === 0
    ? null
    : html`<ul class="notes">${texts.map(text => html`<li>${text}</li>`)}</ul>`;
}
