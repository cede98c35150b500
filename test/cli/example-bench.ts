import { type BenchReport, type BenchRun, crossoverOf, scalingOf } from '../../cli/bench-report.js';

/** Runs of one model whose medians are given by length; null for a failure. */
export function runsOf(model: string, medians: Readonly<Record<number, number | null>>): BenchRun[] {
  return Object.entries(medians).map(([length, ms]) => ({
    model,
    provider: 'CPU',
    threads: null,
    stock: false,
    runtime: {
      name: 'runtime',
      version: '1',
      execution_provider: 'CPU',
      custom_operators: null,
      without_kernel: [],
    },
    length: Number(length),
    batch: 1,
    median_ms: ms,
    min_ms: ms === null ? null : 0.9 * ms,
    max_ms: ms === null ? null : 1.2 * ms,
    ms: ms === null ? [] : [0.9 * ms, ms, 1.2 * ms],
    tokens_per_second: ms === null ? null : (1000 * Number(length)) / ms,
    peak_bytes: ms === null ? null : 1e8 + 1000 * Number(length) ** 2,
    loaded_bytes: ms === null ? null : 1e8,
    failure: ms === null ? 'out of memory' : null,
  }));
}

/** A benchmark of two models, the first of which fails at the longest length, with two thread counts. */
export function exampleBench(name = 'models/original.onnx'): BenchReport {
  const original = runsOf(name, { 1024: 100, 2048: 400, 4096: 1700, 8192: null });
  const rewritten = runsOf('rewritten.onnx', { 1024: 130, 2048: 270, 4096: 520, 8192: 1100 });
  const settings = [1, 2].map(threads =>
    [original, rewritten].map(runs => runs.map((run): BenchRun => ({ ...run, threads }))),
  );
  return {
    tool: { name: 'onnx-rewrite', version: '1.2.3' },
    created: '2026-01-02T03:04:05.000Z',
    command: `onnx-rewrite bench ${name} rewritten.onnx`,
    machine: { node: '20', platform: 'linux x64', cpu: 'cpu', cores: 2, memory_bytes: 8e9 },
    inputs: 'text.txt',
    runs: settings.flat(2),
    crossover: settings.map(([base, other]) => crossoverOf(base!, other!)),
    scaling: settings.flatMap(subjects => subjects.map(scalingOf)),
    notes: ['A note.'],
  };
}
