import { formatDuration, plural } from '../../rewriter/format.js';
import { describeRuntime } from '../runtime/describe-runtime.js';
import { colors, table } from '../terminal.js';
import { describeForm } from './site-form.js';
import type { FrontierPoint, Tuning } from './tuning.js';
import { budgetText, changeText, estimateWithError, times } from './tuning-text.js';

/** A tuning for the terminal. */
export function renderTuning(tuning: Tuning, output: string | null): string {
  return [
    ...heading(tuning),
    '',
    sitesTable(tuning),
    '',
    `${colors.bold('Frontier')}: what plans are expected to cost and to gain`,
    frontierTable(tuning),
    '',
    `${colors.bold('The plan')}, checked on ${plural(tuning.data.held_out_windows, 'window', 'windows')} held out`,
    outcomeTable(tuning),
    '',
    ...conclusion(tuning, output),
  ].join('\n');
}

function heading(tuning: Tuning): string[] {
  const { data, metric, baseline, runtime } = tuning;
  const value = metric.kind === 'loss' ? `, ${baseline.metric.toFixed(4)} with exact attention` : '';
  return [
    `${tuning.model}: the fastest plan with ${budgetText(tuning)}`,
    `${plural(data.calibration_windows, 'window', 'windows')} to calibrate on and ${data.held_out_windows} held out, ` +
      `${data.length === null ? 'as they are' : `${data.length} tokens each`}, seed ${data.seed}`,
    `Metric: ${metric.name}${value}`,
    `Runtime: ${describeRuntime(runtime)}`,
    `Original ${formatDuration(baseline.original_ms)}; with exact attention fused ` +
      `${formatDuration(baseline.exact_ms)}, ${formatDuration(baseline.attention_ms)} of it attention`,
    ...tuning.skipped.map(({ id, reason }) => `${id} is not tuned: ${reason}`),
    ...tuning.notes.map(text => colors.yellow(`note: ${text}`)),
  ];
}

function sitesTable(tuning: Tuning): string {
  const total = tuning.sites.reduce((sum, site) => sum + site.ms, 0);
  return table(
    [
      { title: 'site' },
      { title: 'chosen' },
      { title: 'time', align: 'right' },
      { title: 'exact', align: 'right' },
      { title: 'share', align: 'right' },
      { title: 'faster', align: 'right' },
      { title: 'ceiling', align: 'right' },
      { title: 'cost', align: 'right' },
      { title: 'sensitivity', align: 'right' },
    ],
    tuning.sites.map(site => [
      site.id,
      describeForm(site),
      formatDuration(site.ms),
      formatDuration(site.exact_ms),
      `${Math.round((100 * site.ms) / total)}%`,
      times(site.exact_ms / site.ms),
      times(site.operation_ceiling),
      changeText(tuning, site.loss_increase),
      site.sensitivity === null
        ? '–'
        : `${changeText(tuning, site.sensitivity.loss_increase)} at ${times(site.exact_ms / site.sensitivity.ms)}`,
    ]),
  );
}

function frontierTable(tuning: Tuning): string {
  return table(
    [
      { title: '' },
      { title: 'cost', align: 'right' },
      { title: 'model', align: 'right' },
      { title: 'attention', align: 'right' },
      { title: 'ceiling', align: 'right' },
    ],
    tuning.frontier.map(point => [
      point.chosen ? colors.green('chosen') : '',
      changeText(tuning, point.loss_increase),
      times(point.speed),
      times(point.attention_speed),
      times(point.operation_ceiling),
    ]),
  );
}

function outcomeTable(tuning: Tuning): string {
  const { predicted, measured, operation_ceiling } = tuning.plan.tuning;
  return table(
    [{ title: '' }, { title: 'predicted', align: 'right' }, { title: 'measured', align: 'right' }],
    [
      [
        tuning.metric.kind === 'loss' ? 'loss increase' : 'error',
        estimateWithError(tuning, predicted),
        estimateWithError(tuning, measured),
      ],
      ['time of the model', formatDuration(predicted.ms), formatDuration(measured.ms)],
      ['against the original', times(predicted.speed), times(measured.speed)],
      ['attention alone, against exact', times(predicted.attention_speed), times(measured.attention_speed)],
      ['ceiling by multiply-adds', times(operation_ceiling), ''],
    ],
  );
}

function conclusion(tuning: Tuning, output: string | null): string[] {
  const { measured, expected } = tuning.plan.tuning;
  const lines: string[] = [];
  const approximated = tuning.sites.some(({ exact }) => !exact);
  if (approximated) {
    lines.push(
      `By all windows together, other data of the kind is expected to see ${estimateWithError(tuning, expected)}.`,
    );
  }
  if (measured.rejected > 0) {
    lines.push(
      `${measured.rejected} faster ${measured.rejected === 1 ? 'plan was' : 'plans were'} over the budget once run on the windows held out.`,
    );
  }
  if (approximated && tuning.sites.some(({ causal }) => causal)) {
    lines.push('Causal sites choose by earlier tokens only: forms that look ahead were not considered.');
  }
  if (!approximated) lines.push('No approximation keeps the budget and pays: the plan is exact attention.');
  const faster = nextFaster(tuning);
  if (faster !== null) {
    const now = tuning.frontier.find(({ chosen }) => chosen)!;
    lines.push(
      `The next budget: ${changeText(tuning, faster.loss_increase)} would make attention ` +
        `${times(faster.attention_speed)} as fast instead of ${times(now.attention_speed)}.`,
    );
  }
  lines.push(
    output === null
      ? 'No plan was written: name one with -o.'
      : `Wrote ${output}. Apply it: onnx-rewrite rewrite ${tuning.model} -o OUT.onnx --plan ${output} --inputs FILE --length ${tuning.data.length ?? 'N'}`,
  );
  return lines;
}

/** Gains below this are not worth telling. */
const TELLING_GAIN = 1.1;

/** The cheapest plan that is clearly faster than the chosen one. */
function nextFaster({ frontier }: Tuning): FrontierPoint | null {
  const chosen = frontier.findIndex(point => point.chosen);
  const now = frontier[chosen]!.attention_speed ?? 1;
  return (
    frontier
      .slice(0, chosen)
      .findLast(({ attention_speed }) => (attention_speed ?? 0) > TELLING_GAIN * now) ?? null
  );
}
