import { fork } from 'node:child_process';
import {
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { describeEnvironment } from '../../cli/environment.js';
import { peakMemory } from '../../cli/peak-memory.js';
import { median } from '../../cli/statistics.js';
import { printJson, table } from '../../cli/terminal.js';
import {
  defaultParameters,
  type MultipoleParameters,
} from '../../custom-ops/multipole-attention/parameters.js';
import { exactParameters, namedParameters } from './ablation-grid.js';
import { ByteModel, type TrainedHeads } from './byte-model.js';
import { maskedWindow, nextByteWindow } from './byte-windows.js';
import { multiHeadAttention, multipole, timeInTurns } from './contenders.js';
import { recordedHeads } from './recorded-heads.js';
import { relativeSquaredError } from './relative-squared-error.js';

/**
 * How time, memory and error of one attention site grow with the length, on native kernels:
 *
 *   node dist/test/bench/growth.js [--model FILE] [--text FILE] [--site I] [--lengths N,N]
 *       [--variant 'PRESET key=value ...']... [--runs N] [--fused] [--memory] [--threads N] [--json]
 *       [--heads FILE]
 *
 * Queries, keys and values are recorded from the model on a text of the largest length, and cut for the others;
 * the attention of the layers before is exact up to 16384 tokens, else `hierarchy=dyadic retrieve=0`. Errors are relative
 * squared errors of 1024 rows: evenly spaced, or the last ones when causal. `--fused` times
 * com.microsoft.MultiHeadAttention too; `--memory` adds what one run, in a process of its own, adds to the largest
 * resident set; `--runs 0` measures errors only. Exponents are those of a power of the length, fitted to all
 * lengths. With --heads, queries, keys and values of the largest length are recorded in that file (.npz), and once
 * it is there read from it.
 */
const { values: options } = parseArgs({
  options: {
    model: { type: 'string', default: 'models/byte-lm/encoder.onnx' },
    text: { type: 'string', default: 'models/byte-lm/mansfield-park.txt' },
    site: { type: 'string', default: '1' },
    lengths: { type: 'string', default: '4096,8192,16384,32768,65536' },
    variant: { type: 'string', multiple: true, default: ['default'] },
    runs: { type: 'string', default: '3' },
    fused: { type: 'boolean', default: false },
    memory: { type: 'boolean', default: false },
    threads: { type: 'string', default: '2' },
    json: { type: 'boolean', default: false },
    heads: { type: 'string' },
    'memory-job': { type: 'string' },
  },
});
const sessionOptions = { executionProviders: ['cpu'], intraOpNumThreads: Number(options.threads) };
const LONGEST_EXACT = 16384;
const SAMPLED_ROWS = 1024;

interface Measured {
  readonly length: number;
  readonly variant: string;
  /** Null without runs. */
  readonly median_ms: number | null;
  readonly error: number | null;
  /** Times faster than com.microsoft.MultiHeadAttention. */
  readonly speed: number | null;
  readonly added_bytes: number | null;
}

/** What the process that measures memory is told. */
interface MemoryJob {
  readonly heads: Omit<TrainedHeads, 'query' | 'key' | 'value'>;
  readonly parameters: MultipoleParameters;
  /** Query, key and value, one after the other. */
  readonly data: string;
}

if (options['memory-job']) {
  const { heads, parameters, data } = JSON.parse(readFileSync(options['memory-job'], 'utf8')) as MemoryJob;
  const all = floatsOf(data);
  const size = all.length / 3;
  const part = (n: number) => all.subarray(n * size, (n + 1) * size);
  const whole = { ...heads, query: part(0), key: part(1), value: part(2) };
  const contender = await multipole('', parameters, whole, sessionOptions);
  const before = peakMemory();
  await contender.run();
  process.send!(peakMemory() - before);
  await contender.release();
} else {
  await main();
}

async function main(): Promise<void> {
  const lengths = options.lengths.split(',').map(Number);
  const model = new ByteModel(options.model, sessionOptions);
  const site = model.sites[Number(options.site)]!;
  const variants = options.variant.map(text => ({ name: text, parameters: namedParameters(site, text) }));
  const longest = Math.max(...lengths);
  const window = model.causal
    ? nextByteWindow(options.text, 0, longest)
    : maskedWindow(options.text, 0, longest, null);
  const before: MultipoleParameters =
    longest > LONGEST_EXACT
      ? { ...defaultParameters(model.causal), hierarchy: 'dyadic', retrieve: [0] }
      : exactParameters(model.causal);
  const parameters = model.sites.map(() => before);
  const [recorded] = await recordedHeads(options.heads, () => model.record(window.ids, parameters, [site]));
  const folder = mkdtempSync(join(tmpdir(), 'onnx-rewrite-growth-'));
  const results: Measured[] = [];
  try {
    for (const length of lengths)
      results.push(...(await measure(firstTokens(recorded!, length), variants, folder)));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  report(results, lengths);
}

async function measure(
  heads: TrainedHeads,
  variants: readonly { readonly name: string; readonly parameters: MultipoleParameters }[],
  folder: string,
): Promise<Measured[]> {
  const { length } = heads;
  const exact = await exactRows(heads);
  const contenders = options.fused ? [await multiHeadAttention(heads, sessionOptions)] : [];
  for (const { name, parameters } of variants) {
    contenders.push(await multipole(name, parameters, heads, sessionOptions));
  }
  const timed = await timeInTurns(contenders, Number(options.runs));
  await Promise.all(contenders.map(contender => contender.release()));
  const ms = timed.map(result => (result.ms.length > 0 ? median(result.ms) : null));
  const measured: Measured[] = [];
  for (const [c, { name }] of contenders.entries()) {
    const variant = variants.find(candidate => candidate.name === name);
    const rows = variant && sampledRows({ ...heads, query: timed[c]!.output }).query;
    measured.push({
      length,
      variant: name,
      median_ms: ms[c]!,
      error: rows ? relativeSquaredError(rows, exact) : null,
      speed: options.fused && ms[0] && ms[c] ? ms[0] / ms[c] : null,
      added_bytes: variant && options.memory ? await addedMemory(heads, variant.parameters, folder) : null,
    });
  }
  return measured;
}

async function exactRows(heads: TrainedHeads): Promise<Float32Array> {
  const contender = await multipole('', exactParameters(heads.causal), sampledRows(heads), sessionOptions);
  const output = await contender.run();
  await contender.release();
  return output;
}

/** The heads with the queries of sampled rows only, which still see all keys. */
function sampledRows(heads: TrainedHeads): TrainedHeads {
  const { length, causal } = heads;
  const count = Math.min(SAMPLED_ROWS, length);
  const row = (n: number) => (causal ? length - count + n : Math.floor((n * length) / count));
  return { ...heads, query: rowsOf(heads.query, heads, count, row) };
}

function firstTokens(heads: TrainedHeads, length: number): TrainedHeads {
  const cut = (data: Float32Array) => rowsOf(data, heads, length, n => n);
  return {
    ...heads,
    length,
    query: cut(heads.query),
    key: cut(heads.key),
    value: cut(heads.value),
  };
}

function rowsOf(
  data: Float32Array,
  { heads, length, size }: TrainedHeads,
  count: number,
  row: (n: number) => number,
): Float32Array {
  const result = new Float32Array(heads * count * size);
  for (let head = 0; head < heads; head++) {
    for (let n = 0; n < count; n++) {
      const from = (head * length + row(n)) * size;
      result.set(data.subarray(from, from + size), (head * count + n) * size);
    }
  }
  return result;
}

async function addedMemory(
  { query, key, value, ...heads }: TrainedHeads,
  parameters: MultipoleParameters,
  folder: string,
): Promise<number> {
  const [job, data] = [join(folder, 'job.json'), join(folder, 'data.bin')];
  const parts = [query, key, value].map(part => Buffer.from(part.buffer, part.byteOffset, part.byteLength));
  writeFileSync(data, Buffer.concat(parts));
  writeFileSync(job, JSON.stringify({ heads, parameters, data } satisfies MemoryJob));
  return new Promise((resolve, reject) => {
    const child = fork(fileURLToPath(import.meta.url), ['--memory-job', job, '--threads', options.threads]);
    child.once('message', bytes => resolve(Number(bytes)));
    child.once('exit', code => code && reject(new Error(`measuring memory failed with ${code}`)));
  });
}

/** Reads a file into memory once, without a copy that would count as used before. */
function floatsOf(file: string): Float32Array {
  const floats = new Float32Array(statSync(file).size / Float32Array.BYTES_PER_ELEMENT);
  const descriptor = openSync(file, 'r');
  readSync(descriptor, floats);
  closeSync(descriptor);
  return floats;
}

/** The slope of a line through the logarithms. */
function exponent(points: readonly (readonly [length: number, value: number | null])[]): number | null {
  const logs = points.flatMap(([x, y]) => (y ? [[Math.log(x), Math.log(y)] as const] : []));
  if (logs.length < 2) return null;
  const mean = (of: (point: readonly [number, number]) => number) =>
    logs.reduce((sum, point) => sum + of(point), 0) / logs.length;
  const [x0, y0] = [mean(([x]) => x), mean(([, y]) => y)];
  return mean(([x, y]) => (x - x0) * (y - y0)) / mean(([x]) => (x - x0) ** 2);
}

function report(results: readonly Measured[], lengths: readonly number[]): void {
  const names = [...new Set(results.map(({ variant }) => variant))];
  const growth = names.map(name => {
    const own = results.filter(({ variant }) => variant === name);
    return {
      variant: name,
      time_exponent: exponent(own.map(({ length, median_ms }) => [length, median_ms])),
      memory_exponent: exponent(own.map(({ length, added_bytes }) => [length, added_bytes])),
    };
  });
  if (options.json) {
    const { model, text, site } = options;
    printJson({
      machine: describeEnvironment(),
      threads: Number(options.threads),
      model,
      text,
      site,
      results,
      growth,
    });
    return;
  }
  const cell = ({ median_ms, error, speed, added_bytes }: Measured) =>
    [
      ...(median_ms === null ? [] : [`${median_ms.toFixed(0)} ms`]),
      ...(error === null ? [] : [`err ${error.toPrecision(2)}`]),
      ...(speed === null ? [] : [`${speed.toFixed(2)}x`]),
      ...(added_bytes === null ? [] : [`${(added_bytes / 2 ** 20).toFixed(0)} MiB`]),
    ].join(', ');
  const rows = growth.map(({ variant, time_exponent, memory_exponent }) => [
    variant,
    ...lengths.map(length => cell(results.find(r => r.variant === variant && r.length === length)!)),
    time_exponent?.toFixed(2) ?? '',
    memory_exponent?.toFixed(2) ?? '',
  ]);
  const titles = ['variant', ...lengths.map(String), 'time ~ N^', 'memory ~ N^'];
  process.stdout.write(
    `${table(
      titles.map(title => ({ title })),
      rows,
    )}\n`,
  );
}
