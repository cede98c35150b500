import { basename } from 'node:path';
import { formatDuration, formatError, plural } from '../../rewriter/format.js';
import { html, type Markup } from '../../rewriter/markup.js';
import { environmentText } from '../../rewriter/report.js';
import { dataTable, type Fact, renderPage, section } from '../../rewriter/report-page.js';
import { type Axis, type Point, plot, plots } from '../../rewriter/report-plot.js';
import { describeRuntime } from '../runtime/describe-runtime.js';
import { mean } from '../statistics.js';
import { paretoBy } from './pareto.js';
import { describeForm, formKey } from './site-form.js';
import type { TunedSite, TuningReport } from './tuning.js';
import { budgetText, changeText, estimateText, estimateWithError, times } from './tuning-text.js';

/** Plans that cost more than this many times the budget are left out of plots: they would press the others flat. */
const SHOWN_BUDGETS = 2.5;
/** Plans of the frontier in its table, besides the chosen one. */
const SHOWN_PLANS = 8;
/** Forms of a site in its table; the others are in the JSON report. */
const SHOWN_FORMS = 12;

/** A tuning as one self-contained HTML page. */
export function renderTuningPage(report: TuningReport): string {
  const { tool, model, machine, created, command, notes, skipped } = report;
  const kept = report.plan.tuning.expected.loss_increase <= report.budget.limit;
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
  const { measured, expected, operation_ceiling } = report.plan.tuning;
  return [
    {
      label: report.metric.kind === 'loss' ? 'Loss on held-out data' : 'Error on held-out data',
      value: changeText(report, measured.loss_increase),
      detail:
        `standard error ${estimateText(report, measured.standard_error)}; by all windows ` +
        `${estimateWithError(report, expected)}; budget ${changeText(report, report.budget.limit)}`,
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

const SPEED: Axis = {
  label: 'times faster than exact attention',
  scale: 'linear',
  format: value => value.toFixed(1),
};

/** The axis of what plans cost, in percent of a loss. */
function costAxis({ metric }: TuningReport): Axis & { of(cost: number): number } {
  const isLoss = metric.kind === 'loss';
  return {
    label: isLoss ? 'loss increase, percent' : 'relative squared error',
    scale: 'linear',
    format: value => (isLoss ? `${value.toFixed(2)}%` : formatError(value)),
    of: cost => (isLoss ? 100 * cost : cost),
  };
}

function frontierSection(report: TuningReport): Markup {
  const cost = costAxis(report);
  const { frontier, tried, budget } = report;
  const { measured } = report.plan.tuning;
  const point = (outcome: (typeof tried)[number] | (typeof frontier)[number] | typeof measured): Point[] => {
    const { attention_speed, loss_increase } = outcome;
    if (attention_speed === null) return [];
    const error = 'standard_error' in outcome ? outcome.standard_error : null;
    const label = `${changeText(report, loss_increase)}${error === null ? '' : ` ± ${estimateText(report, error)}`} at ${times(attention_speed)}`;
    const place = { x: attention_speed, y: cost.of(loss_increase), label };
    if (error === null) return [place];
    return [{ ...place, range: [cost.of(loss_increase - error), cost.of(loss_increase + error)] }];
  };
  const shown = frontier.filter(({ loss_increase }) => loss_increase <= SHOWN_BUDGETS * budget.limit);
  // The plan was measured; what is faster and cheaper than it was only foretold, and is no plan yet.
  const unbeaten = paretoBy(
    shown,
    ({ ms }) => ms,
    ({ loss_increase }) => loss_increase,
  );
  const shownTrials = tried.filter(({ loss_increase }) => loss_increase <= SHOWN_BUDGETS * budget.limit);
  const left = frontier.length - shown.length + tried.length - shownTrials.length;
  return section(
    'Frontier',
    html`<p>The line joins plans that none found is both faster and cheaper than: what their sites add up to, corrected by
plans that were run as a whole. Whiskers are standard errors.${
      left > 0
        ? html` ${plural(left, 'faster plan', 'faster plans')} at more than ${SHOWN_BUDGETS} times the budget ${left === 1 ? 'is' : 'are'} left out.`
        : null
    }</p>`,
    plots(
      plot({
        title: `${report.metric.kind === 'loss' ? 'Loss increase' : 'Error'} against speed of attention`,
        description: `Plans from exact attention to ${times(shown[0]?.attention_speed ?? 1)} as fast; the chosen plan measured on held-out data.`,
        x: SPEED,
        y: cost,
        series: [
          { name: 'expected', mark: 'line', points: unbeaten.flatMap(point) },
          { name: 'run as a whole, to calibrate', mark: 'points', points: shownTrials.flatMap(point) },
          { name: 'the plan, on held-out data', mark: 'points', points: point(measured) },
        ],
        guides: [{ axis: 'y', at: cost.of(budget.limit), label: 'budget' }],
      }),
      headsPlot(report),
    ),
    dataTable(
      'Plans on the frontier',
      ['Cost', 'Attention', 'Model', 'Ceiling by multiply-adds'],
      shown
        .filter((plan, p) => plan.chosen || p % Math.ceil(shown.length / SHOWN_PLANS) === 0)
        .map(plan => [
          html`${changeText(report, plan.loss_increase)}${plan.chosen ? html` <span class="chip replaced">chosen</span>` : null}`,
          html`${times(plan.attention_speed)}`,
          html`${times(plan.speed)}`,
          html`${times(plan.operation_ceiling)}`,
        ]),
    ),
  );
}

/** Where the model is sensitive: what single heads would cost. */
function headsPlot(report: TuningReport): Markup | null {
  const cost = costAxis(report);
  const sites = report.sites.map(({ id, sensitivity }, s) => ({ id, s, heads: sensitivity?.heads ?? [] }));
  const heads = Math.max(...sites.map(site => site.heads.length));
  const positive = sites.flatMap(site => site.heads.filter(share => share > 0));
  if (positive.length === 0) return null;
  return plot({
    title: 'What single heads would cost, in the fastest form measured',
    description: `Cost by site and query head, from ${changeText(report, Math.min(...positive))} to ${changeText(report, Math.max(...positive))}.`,
    x: {
      label: 'site, in the order of the model',
      scale: 'linear',
      ticks: sites.map(({ s }) => s),
      format: value => `${value}`,
    },
    y: {
      ...cost,
      scale: 'log',
      format: value => `${Number(value.toPrecision(2))}${report.metric.kind === 'loss' ? '%' : ''}`,
    },
    series: Array.from({ length: heads }, (_, head) => ({
      name: `head ${head}`,
      mark: 'points' as const,
      points: sites.flatMap(({ id, s, heads: shares }) =>
        (shares[head] ?? 0) > 0
          ? [{ x: s, y: cost.of(shares[head]!), label: `${id}: ${changeText(report, shares[head]!)}` }]
          : [],
      ),
    })),
    guides: [{ axis: 'y', at: cost.of(report.budget.limit), label: 'budget of the model' }],
  });
}

function outcomeSection(report: TuningReport): Markup {
  const { predicted, measured, expected } = report.plan.tuning;
  const rows: [string, string, string][] = [
    [report.metric.name, estimateWithError(report, predicted), estimateWithError(report, measured)],
    ['Time of the model', formatDuration(predicted.ms), formatDuration(measured.ms)],
    ['Attention, against exact', times(predicted.attention_speed), times(measured.attention_speed)],
  ];
  return section(
    'Predicted and measured',
    html`<p>On windows that took no part in the choice of the plan; ± is one standard error. By all windows together, other
data of the kind is expected to see ${estimateWithError(report, expected)}.</p>`,
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
  const cost = costAxis(report);
  const forms = [...site.forms].sort((a, b) => a.ms - b.ms);
  const reasonable = forms.filter(
    ({ loss_increase }) => loss_increase <= SHOWN_BUDGETS * report.budget.limit,
  );
  const chosen = formKey(site);
  const points = (some: typeof forms): Point[] =>
    some.map(form => ({
      x: site.exact_ms / form.ms,
      y: cost.of(form.loss_increase),
      label: `${describeForm(form)}: ${changeText(report, form.loss_increase)} at ${times(site.exact_ms / form.ms)}`,
    }));
  const own = reasonable.filter(form => formKey(form) === chosen);
  const others = reasonable.filter(form => formKey(form) !== chosen);
  const cheap = [...own, ...others]
    .sort((a, b) => Number(b.measured) - Number(a.measured) || a.ms - b.ms)
    .slice(0, SHOWN_FORMS)
    .sort((a, b) => a.ms - b.ms);
  return section(
    site.id,
    html`<p>${forms.length} forms were looked at${
      forms.length > cheap.length ? `; the table has ${cheap.length} of them, the JSON report all` : ''
    }.</p>`,
    plots(
      plot({
        title: 'Forms by what they cost alone',
        description: `${reasonable.length} forms of ${site.id} by speed and cost.`,
        x: SPEED,
        y: cost,
        series: [
          {
            name: 'foretold from the error',
            mark: 'points',
            points: points(others.filter(one => !one.measured)),
          },
          { name: 'measured', mark: 'points', points: points(others.filter(one => one.measured)) },
          { name: 'chosen', mark: 'points', points: points(own) },
        ],
        guides: [{ axis: 'y', at: cost.of(report.budget.limit), label: 'budget of the model' }],
      }),
    ),
    html`<details><summary>Those that were measured, and the fastest others</summary>
${dataTable(
  `Forms of ${site.id}`,
  ['Form', 'Faster', 'Error of the site', 'Cost alone'],
  cheap.map(form => [
    html`${describeForm(form)}${formKey(form) === chosen ? html` <span class="chip replaced">chosen</span>` : null}`,
    html`${times(site.exact_ms / form.ms)}`,
    html`${formatError(mean(form.head_errors))}`,
    html`${changeText(report, form.loss_increase)}<small>${form.measured ? 'measured' : 'foretold'}</small>`,
  ]),
)}</details>`,
  );
}

function methodText({ data, metric, runtime, correction }: TuningReport): string {
  const length = data.length === null ? 'as they are' : `of ${data.length} tokens`;
  return (
    `${plural(data.calibration_windows, 'window', 'windows')} ${length} to calibrate on, ${data.held_out_windows} held out, seed ${data.seed}. ` +
    `Metric: ${metric.name}. Forms of a site were timed and compared with exact attention by themselves, on ` +
    `${plural(data.searched_windows, 'window', 'windows')}; what some of them, and single heads, do to the metric was ` +
    'measured by running the rest of the model, and what the others do is foretold from their errors. Whole plans, ' +
    `run on all windows to calibrate on, did ${correction.toFixed(2)} times what the divergences of their sites add up ` +
    `to. Runtime: ${describeRuntime(runtime)}. Times vary from run to run; everything else is determined by the seed.`
  );
}
