import { html } from '../../rewriter/markup.js';
import { dataTable, renderPage, section } from '../../rewriter/report-page.js';
import { type Axis, type Point, plot, plots } from '../../rewriter/report-plot.js';
import type { AblationReport, Result } from './ablation-report.js';

const percent = (x: number) => `${x < 0 ? '' : '+'}${(100 * x).toFixed(2)}%`;
const times = (x: number) => `${x.toFixed(2)}x`;
const maybe = (x: number | null, format: (x: number) => string) => (x === null ? null : format(x));

/** Those without a cell that says anything are left out. */
const COLUMNS: readonly { readonly title: string; readonly cell: (result: Result) => string | null }[] = [
  { title: 'Variant', cell: ({ name }) => name },
  { title: 'Loss', cell: ({ loss }) => maybe(loss, bits => bits.toFixed(4)) },
  { title: 'Increase', cell: ({ loss_increase }) => maybe(loss_increase, percent) },
  {
    title: 'Standard error',
    cell: ({ loss_increase_error }) => maybe(loss_increase_error, x => percent(x).slice(1)),
  },
  { title: 'Fewer operations', cell: ({ ceiling }) => maybe(ceiling, times) },
  { title: 'Over own exact', cell: ({ speed_over_own_exact }) => maybe(speed_over_own_exact, times) },
  { title: 'Over fused', cell: ({ speed }) => maybe(speed, times) },
  {
    title: 'Errors by site',
    cell: ({ errors }) => errors?.map(error => error.toPrecision(2)).join(' ') ?? null,
  },
];

/** Loss against speed, measured and at best, and a table of everything. */
export function frontierPage(report: AblationReport): string {
  const { model, text, windows, stride, length, results, command, machine } = report;
  const speeds: readonly (readonly [title: string, of: (result: Result) => number | null])[] = [
    ['By count of operations: what no kernel can beat', result => result.ceiling],
    ["Measured, against this operator's own exact attention", result => result.speed_over_own_exact],
    ['Measured, against com.microsoft.MultiHeadAttention', result => result.speed],
  ];
  const columns = COLUMNS.filter(({ cell }) => results.some(result => cell(result) !== null));
  return renderPage({
    title: `Ablation of multipole attention on ${model}`,
    kicker: 'multipole-attention',
    heading: `What settings cost and gain at ${length} tokens`,
    verdict: null,
    facts: [],
    notices: [],
    sections: [
      section(
        'Loss against speed',
        plots(...speeds.map(([title, speed]) => lossPlot(title, results, speed))),
      ),
      section(
        'All variants',
        dataTable(
          `Loss on windows ${windows} of ${text}, ${stride} bytes apart`,
          columns.map(({ title }) => title),
          results.map(result => columns.map(({ cell }) => html`${cell(result) ?? ''}`)),
        ),
      ),
    ],
    command,
    made: `${machine.cpu}, ${machine.cores} cores; node ${machine.node}, ${machine.platform}.`,
  });
}

/** Losses are drawn on a logarithm from here on: smaller ones, and gains, are within what windows differ by. */
const LEAST_LOSS = 2e-4;

function lossPlot(title: string, results: readonly Result[], speed: (result: Result) => number | null) {
  const points = results.flatMap((result): Point[] => {
    const x = speed(result);
    return x === null || result.loss_increase === null
      ? []
      : [
          {
            x,
            y: Math.max(result.loss_increase, LEAST_LOSS),
            label: `${result.name}: ${percent(result.loss_increase)} at ${times(x)}`,
          },
        ];
  });
  if (points.length === 0) return null;
  const x: Axis = { label: 'times faster', scale: 'log', format: value => `${value}x` };
  const y: Axis = {
    label: `loss increase (${100 * LEAST_LOSS}%: that or less)`,
    scale: 'log',
    format: value => `${Number((100 * value).toPrecision(2))}%`,
  };
  const sorted = [...points].sort((a, b) => b.x - a.x);
  const frontier = sorted.filter((point, n) => sorted.slice(0, n).every(faster => faster.y > point.y));
  return plot({
    title,
    description: `Loss increase against speed of ${points.length} variants`,
    x,
    y,
    series: [
      { name: 'variants', mark: 'points', points },
      { name: 'least loss at that speed', mark: 'line', points: frontier.reverse() },
    ],
    guides: [
      { axis: 'y', at: 0.0036, label: '0.36%' },
      { axis: 'y', at: 0.01, label: '1%' },
    ],
  });
}
