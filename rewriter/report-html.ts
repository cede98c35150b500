import { formatBytes, formatCount, formatDuration, formatError, plural } from './format.js';
import { type ModelHeader, maskOf } from './inspection.js';
import { html, type Markup } from './markup.js';
import {
  type AttentionCost,
  attributeGroups,
  changedOperators,
  environmentText,
  errorText,
  keyFacts,
  lengthTitle,
  type RewriteReport,
  ratio,
  VERDICT_TITLES,
  verdictOf,
  verdictOn,
} from './report.js';
import { dataTable, notes, renderPage, section } from './report-page.js';
import { plot, plots, type Series } from './report-plot.js';
import {
  type Difference,
  type LengthValidation,
  measuredReach,
  reachTitles,
  type Validation,
} from './validation.js';

/** A report as one self-contained HTML page. */
export function renderHtml(report: RewriteReport): string {
  const verdict = verdictOf(report);
  const { environment } = report;
  const file = report.input.file?.split(/[\\/]/).at(-1) ?? 'model';
  return renderPage({
    title: `Rewrite of ${file}`,
    kicker: `${report.tool.name} ${report.tool.version}`,
    heading: file,
    verdict: { ...VERDICT_SIGNS[verdict], text: VERDICT_TITLES[verdict] },
    facts: keyFacts(report),
    notices: report.notices,
    sections: [
      sitesSection(report),
      nearMissesSection(report),
      report.validation && validationSection(report.validation),
      report.validation && reachSection(report.validation),
      costSection(report),
      timingSection(report),
      metricsSection(report),
      attributesSection(report),
      operatorsSection(report),
      modelsSection(report.input, report.output),
    ],
    command: report.command,
    made: `${report.created}. ${environmentText(environment)}`,
  });
}

const VERDICT_SIGNS = {
  passed: { kind: 'good', sign: '✓' },
  failed: { kind: 'bad', sign: '✕' },
  'not-validated': { kind: 'neutral', sign: '!' },
  'not-written': { kind: 'neutral', sign: '○' },
} as const;

function sitesSection({ sites }: RewriteReport): Markup {
  if (sites.length === 0) return html`<section><h2>Sites</h2><p>No attention was found.</p></section>`;
  return section(
    'Sites',
    dataTable(
      'Attention sites, what was decided on each, and why',
      ['Site', 'Attention', 'Heads', 'Mask', 'Decision'],
      sites.map(site => [
        html`<code>${site.id}</code><small>${site.pattern}</small>`,
        html`${site.kind}${site.causal ? ', causal' : ''}<small>scale ${site.scale ?? 'unknown'}</small>`,
        html`${site.query_heads ?? '?'}${
          site.kv_heads === site.query_heads ? '' : html` / ${site.kv_heads ?? '?'}`
        } × ${site.head_dim ?? '?'}<small>${site.dtype ?? 'unknown type'}</small>`,
        html`${maskOf(site)}`,
        html`<span class="chip ${site.decision}">${site.operator ?? 'kept'}</span><small>${site.reason}</small>`,
      ]),
    ),
  );
}

function nearMissesSection({ near_misses }: RewriteReport): Markup | null {
  if (near_misses.length === 0) return null;
  return section(
    'Near misses',
    html`<p>Places that look like attention and match no pattern entirely. They are left as they are.</p>`,
    dataTable(
      'Near misses',
      ['Node', 'Nearest pattern', 'Reason'],
      near_misses.map(({ node, pattern, reason }) => [
        html`<code>${node}</code>`,
        html`${pattern}`,
        html`${reason}`,
      ]),
    ),
  );
}

function validationSection(validation: Validation): Markup {
  const { runtime, budgets } = validation;
  return section(
    'Accuracy',
    html`<p>Relative squared error against the original, on inputs: ${validation.inputs}. Isolated: the operator fed
the original's own query, key and value. Propagated: the same value inside the rewritten model.
Measured with ${runtime.name} ${runtime.version} on ${runtime.execution_provider}.</p>`,
    notes(validation.notes),
    ...validation.lengths.map(length => lengthSection(length, validation)),
    html`<p class="legend"><span class="swatch isolated"></span> isolated <span class="swatch propagated"></span> propagated
<span class="swatch budget"></span> budget of a site, ${formatError(budgets.max_error)}. Bars are logarithmic, from
${formatError(10 ** LEAST_EXPONENT)} to 1.</p>`,
  );
}

function lengthSection(length: LengthValidation, { budgets }: Validation): Markup {
  const title = lengthTitle(length);
  return html`<h3>At ${title} <span class="chip ${length.passed ? 'ok' : 'over'}">${length.passed ? 'passed' : 'failed'}</span></h3>
${dataTable(
  `Error of the outputs at ${title}`,
  ['Output', 'Error', 'Largest difference', 'Cosine', 'Within budget'],
  length.outputs.map(output => [
    html`<code>${output.name}</code>`,
    html`${errorText(output)}`,
    html`${formatError(output.max_abs_error)}`,
    html`${output.cosine?.toFixed(6) ?? '–'}`,
    verdictChip(output, budgets.max_output_error),
  ]),
)}
${
  length.sites.length === 0
    ? null
    : dataTable(
        `Error of each site at ${title}`,
        ['Site', 'Error', 'Isolated', 'Propagated', 'Within budget'],
        length.sites.map(({ id, details, note, rows_without_keys }) => [
          html`<code>${id}</code>${note && html`<small>${note}</small>`}${
            rows_without_keys > 0
              ? html`<small>${rows_without_keys} rows without keys left out</small>`
              : null
          }`,
          bars(details.isolated, details.propagated, budgets.max_error),
          html`${errorText(details.isolated)}`,
          html`${errorText(details.propagated)}`,
          verdictChip(details.isolated, budgets.max_error),
        ]),
      )
}`;
}

function verdictChip(measured: Difference | null, budget: number): Markup {
  const verdict = verdictOn(measured, budget);
  return html`<span class="chip ${VERDICT_CLASSES[verdict]}">${verdict}</span>`;
}

const VERDICT_CLASSES = { ok: 'ok', 'over budget': 'over', 'not measured': 'kept' } as const;

/** Errors are shown from 10^LEAST_EXPONENT to 1. */
const LEAST_EXPONENT = -6;

function bars(isolated: Difference | null, propagated: Difference | null, budget: number): Markup {
  const bar = (kind: string, measured: Difference | null) =>
    measured === null ? null : html`<span class="bar ${kind}" style="width:${barWidth(measured)}%"></span>`;
  return html`<div class="bars" aria-hidden="true">${bar('isolated', isolated)}${bar('propagated', propagated)}<span class="limit" style="left:${position(budget)}%"></span></div>`;
}

function barWidth(measured: Difference): string {
  return measured.relative_squared_error === null ? '100' : position(measured.relative_squared_error);
}

/** Percent along the logarithmic axis. */
function position(error: number): string {
  if (error === 0) return '0';
  const fraction = 1 - Math.log10(Math.max(error, 10 ** LEAST_EXPONENT)) / LEAST_EXPONENT;
  return (100 * Math.min(Math.max(fraction, 0.01), 1)).toFixed(1);
}

/** Where attention goes in the original: what a rewrite can and cannot summarize. */
function reachSection(validation: Validation): Markup | null {
  const measured = measuredReach(validation);
  if (measured === null) return null;
  const { length, sites } = measured;
  const farthest = Math.max(...sites.map(({ reach }) => reach.mass.findLastIndex(share => share > 0)));
  const titles = reachTitles().slice(0, farthest + 1);
  return section(
    'Local or long-range',
    html`<p>Where attention of the original goes at ${lengthTitle(length)}, by the distance between query and key in tokens:
means over all heads of up to ${Math.max(...sites.map(({ reach }) => reach.rows))} rows. Keys: how many would share attention evenly at the same entropy.</p>`,
    dataTable(
      'Share of attention by distance, for each site',
      ['Site', 'By distance', ...titles, 'Keys'],
      sites.map(({ id, reach }) => {
        const shares = reach.mass.slice(0, farthest + 1);
        return [
          html`<code>${id}</code>`,
          shareBar(shares),
          ...shares.map(share => html`${percent(share)}`),
          html`${reach.effective_keys.toPrecision(3)}`,
        ];
      }),
    ),
    html`<p class="legend">${titles.map((title, i) => html`<span class="legend-entry"><span class="swatch step-${i}"></span> ${title}</span> `)}</p>`,
  );
}

function shareBar(shares: readonly number[]): Markup {
  return html`<div class="shares" aria-hidden="true">${shares.map(
    (share, i) => html`<span class="step-${i}" style="width:${(100 * share).toFixed(2)}%"></span>`,
  )}</div>`;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}%`;
}

function costSection({ costs }: RewriteReport): Markup | null {
  if (costs.length === 0) return null;
  const sites = plural(costs[0]!.sites, 'site', 'sites');
  const series = (name: string, of: (cost: AttentionCost) => number): Series => ({
    name,
    mark: 'line',
    points: costs.map(cost => ({ x: cost.length, y: of(cost) })),
  });
  return section(
    'Cost of attention',
    html`<p>Multiply-adds of attention at ${sites}, one batch row, counted and not measured: what the rewrite could gain
there if all multiply-adds took the same time. Where data decides what is attended exactly, as much as it may be is
counted. The rest of the model is not.</p>`,
    plots(
      plot({
        title: 'Multiply-adds by length',
        description: 'Multiply-adds of attention by length, both logarithmic. The numbers are in the table.',
        x: { label: 'tokens', scale: 'log', ticks: costs.map(({ length }) => length), format: String },
        y: { label: 'multiply-adds', scale: 'log', format: value => value.toExponential(0).replace('+', '') },
        series: [
          series('original', ({ original }) => original),
          series('rewritten', ({ rewritten }) => rewritten),
        ],
      }),
      dataTable(
        'Multiply-adds of attention by length',
        ['Tokens', 'Original', 'Rewritten', 'Ratio'],
        costs.map(({ length, original, rewritten }) => [
          html`${length}`,
          html`${formatCount(original)}`,
          html`${formatCount(rewritten)}`,
          html`<strong>${ratio(original, rewritten, 'less', 'more')}</strong>`,
        ]),
      ),
    ),
  );
}

function timingSection({ timings }: RewriteReport): Markup | null {
  if (timings.length === 0) return null;
  return section(
    'Time and memory',
    html`<p>Medians of interleaved runs; memory is the peak of a process that loads the model and runs it once.</p>`,
    dataTable(
      'Time and memory, original and rewritten',
      ['Tokens', 'Original', 'Rewritten', 'Ratio', 'Peak before', 'Peak after', 'Runs'],
      timings.map(timing => [
        html`${timing.length}`,
        html`${formatDuration(timing.original_ms)}`,
        html`${formatDuration(timing.rewritten_ms)}`,
        html`<strong>${ratio(timing.original_ms, timing.rewritten_ms)}</strong>`,
        html`${timing.original_peak_bytes === null ? '–' : formatBytes(timing.original_peak_bytes)}`,
        html`${timing.rewritten_peak_bytes === null ? '–' : formatBytes(timing.rewritten_peak_bytes)}`,
        html`${timing.runs}`,
      ]),
    ),
  );
}

function metricsSection({ metrics }: RewriteReport): Markup | null {
  if (metrics.length === 0) return null;
  return section(
    'Metrics of the model',
    dataTable(
      'Metrics of the model, original and rewritten',
      ['Metric', 'Original', 'Rewritten', 'Change'],
      metrics.map(({ name, original, rewritten }) => [
        html`${name}`,
        html`${original.toFixed(4)}`,
        html`${rewritten.toFixed(4)}`,
        html`${signedPercent(rewritten / original - 1)}`,
      ]),
    ),
  );
}

function attributesSection(report: RewriteReport): Markup | null {
  const groups = attributeGroups(report);
  if (groups.length === 0) return null;
  return section(
    'Attributes',
    ...groups.map(
      ({ sites, operator, attributes }) => html`<details${groups.length === 1 ? html` open` : null}>
<summary>${operator} at ${plural(sites.length, 'site', 'sites')}</summary>
<p>${sites.map((site, i) => html`${i > 0 ? ', ' : ''}<code>${site}</code>`)}</p>
<dl class="attributes">${attributes.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
</details>`,
    ),
  );
}

function operatorsSection(report: RewriteReport): Markup {
  const changed = changedOperators(report);
  if (changed.length === 0) return section('Operators', html`<p>No node was changed.</p>`);
  return section(
    'Operators',
    dataTable(
      'Nodes by operator, where the number changed',
      ['Operator', 'Before', 'After', 'Change'],
      changed.map(({ type, before, after }) => [
        html`<code>${type}</code>`,
        html`${before}`,
        html`${after}`,
        html`${after > before ? '+' : '−'}${Math.abs(after - before)}`,
      ]),
    ),
  );
}

function modelsSection(input: ModelHeader, output: ModelHeader | null): Markup {
  const models = [
    { role: 'Original', model: input },
    ...(output === null ? [] : [{ role: 'Rewritten', model: output }]),
  ];
  return section(
    'Models',
    dataTable(
      'Model files',
      ['Model', 'File', 'IR', 'Opsets', 'Producer', 'Nodes', 'Initializers', 'External data'],
      models.map(({ role, model }) => [
        html`${role}`,
        html`<code>${model.file ?? ''}</code>`,
        html`${model.ir_version}`,
        html`${Object.entries(model.opsets)
          .map(([domain, version]) => `${domain} ${version}`)
          .join(', ')}`,
        html`${model.producer || '–'}`,
        html`${model.nodes}`,
        html`${formatBytes(model.initializers_bytes)}`,
        html`${model.external_data.join(', ') || 'none'}`,
      ]),
    ),
  );
}

function signedPercent(change: number): string {
  return `${change < 0 ? '−' : '+'}${(100 * Math.abs(change)).toFixed(2)}%`;
}
