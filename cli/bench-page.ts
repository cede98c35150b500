import { formatBytes, formatDuration } from '../rewriter/format.js';
import { html, type Markup } from '../rewriter/markup.js';
import { environmentText, ratio } from '../rewriter/report.js';
import { dataTable, type Fact, renderPage, section } from '../rewriter/report-page.js';
import { type Axis, type Guide, plot, plots, type Series } from '../rewriter/report-plot.js';
import {
  type BenchReport,
  type BenchRun,
  bySetting,
  type Crossover,
  isSameSubject,
  type PowerLaw,
  runAt,
  type Scaling,
  speedup,
} from './bench-report.js';
import { lengthText, rateText, settingText, speedupText, subjectName } from './render-bench.js';

/** A benchmark as one self-contained HTML page. */
export function renderBenchPage(report: BenchReport): string {
  const { tool, runs } = report;
  const names = shortNames([...new Set(runs.map(({ model }) => model))]);
  const models = [...names.values()];
  return renderPage({
    title: `Benchmark of ${models.join(', ')}`,
    kicker: `${tool.name} ${tool.version}`,
    heading: models.join(' against '),
    verdict: null,
    facts: keyFacts(report),
    notices: report.notes,
    sections: [
      ...bySetting(runs).map(subjects => settingSection(subjects, report, names)),
      section('How it was measured', html`<p>${methodText(report)}</p>`),
    ],
    command: report.command,
    made: `${report.created}. ${environmentText(report.machine)}`,
  });
}

function methodText({ runs, inputs }: BenchReport): string {
  const timed = Math.max(...runs.map(({ ms }) => ms.length));
  return (
    `Inputs: ${inputs}; batch ${runs[0]!.batch}. At each length the models share one process: each runs once to ` +
    `warm up, then they take turns, ${timed} times. Times are of whole runs as callers see them, with inputs and ` +
    'outputs crossing into the runtime; the middle one counts, whiskers reach from the fastest to the slowest. ' +
    'Memory is the peak of resident memory in a process that loads one model and runs it once; how it grows ' +
    'is told of what running takes beyond loading.'
  );
}

/** The fastest model at the longest length that it and the first both run. */
function keyFacts({ runs, crossover }: BenchReport): Fact[] {
  const [base, ...others] = bySetting(runs)[0]!;
  const best = others
    .map(other => other.findLast(run => speedup(runAt(base!, run.length), run) !== null))
    .filter(run => run !== undefined)
    .map(after => ({ after, before: runAt(base!, after.length)! }))
    .sort((a, b) => speedup(b.before, b.after)! - speedup(a.before, a.after)!)[0];
  if (best === undefined) return [];
  const { before, after } = best;
  const facts: Fact[] = [
    {
      label: `Time at ${lengthText(after.length)} tokens`,
      value: ratio(before.median_ms!, after.median_ms!),
      detail: `${formatDuration(before.median_ms!)} → ${formatDuration(after.median_ms!)}`,
    },
  ];
  if (before.peak_bytes !== null && after.peak_bytes !== null) {
    facts.push({
      label: `Peak memory at ${lengthText(after.length)} tokens`,
      value: ratio(before.peak_bytes, after.peak_bytes, 'less', 'more'),
      detail: `${formatBytes(before.peak_bytes)} → ${formatBytes(after.peak_bytes)}`,
    });
  }
  const crossing = crossover.find(one => isSameSubject(one, after));
  if (crossing !== undefined) {
    const { length, estimate } = crossing;
    facts.push({
      label: 'Faster from',
      value: length === null ? 'no measured length' : `${length} tokens`,
      detail: estimate === null ? 'on, of the measured lengths' : `on; equal at about ${estimate} tokens`,
    });
  }
  return facts;
}

function settingSection(
  subjects: readonly (readonly BenchRun[])[],
  { crossover, scaling }: BenchReport,
  names: ReadonlyMap<string, string>,
): Markup {
  const lengths = [
    ...new Set(subjects.flat().flatMap(({ length }) => (length === null ? [] : [length]))),
  ].sort((a, b) => a - b);
  const named = subjects.map(runs => ({ name: subjectName(runs[0]!, names.get(runs[0]!.model)), runs }));
  const setting = settingText(subjects.flat().find(({ runtime }) => runtime !== null) ?? subjects[0]![0]!);
  return section(
    setting,
    lengths.length < 2 ? null : settingPlots(named, lengths, crossover),
    runsTable(setting, named),
    lengths.length < 2 ? null : growthTable(setting, named, crossover, scaling),
  );
}

/** All runs of one subject, and what the page calls it. */
interface Named {
  readonly name: string;
  readonly runs: readonly BenchRun[];
}

function settingPlots(
  subjects: readonly Named[],
  lengths: readonly number[],
  crossover: readonly Crossover[],
): Markup {
  const x: Axis = { label: 'tokens', scale: 'log', ticks: lengths, format: shortLength };
  const base = subjects[0]!;
  const guides = crossover.flatMap((one): Guide[] =>
    one.estimate !== null && subjects.some(({ runs }) => isSameSubject(one, runs[0]!))
      ? [{ axis: 'x', at: one.estimate, label: `equal at ${one.estimate}` }]
      : [],
  );
  const memory = subjects.map(subject => seriesOf(subject, ({ peak_bytes }) => peak_bytes));
  return plots(
    plot({
      title: 'Time of a run',
      description: 'Median time of a run by length, both logarithmic. The numbers are in the table below.',
      x,
      y: { label: 'time', scale: 'log', format: formatDuration },
      series: subjects.map(subject => ({
        ...seriesOf(
          subject,
          run => run.median_ms,
          run => [run.min_ms!, run.max_ms!],
        ),
        missing: failuresOf(subject),
      })),
      guides,
    }),
    memory.every(({ points }) => points.length === 0)
      ? null
      : plot({
          title: 'Peak memory',
          description: 'Peak memory by length, both logarithmic. The numbers are in the table below.',
          x,
          y: { label: 'memory', scale: 'log', format: formatBytes },
          series: memory,
        }),
    subjects.length < 2
      ? null
      : plot({
          title: 'Speed against the first model',
          description: `How many times as fast as ${base.name}, by length. The numbers are in the table below.`,
          x,
          y: { label: 'times as fast', scale: 'linear', format: String },
          series: subjects
            .map((subject, look) => ({
              ...seriesOf(subject, run => speedup(runAt(base.runs, run.length), run)),
              look,
            }))
            .slice(1),
          guides: [{ axis: 'y', at: 1, label: 'as fast' }],
        }),
  );
}

function seriesOf(
  { name, runs }: Named,
  value: (run: BenchRun) => number | null,
  range?: (run: BenchRun) => readonly [number, number],
): Series {
  return {
    name,
    mark: 'line',
    points: runs.flatMap(run => {
      const y = value(run);
      if (run.length === null || y === null) return [];
      return [{ x: run.length, y, ...(range === undefined ? {} : { range: range(run) }) }];
    }),
  };
}

function failuresOf({ runs }: Named): NonNullable<Series['missing']> {
  return runs.flatMap(({ length, failure }) =>
    length === null || failure === null ? [] : [{ x: length, reason: failure }],
  );
}

/** A row for each length, a column for each subject. */
function runsTable(setting: string, subjects: readonly Named[]): Markup {
  const base = subjects[0]!.runs;
  const rows = base.map(({ length }, i) => [
    html`${lengthText(length)}`,
    ...subjects.map(({ runs }) => runCell(runs[i]!, runs === base ? undefined : base[i])),
  ]);
  return dataTable(
    `Each model at each length: ${setting}`,
    ['Tokens', ...subjects.map(({ name }) => name)],
    rows,
  );
}

function runCell(run: BenchRun, base: BenchRun | undefined): Markup {
  const { median_ms, min_ms, max_ms, tokens_per_second, peak_bytes, failure } = run;
  if (failure !== null) return html`<span class="chip over">failed</span><small>${failure}</small>`;
  const faster = speedup(base, run);
  return html`<strong>${formatDuration(median_ms!)}</strong>${faster === null ? null : html` · ${speedupText(faster)}`}<small>${formatDuration(min_ms!)} to ${formatDuration(max_ms!)}</small>${
    tokens_per_second === null ? null : html`<small>${rateText(tokens_per_second)} tokens/s</small>`
  }${peak_bytes === null ? null : html`<small>${formatBytes(peak_bytes)} at the peak</small>`}`;
}

function growthTable(
  setting: string,
  subjects: readonly Named[],
  crossover: readonly Crossover[],
  scaling: readonly Scaling[],
): Markup {
  return dataTable(
    `How cost grows with length, and where each model becomes faster: ${setting}`,
    ['Model', 'Time grows as', 'Memory grows as', 'Faster than the first'],
    subjects.map(({ name, runs }) => {
      const law = scaling.find(one => isSameSubject(one, runs[0]!));
      const crossing = crossover.find(one => isSameSubject(one, runs[0]!));
      return [
        html`${name}`,
        powerMarkup(law?.time ?? null),
        powerMarkup(law?.memory ?? null),
        crossingMarkup(crossing),
      ];
    }),
  );
}

function powerMarkup(law: PowerLaw | null): Markup {
  if (law === null) return html`–`;
  return html`tokens<sup>${law.exponent.toFixed(2)}</sup><small>${law.points} lengths, ${law.from} to ${law.to}</small>`;
}

function crossingMarkup(crossing: Crossover | undefined): Markup {
  if (crossing === undefined) return html`–`;
  const { length, estimate } = crossing;
  if (length === null) return html`not at the longest length`;
  return html`from ${length} tokens on${estimate === null ? null : html`<small>equal at about ${estimate}</small>`}`;
}

/** `8k`, as the command line takes lengths. */
function shortLength(length: number): string {
  return length >= 1024 && length % 1024 === 0 ? `${length / 1024}k` : String(length);
}

/** The shortest end of each path that tells it from the others. */
function shortNames(paths: readonly string[]): ReadonlyMap<string, string> {
  const end = (path: string, parts: number) => path.split(/[\\/]/).slice(-parts).join('/');
  return new Map(
    paths.map(path => {
      let parts = 1;
      while (paths.some(other => other !== path && end(other, parts) === end(path, parts))) parts++;
      return [path, end(path, parts)];
    }),
  );
}
