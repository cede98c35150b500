import { formatBytes, formatDuration, plural } from '../rewriter/format.js';
import { environmentText } from '../rewriter/report.js';
import {
  type BenchReport,
  type BenchRun,
  bySetting,
  type Crossover,
  isSameSubject,
  type PowerLaw,
  runAt,
  type Scaling,
  type Subject,
  speedup,
} from './bench-report.js';
import { describeFallbacks } from './runtime/describe-runtime.js';
import { colors, table } from './terminal.js';

/** What people see of a benchmark on a terminal. */
export function renderBench({ machine, inputs, runs, crossover, scaling, notes }: BenchReport): string {
  return [
    environmentText(machine),
    `Inputs: ${inputs}`,
    ...bySetting(runs).flatMap(subjects => [
      '',
      ...renderSetting(subjects),
      '',
      ...crossover.filter(isAmong(subjects)).map(crossoverText),
      ...scaling.filter(isAmong(subjects)).map(scalingText),
    ]),
    ...notes,
  ].join('\n');
}

function isAmong(subjects: readonly (readonly BenchRun[])[]): (one: Subject) => boolean {
  return one => subjects.some(runs => isSameSubject(runs[0]!, one));
}

function renderSetting(subjects: readonly (readonly BenchRun[])[]): string[] {
  const base = subjects[0]!;
  const rows = subjects.flatMap(runs =>
    runs.map((run, i) => [
      i === 0 ? subjectName(run) : '',
      lengthText(run.length),
      ...(run.failure === null
        ? [
            formatDuration(run.median_ms!),
            formatDuration(run.min_ms!),
            formatDuration(run.max_ms!),
            run.tokens_per_second === null ? '–' : rateText(run.tokens_per_second),
            speedupText(speedup(runAt(base, run.length), run)),
            run.peak_bytes === null ? '–' : formatBytes(run.peak_bytes),
          ]
        : ['failed', '–', '–', '–', '–', '–']),
    ]),
  );
  const failures = subjects.flatMap(runs =>
    runs
      .filter(({ failure }) => failure !== null)
      .map(run => `${subjectName(run)} at ${lengthText(run.length)} tokens: ${run.failure}`),
  );
  const fallbacks = subjects.flatMap(([run]) =>
    run?.runtime ? describeFallbacks(run.runtime).map(text => `${run.model}: ${text}`) : [],
  );
  return [
    colors.bold(settingText(base[0]!)),
    table(
      [
        { title: 'model' },
        { title: 'tokens', align: 'right' },
        { title: 'median', align: 'right' },
        { title: 'min', align: 'right' },
        { title: 'max', align: 'right' },
        { title: 'tokens/s', align: 'right' },
        { title: 'speed', align: 'right' },
        { title: 'peak memory', align: 'right' },
      ],
      rows,
    ),
    ...[...failures, ...fallbacks].map(text => colors.yellow(text)),
  ];
}

/** `onnxruntime-node 1.30.0, CPU, 2 threads`. */
export function settingText({ runtime, provider, threads }: Subject): string {
  const name = runtime === null ? 'onnxruntime-node' : `${runtime.name} ${runtime.version}`;
  const parallel = threads === null ? 'default threads' : plural(threads, 'thread', 'threads');
  return `${name}, ${provider}, ${parallel}`;
}

/**
 * A model, and how its custom operators are computed.
 * @param name what the model is to be called
 */
export function subjectName({ model, runtime }: Subject, name = model): string {
  switch (runtime?.custom_operators ?? null) {
    case 'function-body':
      return `${name} (function bodies)`;
    case 'native-kernels':
      return `${name} (native kernels)`;
    case 'mixed':
      return `${name} (native kernels and function bodies)`;
    case null:
      return name;
  }
}

function crossoverText(crossover: Crossover): string {
  const { length, estimate } = crossover;
  if (length === null) return `${subjectName(crossover)} is not faster at the longest length.`;
  const where = estimate === null ? '' : ` (equal at about ${estimate})`;
  return `${subjectName(crossover)} is faster from ${length} tokens on${where}.`;
}

function scalingText(scaling: Scaling): string {
  const parts = [
    ...(scaling.time === null ? [] : [`time as ${powerText(scaling.time)}`]),
    ...(scaling.memory === null ? [] : [`memory beyond loading as ${powerText(scaling.memory)}`]),
  ];
  return `${subjectName(scaling)} grows in ${parts.join(', in ')}.`;
}

function powerText({ exponent, points, from, to }: PowerLaw): string {
  return `length^${exponent.toFixed(2)} (${points} points, ${from} to ${to})`;
}

export function lengthText(length: number | null): string {
  return length === null ? '–' : String(length);
}

export function rateText(perSecond: number): string {
  return perSecond.toFixed(perSecond < 10 ? 2 : 0);
}

export function speedupText(ratio: number | null): string {
  return ratio === null ? '–' : `${ratio.toFixed(2)}x`;
}
