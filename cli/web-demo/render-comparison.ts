import { formatBytes, formatDuration, formatError } from '../../rewriter/format.js';
import { html, type Markup } from '../../rewriter/markup.js';
import { ratio } from '../../rewriter/report.js';
import { reachTitles } from '../../rewriter/validation.js';
import type { Comparison, Failure, Measurement } from './messages.js';

/** The result of a comparison as sections of the page. */
export function renderComparison(comparison: Comparison): Markup {
  return html`${summary(comparison)}${reachSection(comparison)}${sitesSection(comparison)}`;
}

const ran = (result: Measurement | Failure): Measurement | null => ('failure' in result ? null : result);

function summary(comparison: Comparison): Markup {
  const { name, length, inputs, sites } = comparison;
  const original = ran(comparison.original);
  const rewritten = ran(comparison.rewritten);
  const replaced = sites.filter(({ operator }) => operator !== null).length;
  return html`<section aria-labelledby="summary-title">
<h2 id="summary-title">${name}, ${length.toLocaleString('en')} tokens</h2>
${executionNotices(comparison)}
<dl class="facts">
${timeFact(original, rewritten)}
${memoryFact(original, rewritten)}
${errorFact(comparison)}
${lossFact(original, rewritten)}
</dl>
${pairs('Time of one run', original?.medianMs, rewritten?.medianMs, formatDuration)}
${pairs('GPU memory, the most at a time', original?.gpuBytes, rewritten?.gpuBytes, formatBytes)}
<p class="legend">${replaced} of ${sites.length} attention sites replaced.
${inputs === 'text' ? 'Both models read the same text.' : 'Both models were fed the same generated inputs: errors on your data may differ.'}
${rewritten ? kernelsNote(rewritten.execution) : null}
${original && rewritten ? runsNote(original, rewritten) : null}</p>
<p><button type="button" id="download">Download the rewritten model</button></p>
</section>`;
}

const kernelsNote = ({ provider, kernels, functionBodies }: Measurement['execution']) =>
  provider === 'webgpu'
    ? html`Of its operators, ${kernels} ran on WebGPU kernels of their own and ${functionBodies} as function bodies.`
    : html`Its ${functionBodies} operators ran as function bodies.`;

const runsNote = (original: Measurement, rewritten: Measurement) =>
  html`Times are medians of ${Math.min(original.runs, rewritten.runs)} runs, inputs and outputs in main memory; the first
runs${rewritten.execution.provider === 'webgpu' ? ', which compile kernels,' : ''} took ${formatDuration(original.firstMs)} and ${formatDuration(rewritten.firstMs)}.`;

/** Why models did not run as they should have. */
function executionNotices({ original, rewritten }: Comparison): Markup {
  const reasons = [original, rewritten].map(result => ran(result)?.execution.reason ?? null);
  if (reasons[0] !== null && reasons[0] === reasons[1]) {
    return html`<p class="notice">Both models ran on ${ran(original)!.execution.provider}: ${reasons[0]!}.</p>`;
  }
  return html`${executionNotice('original', original)}${executionNotice('rewritten', rewritten)}`;
}

function executionNotice(which: string, result: Measurement | Failure): Markup | null {
  if ('failure' in result) {
    return html`<p class="notice bad">The ${which} model did not run at this length: ${withoutOrigin(result.failure)}.</p>`;
  }
  const { provider, reason } = result.execution;
  return reason === null
    ? null
    : html`<p class="notice">The ${which} model ran on ${provider}: ${reason}.</p>`;
}

/** ONNX Runtime's own words, without the call, the source file and the codes that it puts in front of them. */
const withoutOrigin = (failure: string): string =>
  failure
    .replace(/^.*(\[ONNXRuntimeError\] : \d+ : \w+ : |ERROR_MESSAGE: )/s, '')
    .trim()
    .replace(/\.$/, '');

const fact = (label: string, value: string, detail: string) =>
  html`<div><dt>${label}</dt><dd><strong>${value}</strong><small>${detail}</small></dd></div>`;

function timeFact(original: Measurement | null, rewritten: Measurement | null): Markup | null {
  if (!rewritten) return null;
  if (!original) return fact('Time', formatDuration(rewritten.medianMs), 'the original did not run');
  return fact(
    'Time',
    ratio(original.medianMs, rewritten.medianMs),
    `${formatDuration(original.medianMs)} → ${formatDuration(rewritten.medianMs)}`,
  );
}

function memoryFact(original: Measurement | null, rewritten: Measurement | null): Markup | null {
  if (rewritten?.gpuBytes == null) return null;
  if (original?.gpuBytes == null)
    return fact('GPU memory', formatBytes(rewritten.gpuBytes), 'the most at a time');
  return fact(
    'GPU memory',
    ratio(original.gpuBytes, rewritten.gpuBytes, 'less', 'more'),
    `${formatBytes(original.gpuBytes)} → ${formatBytes(rewritten.gpuBytes)}`,
  );
}

function errorFact({ differences }: Comparison): Markup | null {
  const [output] = differences;
  if (!output) return null;
  return fact(
    `Error of ${output.name}`,
    formatError(output.relative_squared_error),
    `relative squared error; cosine ${output.cosine?.toFixed(6) ?? '–'}`,
  );
}

function lossFact(original: Measurement | null, rewritten: Measurement | null): Markup | null {
  if (original?.bitsPerByte == null || rewritten?.bitsPerByte == null) return null;
  const change = 100 * (rewritten.bitsPerByte / original.bitsPerByte - 1);
  return fact(
    'Loss on this text',
    Math.abs(change) < 0.005 ? 'the same' : `${change < 0 ? '−' : '+'}${Math.abs(change).toFixed(2)}%`,
    `${original.bitsPerByte.toFixed(4)} → ${rewritten.bitsPerByte.toFixed(4)} bits per byte`,
  );
}

/** Two bars on one scale. */
function pairs(
  title: string,
  original: number | null | undefined,
  rewritten: number | null | undefined,
  format: (value: number) => string,
): Markup | null {
  if (original == null || rewritten == null) return null;
  const most = Math.max(original, rewritten);
  const row = (label: string, value: number, kind: string) => html`<div class="pair">
<span>${label}</span><span class="track"><span class="fill ${kind}" style="width: ${((100 * value) / most).toFixed(1)}%"></span></span>
<span class="amount">${format(value)}</span></div>`;
  return html`<h3>${title}</h3>${row('original', original, 'second')}${row('rewritten', rewritten, 'accent')}`;
}

/** Where attention goes: stacked shares by distance, with the same numbers as a table. */
function reachSection({ sites }: Comparison): Markup | null {
  const measured = sites.flatMap(({ id, reach }) => (reach === null ? [] : [{ id, ...reach }]));
  if (measured.length === 0) return null;
  const titles = reachTitles().map((title, n) => ({ title, n }));
  // Distances that no query of a short text reaches have no share anywhere.
  const shown = titles.filter(({ n }) => measured.some(({ mass }) => mass[n]! > 0));
  const percent = (share: number) => `${(100 * share).toFixed(share < 0.01 ? 2 : 1)}%`;
  return html`<section aria-labelledby="reach-title">
<h2 id="reach-title">Where attention goes</h2>
<p>Share of the weight that queries give to keys, by their distance in tokens; a mean over ${measured[0]!.rows} queries and
all heads, with the queries and keys that the rewritten model computes. It attends to neighbors exactly, and to the far
rest through clusters.</p>
<p class="legend">${shown.map(({ title, n }) => html`<span class="key"><span class="swatch reach-${n}"></span>${title}</span> `)}</p>
<div class="stacks" aria-hidden="true">
${measured.map(
  ({ id, mass }) =>
    html`<div class="stack"><span>${id}</span><span class="track">${shown.map(
      ({ n }) => html`<span class="reach-${n}" style="width: ${(100 * mass[n]!).toFixed(2)}%"></span>`,
    )}</span></div>`,
)}
</div>
<details><summary>The same in numbers</summary>
<div class="scroll" tabindex="0" role="region" aria-label="Shares of attention by distance"><table>
<caption>Shares of attention by distance in tokens</caption>
<thead><tr><th scope="col">Site</th>${shown.map(({ title }) => html`<th scope="col">${title}</th>`)}<th scope="col">Effective keys</th></tr></thead>
<tbody>${measured.map(
    ({ id, mass, effective_keys }) =>
      html`<tr><th scope="row"><code>${id}</code></th>${shown.map(
        ({ title, n }) => html`<td data-title="${title}">${percent(mass[n]!)}</td>`,
      )}<td data-title="Effective keys">${effective_keys.toFixed(1)}</td></tr>`,
  )}</tbody>
</table></div></details>
</section>`;
}

function sitesSection({ sites }: Comparison): Markup {
  return html`<section aria-labelledby="sites-title">
<h2 id="sites-title">What was rewritten</h2>
<div class="scroll" tabindex="0" role="region" aria-label="Attention sites"><table>
<caption>Attention sites, and what became of them</caption>
<thead><tr><th scope="col">Site</th><th scope="col">Decision</th><th scope="col">Operator</th><th scope="col">Reason</th></tr></thead>
<tbody>${sites.map(({ id, operator, reason }) => {
    const decision = operator === null ? 'kept' : 'replaced';
    return html`<tr><th scope="row"><code>${id}</code></th>
<td data-title="Decision"><span class="chip ${decision}">${decision}</span></td>
<td data-title="Operator">${operator ?? '–'}</td><td data-title="Reason">${reason}</td></tr>`;
  })}</tbody>
</table></div>
</section>`;
}
