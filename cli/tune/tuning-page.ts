import { basename } from 'node:path';
import { formatDuration, formatError } from '../../rewriter/format.js';
import { html, type Markup } from '../../rewriter/markup.js';
import { environmentText } from '../../rewriter/report.js';
import { dataTable, type Fact, renderPage, section } from '../../rewriter/report-page.js';
import { plot, plots } from '../../rewriter/report-plot.js';
import { describeRuntime } from '../runtime/describe-runtime.js';
import { describeForm } from './site-form.js';
import type { TunedSite, TuningReport } from './tuning.js';
import { budgetText, changeText, times } from './tuning-text.js';

/** A tuning as one self-contained HTML page. */
export function renderTuningPage(report: TuningReport): string {
  const { tool, model, machine, created, command, notes, skipped } = report;
  const { measured } = report.plan.tuning;
  const kept = measured.loss_increase <= report.budget.limit;
  return renderPage({
    title: `Tuning of ${basename(model)}`,
    kicker: `${tool.name} ${tool.version}`,
    heading: basename(model),
    verdict: kept
      ? { kind: 'good', sign: '✓', text: `Within the budget: ${budgetText(report)}` }
      : { kind: 'bad', sign: '✕', text: `Over the budget: ${budgetText(report)}` },
    facts: keyFacts(report),
    notices: [...notes, ...skipped.map(({ id, reason }) => `${id} is not tuned: ${reason}`)],
    sections: [
      frontierSection(report),
      outcomeSection(report),
      sitesSection(report),
      ...report.sites.map(site => formsSection(report, site)),
      section('How it was measured', html`<p>${methodText(report)}</p>`),
    ],
    command,
    made: `${created}. ${environmentText(machine)}`,
  });
}

function keyFacts(report: TuningReport): Fact[] {
  const { measured, operation_ceiling } = report.plan.tuning;
  return [
    {
      label: report.metric.kind === 'loss' ? 'Loss on held-out data' : 'Error on held-out data',
      value: changeText(report, measured.loss_increase),
      detail: `budget ${changeText(report, report.budget.limit)}`,
    },
    {
      label: 'Attention, against exact',
      value: times(measured.attention_speed),
      detail: `fused exact attention; by multiply-adds at most ${times(operation_ceiling)}`,
    },
    {
      label: 'Model, against the original',
      value: times(measured.speed),
      detail: `${formatDuration(report.baseline.original_ms)} → ${formatDuration(measured.ms)}`,
    },
  ];
}

function frontierSection(report: TuningReport): Markup {
  const isLoss = report.metric.kind === 'loss';
  const scaled = (value: number) => (isLoss ? 100 * value : value);
  const { measured } = report.plan.tuning;
  const points = report.frontier.flatMap(point =>
    point.attention_speed === null
      ? []
      : [{ x: point.attention_speed, y: scaled(point.loss_increase), chosen: point.chosen }],
  );
  const measuredPoint =
    measured.attention_speed === null
      ? []
      : [{ x: measured.attention_speed, y: scaled(measured.loss_increase) }];
  return section(
    'Frontier',
    html`<p>No plan that was found is faster at the same cost. Speeds are those of attention alone, against fused
exact attention. What single sites cost is added up and corrected by running the chosen plan as a whole.</p>`,
    plots(
      plot({
        title: isLoss ? 'Loss increase against speed of attention' : 'Error against speed of attention',
        description: `Plans from exact attention to ${times(points[0]?.x ?? 1)} as fast; the chosen plan measured on held-out data.`,
        x: { label: 'times faster than exact attention', scale: 'linear', format: value => value.toFixed(1) },
        y: {
          label: isLoss ? 'loss increase, percent' : 'relative squared error',
          scale: 'linear',
          format: value => (isLoss ? `${value.toFixed(2)}%` : formatError(value)),
        },
        series: [
          { name: 'expected', mark: 'line', points },
          { name: 'the plan, expected', mark: 'points', points: points.filter(({ chosen }) => chosen) },
          { name: 'the plan, on held-out data', mark: 'points', points: measuredPoint },
        ],
        guides: [{ axis: 'y', at: scaled(report.budget.limit), label: 'budget' }],
      }),
    ),
    dataTable(
      'Plans on the frontier',
      ['Cost', 'Attention', 'Model', 'Ceiling by multiply-adds'],
      report.frontier.map(point => [
        html`${changeText(report, point.loss_increase)}${point.chosen ? html` <span class="chip replaced">chosen</span>` : null}`,
        html`${times(point.attention_speed)}`,
        html`${times(point.speed)}`,
        html`${times(point.operation_ceiling)}`,
      ]),
    ),
  );
}

function outcomeSection(report: TuningReport): Markup {
  const { predicted, measured } = report.plan.tuning;
  const rows: [string, string, string][] = [
    [
      report.metric.name,
      changeText(report, predicted.loss_increase),
      `${changeText(report, measured.loss_increase)}, standard error ${changeText(report, measured.standard_error)}`,
    ],
    ['Time of the model', formatDuration(predicted.ms), formatDuration(measured.ms)],
    ['Attention, against exact', times(predicted.attention_speed), times(measured.attention_speed)],
  ];
  return section(
    'Predicted and measured',
    dataTable(
      'The plan on data that took no part in its choice',
      ['What', 'Predicted', 'Measured'],
      rows.map(([what, before, after]) => [html`${what}`, html`${before}`, html`${after}`]),
    ),
  );
}

function sitesSection(report: TuningReport): Markup {
  return section(
    'Sites',
    dataTable(
      'What was chosen for each site',
      ['Site', 'Chosen', 'Time', 'Faster', 'Ceiling', 'Cost', 'Sensitivity'],
      report.sites.map(site => [
        html`<code>${site.id}</code>`,
        html`${describeForm(site)}`,
        html`${formatDuration(site.ms)}<small>exact ${formatDuration(site.exact_ms)}</small>`,
        html`${times(site.exact_ms / site.ms)}`,
        html`${times(site.operation_ceiling)}`,
        html`${changeText(report, site.loss_increase)}`,
        site.sensitivity === null
          ? html`–`
          : html`${changeText(report, site.sensitivity.loss_increase)}<small>at ${times(site.exact_ms / site.sensitivity.ms)}</small>`,
      ]),
    ),
  );
}

function formsSection(report: TuningReport, site: TunedSite): Markup {
  const forms = [...site.forms].sort((a, b) => a.ms - b.ms);
  return section(
    site.id,
    dataTable(
      `Forms of ${site.id}`,
      ['Form', 'Faster', 'Error of the site', 'Cost alone'],
      forms.map(form => [
        html`${describeForm(form)}`,
        html`${times(site.exact_ms / form.ms)}`,
        html`${formatError(form.error)}`,
        html`${form.change === null ? 'not measured' : changeText(report, form.change.mean)}`,
      ]),
    ),
  );
}

function methodText({ data, metric, runtime }: TuningReport): string {
  const length = data.length === null ? 'as they are' : `of ${data.length} tokens`;
  return (
    `${data.calibration_windows} windows ${length} to calibrate on, ${data.held_out_windows} held out, seed ${data.seed}. ` +
    `Metric: ${metric.name}. Each form of a site was timed by itself in turns with exact attention, and what it ` +
    `alone does to the metric measured by running the rest of the model. Runtime: ${describeRuntime(runtime)}. ` +
    'Times vary from run to run; everything else is determined by the seed.'
  );
}
