import { formatBytes, formatCount, formatDuration, formatError, plural } from './format.js';
import { type ModelHeader, maskOf } from './inspection.js';
import {
  attributeGroups,
  changedOperators,
  errorText,
  keyFacts,
  lengthTitle,
  type RewriteReport,
  ratio,
  VERDICT_TITLES,
  verdictOf,
  verdictOn,
} from './report.js';
import { measuredReach, reachTitles, type Validation, within } from './validation.js';

/** A report as GitHub-flavored Markdown. */
export function renderMarkdown(report: RewriteReport): string {
  const sections = [
    `# Rewrite of ${escapeMarkdown(report.input.file ?? 'a model')}`,
    `**${VERDICT_TITLES[verdictOf(report)]}**`,
    keyFacts(report)
      .map(({ label, value, detail }) => `- ${label}: **${value}** (${detail})`)
      .join('\n'),
    ...report.notices.map(notice => `> ${escapeMarkdown(notice)}`),
    '## Sites',
    renderSites(report),
    ...renderNearMisses(report),
    ...renderAttributes(report),
    ...(report.validation ? renderValidation(report.validation) : []),
    ...renderCosts(report),
    ...renderTimings(report),
    ...renderMetrics(report),
    '## Operators',
    renderOperators(report),
    '## Models',
    renderModels(report.input, report.output),
    '## Environment',
    renderEnvironment(report),
  ];
  return `${sections.join('\n\n')}\n`;
}

function renderSites({ sites }: RewriteReport): string {
  if (sites.length === 0) return 'No attention was found.';
  return table(
    ['site', 'pattern', 'heads', 'mask', 'decision', 'reason', 'error'],
    sites.map(site => [
      site.id,
      site.pattern,
      `${site.query_heads ?? '?'}/${site.kv_heads ?? '?'} x ${site.head_dim ?? '?'}`,
      maskOf(site),
      site.operator ?? site.decision,
      site.reason,
      formatError(site.error),
    ]),
  );
}

function renderNearMisses({ near_misses }: RewriteReport): string[] {
  if (near_misses.length === 0) return [];
  const rows = near_misses.map(({ node, pattern, reason }) => [node, pattern, reason]);
  return ['## Near misses', table(['node', 'nearest pattern', 'reason'], rows)];
}

function renderAttributes(report: RewriteReport): string[] {
  const groups = attributeGroups(report);
  if (groups.length === 0) return [];
  return [
    '## Attributes',
    groups
      .map(({ sites, operator, attributes }) => {
        const values = attributes.map(([name, value]) => `\`${name}=${value}\``).join(' ');
        return `- ${sites.map(escapeMarkdown).join(', ')}: ${operator} ${values}`;
      })
      .join('\n'),
  ];
}

function renderValidation(validation: Validation): string[] {
  const { budgets, runtime } = validation;
  return [
    '## Validation',
    `Inputs: ${escapeMarkdown(validation.inputs)}. Runtime: ${runtime.name} ${runtime.version} (${runtime.execution_provider}). ` +
      'Errors are relative squared errors.',
    ...validation.notes.map(note => `> ${escapeMarkdown(note)}`),
    ...validation.lengths.flatMap(length => [
      `### ${capitalize(lengthTitle(length))}: ${length.passed ? 'passed' : 'failed'}`,
      table(
        ['output', 'error', 'largest difference', 'cosine', `budget ${budgets.max_output_error}`],
        length.outputs.map(output => [
          output.name,
          errorText(output),
          formatError(output.max_abs_error),
          output.cosine?.toFixed(6) ?? '–',
          within(output, budgets.max_output_error) ? 'ok' : 'over budget',
        ]),
      ),
      ...(length.sites.length === 0
        ? []
        : [
            table(
              ['site', 'isolated', 'propagated', 'rows without keys', `budget ${budgets.max_error}`, 'note'],
              length.sites.map(({ id, details, rows_without_keys, note }) => [
                id,
                errorText(details.isolated),
                errorText(details.propagated),
                String(rows_without_keys),
                verdictOn(details.isolated, budgets.max_error),
                note ?? '',
              ]),
            ),
          ]),
    ]),
    ...renderReach(validation),
  ];
}

function renderReach(validation: Validation): string[] {
  const measured = measuredReach(validation);
  if (measured === null) return [];
  return [
    `### Where attention of the original goes at ${lengthTitle(measured.length)}, by distance in tokens`,
    table(
      ['site', ...reachTitles(), 'keys'],
      measured.sites.map(({ id, reach }) => [
        id,
        ...reach.mass.map(share => `${(100 * share).toFixed(1)}%`),
        reach.effective_keys.toPrecision(3),
      ]),
    ),
  ];
}

function renderCosts({ costs }: RewriteReport): string[] {
  if (costs.length === 0) return [];
  return [
    `## Cost of attention: multiply-adds of ${plural(costs[0]!.sites, 'site', 'sites')}, one batch row`,
    table(
      ['tokens', 'original', 'rewritten', 'ratio'],
      costs.map(({ length, original, rewritten }) => [
        String(length),
        formatCount(original),
        formatCount(rewritten),
        ratio(original, rewritten, 'less', 'more'),
      ]),
    ),
  ];
}

function renderTimings({ timings }: RewriteReport): string[] {
  if (timings.length === 0) return [];
  return [
    '## Time and memory',
    table(
      ['tokens', 'original', 'rewritten', 'ratio', 'peak memory before', 'peak memory after', 'runs'],
      timings.map(timing => [
        String(timing.length),
        formatDuration(timing.original_ms),
        formatDuration(timing.rewritten_ms),
        ratio(timing.original_ms, timing.rewritten_ms),
        timing.original_peak_bytes === null ? '–' : formatBytes(timing.original_peak_bytes),
        timing.rewritten_peak_bytes === null ? '–' : formatBytes(timing.rewritten_peak_bytes),
        String(timing.runs),
      ]),
    ),
  ];
}

function renderMetrics({ metrics }: RewriteReport): string[] {
  if (metrics.length === 0) return [];
  const rows = metrics.map(({ name, original, rewritten }) => [
    name,
    original.toFixed(4),
    rewritten.toFixed(4),
  ]);
  return ['## Metrics of the model', table(['metric', 'original', 'rewritten'], rows)];
}

function renderOperators(report: RewriteReport): string {
  const changed = changedOperators(report);
  if (changed.length === 0) return 'No node was changed.';
  return table(
    ['operator', 'before', 'after'],
    changed.map(({ type, before, after }) => [type, String(before), String(after)]),
  );
}

function renderModels(input: ModelHeader, output: ModelHeader | null): string {
  return table(
    ['file', 'IR', 'opsets', 'producer', 'nodes', 'initializers', 'external data'],
    [input, ...(output === null ? [] : [output])].map(model => [
      model.file ?? '',
      String(model.ir_version),
      Object.entries(model.opsets)
        .map(([domain, version]) => `${domain} ${version}`)
        .join(', '),
      model.producer,
      String(model.nodes),
      formatBytes(model.initializers_bytes),
      model.external_data.join(', ') || 'none',
    ]),
  );
}

function renderEnvironment({ command, environment, tool, created }: RewriteReport): string {
  return [
    command.replace(/^/gm, '    '),
    `${tool.name} ${tool.version}, ${created}, Node ${environment.node} on ${environment.platform}, ` +
      `${environment.cpu} (${environment.cores} cores, ${formatBytes(environment.memory_bytes)})`,
  ].join('\n\n');
}

function table(titles: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.map(escapeMarkdown).join(' | ')} |`;
  return [line(titles), `|${' --- |'.repeat(titles.length)}`, ...rows.map(line)].join('\n');
}

/** Names of a model may hold anything, markup included. */
function escapeMarkdown(text: string): string {
  return text.replace(/[\\`*_<>|#[\]]/g, '\\$&').replace(/\s*\n\s*/g, ' ');
}

function capitalize(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
