import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, isAbsolute, relative } from 'node:path';
import { isDeepStrictEqual, parseArgs } from 'node:util';
import { bitsPerByte, surprisal } from '../../cli/data/byte-task.js';
import { describeEnvironment } from '../../cli/environment.js';
import { mean, median } from '../../cli/statistics.js';
import { note, printJson, table } from '../../cli/terminal.js';
import { slopeOf } from '../../cli/tune/forecast.js';
import { operationCeiling } from '../../custom-ops/multipole-attention/operation-count.js';
import { multipoleAttention } from '../../custom-ops/multipole-attention/operator.js';
import { type MultipoleParameters, parametersOf } from '../../custom-ops/multipole-attention/parameters.js';
import { Tensor } from '../../custom-ops/runtime/node/index.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { decideByPlan, parsePlan } from '../../rewriter/plan.js';
import { ablationGrid, exactParameters, namedParameters, type Variant } from './ablation-grid.js';
import type { AblationReport, Leak, Result } from './ablation-report.js';
import { ByteModel, type TrainedHeads } from './byte-model.js';
import { type ByteWindow, maskedWindow, nextByteWindow } from './byte-windows.js';
import { multiHeadAttention, multipole, timeInTurns } from './contenders.js';
import { frontierPage } from './frontier-page.js';
import { relativeSquaredError } from './relative-squared-error.js';

/**
 * What settings of MultipoleAttention cost a byte-level model in loss and gain in speed:
 *
 *   node dist/test/bench/ablation.js [--model FILE] [--text FILE] [--windows I,J] [--stride BYTES] [--length N]
 *       [--mask-starts FILE] [--only REGEXP] [--variant 'PRESET key=value ...'] [--plan FILE]
 *       [--errors] [--time RUNS] [--no-fused] [--no-loss] [--prefixes COUNT] [--threads N] [--json] [--html FILE]
 *       [--results FILE]
 *
 * Variants are the grid of ablation-grid.ts, or those given and plans, any number of each. Window I starts at byte
 * I * stride of the text. `--errors` adds the relative squared error of each site by itself, `--time` its time
 * against exact fused attention (and with `--no-fused` only against this operator's own exact attention),
 * `--prefixes` a test for leaks: the text is cut after a number of bytes, and the last prediction compared with the
 * one that the whole window gives. `--results` keeps every result in a file as soon as it is there, and takes from
 * it what an earlier run has measured. Everything runs on native kernels.
 */
const { values: options } = parseArgs({
  options: {
    model: { type: 'string', default: 'models/byte-lm/causal.onnx' },
    text: { type: 'string', default: 'models/byte-lm/mansfield-park.txt' },
    windows: { type: 'string', default: '0,1' },
    stride: { type: 'string', default: '131072' },
    length: { type: 'string', default: '8192' },
    'mask-starts': { type: 'string' },
    only: { type: 'string', default: '' },
    variant: { type: 'string', multiple: true, default: [] },
    plan: { type: 'string', multiple: true, default: [] },
    errors: { type: 'boolean', default: false },
    time: { type: 'string', default: '0' },
    fused: { type: 'boolean', default: true },
    loss: { type: 'boolean', default: true },
    prefixes: { type: 'string', default: '0' },
    threads: { type: 'string', default: '2' },
    json: { type: 'boolean', default: false },
    html: { type: 'string' },
    results: { type: 'string' },
  },
  allowNegative: true,
});

const length = Number(options.length);
const sessionOptions = { executionProviders: ['cpu'], intraOpNumThreads: Number(options.threads) };
const model = new ByteModel(options.model, sessionOptions);
const exact = model.sites.map(() => exactParameters(model.causal));
const windows = options.windows.split(',').map(index => windowAt(Number(index)));

function windowAt(index: number): ByteWindow {
  const start = index * Number(options.stride);
  if (model.causal) return nextByteWindow(options.text, start, length);
  const file = options['mask-starts'];
  if (!file) return maskedWindow(options.text, start, length, null);
  const masks = JSON.parse(readFileSync(file, 'utf8')) as {
    readonly length: number;
    readonly span: number;
    readonly starts: readonly (readonly number[])[];
  };
  if (masks.length !== length || !masks.starts[index])
    throw new Error(`${file} has no masks for this window`);
  return maskedWindow(options.text, start, length, { starts: masks.starts[index], span: masks.span });
}

function chosenVariants(): Variant[] {
  const chosen = [
    ...options.variant.map(text => ({
      name: text,
      parameters: model.sites.map(site => namedParameters(site, text)),
    })),
    ...options.plan.map(file => {
      const plan = parsePlan(readFileSync(file, 'utf8'), file);
      const decisions = decideByPlan(model.sites, plan, [multipoleAttention], 0);
      return {
        name: file.replace(/^.*\//, '').replace(/\.json$/, ''),
        parameters: decisions.map(({ replacement }, n) =>
          replacement ? parametersOf(replacement.attributes) : exact[n]!,
        ),
      };
    }),
  ];
  if (chosen.length > 0) return [{ name: 'exact', parameters: exact }, ...chosen];
  const only = new RegExp(options.only);
  return ablationGrid(model.causal, model.sites.length).filter(
    ({ name }) => name === 'exact' || only.test(name),
  );
}

async function losses(variant: Variant): Promise<Pick<Result, 'loss_by_window' | 'leak'>> {
  const session = await model.open(model.variant(variant.parameters));
  const logitsOf = async (ids: BigInt64Array) => {
    const { logits } = await session.run({ input_ids: new Tensor('int64', ids, [1, ids.length]) });
    return logits!.data as Float32Array;
  };
  const byWindow: number[] = [];
  let leak: Leak | null = null;
  for (const [n, window] of windows.entries()) {
    const logits = await logitsOf(window.ids);
    byWindow.push(bitsPerByte(logits, window));
    if (n === 0 && Number(options.prefixes) > 0) leak = await prefixTest(window, logits, logitsOf);
  }
  await session.release();
  return { loss_by_window: byWindow, leak };
}

async function prefixTest(
  { ids, targets }: ByteWindow,
  whole: Float32Array,
  logitsOf: (ids: BigInt64Array) => Promise<Float32Array>,
): Promise<Leak> {
  const random = new SeededRandom(1);
  const prefixes = Array.from({ length: Number(options.prefixes) }, () => 1 + random.below(length));
  let largest = 0;
  let difference = 0;
  for (const prefix of prefixes) {
    const vocabulary = whole.length / length;
    const last = (await logitsOf(ids.slice(0, prefix))).subarray(-vocabulary);
    const expected = whole.subarray((prefix - 1) * vocabulary, prefix * vocabulary);
    last.forEach((logit, n) => {
      largest = Math.max(largest, Math.abs(logit - expected[n]!));
    });
    const target = targets[prefix - 1]!;
    difference += (surprisal(last, target) - surprisal(expected, target)) / prefixes.length;
  }
  return { prefixes, largest_logit_difference: largest, mean_surprisal_difference: difference };
}

/** Times and errors of all variants, site by site: sites that are computed alike are measured once. */
async function measureSites(
  variants: readonly Variant[],
  heads: readonly TrainedHeads[],
  runs: number,
): Promise<Pick<Result, 'errors' | 'speed' | 'speed_over_own_exact' | 'ms_by_site'>[]> {
  const theirs: number[] = [];
  const own: { readonly ms: number; readonly error: number }[][] = variants.map(() => []);
  for (const [n, site] of heads.entries()) {
    const keys = variants.map(({ parameters }) => JSON.stringify(parameters[n]));
    const exactKey = JSON.stringify(exact[n]);
    const distinct = [...new Set([exactKey, ...keys])];
    const fused = runs > 0 && options.fused;
    const contenders = fused ? [await multiHeadAttention(site, sessionOptions)] : [];
    for (const key of distinct) {
      contenders.push(await multipole(key, JSON.parse(key) as MultipoleParameters, site, sessionOptions));
    }
    const timed = await timeInTurns(contenders, runs);
    await Promise.all(contenders.map(contender => contender.release()));
    const byName = new Map(contenders.map(({ name }, c) => [name, timed[c]!]));
    if (fused) theirs.push(median(timed[0]!.ms));
    const reference = byName.get(exactKey)!;
    keys.forEach((key, v) => {
      const { ms, output } = byName.get(key)!;
      own[v]!.push({ ms: median(ms), error: relativeSquaredError(output, reference.output) });
    });
  }
  const total = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0);
  const times = own.map(sites => sites.map(({ ms }) => ms));
  const exactMs = total(times[variants.findIndex(({ name }) => name === 'exact')]!);
  return own.map((sites, v) => ({
    errors: sites.map(({ error }) => error),
    speed: theirs.length > 0 ? total(theirs) / total(times[v]!) : null,
    speed_over_own_exact: runs > 0 ? exactMs / total(times[v]!) : null,
    ms_by_site: runs > 0 ? times[v]! : null,
  }));
}

const percent = (x: number | null) => (x === null ? '' : `${x < 0 ? '' : '+'}${(100 * x).toFixed(2)}%`);
const increase = ({ loss_increase, loss_increase_error }: Result) =>
  `${percent(loss_increase)}${loss_increase_error === null ? '' : ` ± ${(100 * loss_increase_error).toFixed(2)}`}`;
const times = (x: number | null) => (x === null ? '' : `${x.toFixed(2)}x`);

/** A path as it may stand in a report: relative, or without its folder where that is somewhere else. */
function portable(argument: string): string {
  if (!isAbsolute(argument)) return /\s/.test(argument) ? `'${argument}'` : argument;
  const inside = relative(process.cwd(), argument);
  return inside.startsWith('..') ? basename(argument) : inside;
}

function reportOf(results: readonly Result[]): AblationReport {
  return {
    machine: describeEnvironment(),
    command: ['node', 'dist/test/bench/ablation.js', ...process.argv.slice(2).map(portable)].join(' '),
    threads: Number(options.threads),
    model: portable(options.model),
    text: portable(options.text),
    windows: options.windows,
    stride: Number(options.stride),
    length,
    results,
  };
}

/** What `--results` holds, of the same model and text. */
function earlierResults(): readonly Result[] {
  if (options.results === undefined || !existsSync(options.results)) return [];
  const earlier = JSON.parse(readFileSync(options.results, 'utf8')) as AblationReport;
  const measured = ({ model, text, windows, stride, length }: AblationReport) =>
    [model, text, windows, stride, length].join(' ');
  if (measured(earlier) !== measured(reportOf([])))
    throw new Error(`${options.results} holds results of ${measured(earlier)}`);
  return earlier.results;
}

const variants = chosenVariants();
const runs = Number(options.time);
const wantsErrors = options.errors || runs > 0;
const earlier = earlierResults();
const known = (variant: Variant) =>
  earlier.find(
    result =>
      isDeepStrictEqual(result.parameters, variant.parameters) &&
      (!options.loss || result.loss !== null) &&
      (!wantsErrors || result.errors !== null) &&
      (runs === 0 || result.ms_by_site !== null),
  );
const missing = variants.filter(variant => variant.name === 'exact' || !known(variant));
const bySite = wantsErrors
  ? await measureSites(missing, await model.record(windows[0]!.ids, exact), runs)
  : null;
const results: Result[] = [];
for (const variant of variants) {
  const before = known(variant);
  if (before) {
    results.push({ ...before, name: variant.name });
    continue;
  }
  const { loss_by_window, leak } = options.loss
    ? await losses(variant)
    : { loss_by_window: null, leak: null };
  const loss = loss_by_window && mean(loss_by_window);
  const exactLosses = results[0]?.loss_by_window ?? loss_by_window;
  const increaseOver =
    loss_by_window &&
    slopeOf(
      loss_by_window.map((bits, n) => ({ change: bits - exactLosses![n]!, divergence: exactLosses![n]! })),
      null,
    );
  const result: Result = {
    name: variant.name,
    loss,
    loss_by_window,
    loss_increase: increaseOver?.mean ?? null,
    loss_increase_error: increaseOver && windows.length > 1 ? increaseOver.error : null,
    errors: null,
    speed: null,
    speed_over_own_exact: null,
    ms_by_site: null,
    ...bySite?.[missing.indexOf(variant)],
    ceiling: operationCeiling(variant.parameters, model.sites[0]!.queryHeads ?? 1, length),
    leak,
    parameters: variant.parameters,
  };
  results.push(result);
  if (options.results) {
    const others = earlier.filter(
      ({ parameters }) => !results.some(r => isDeepStrictEqual(r.parameters, parameters)),
    );
    writeFileSync(options.results, JSON.stringify(reportOf([...results, ...others])));
  }
  note(`${variant.name}: ${loss?.toFixed(4) ?? ''} ${increase(result)}, ceiling ${times(result.ceiling)}`);
}

const report = reportOf(results);
if (options.html) writeFileSync(options.html, frontierPage(report));
if (options.json) printJson(report);
else {
  const number = (x: number) => x.toPrecision(2);
  const columns = ['variant', 'loss', 'increase', 'ceiling', 'speed', 'over own exact', 'errors by site'];
  process.stdout.write(
    `${table(
      columns.map(title => ({ title })),
      results.map(r => [
        r.name,
        r.loss?.toFixed(4) ?? '',
        increase(r),
        times(r.ceiling),
        times(r.speed),
        times(r.speed_over_own_exact),
        r.errors?.map(number).join(' ') ?? '',
      ]),
    )}\n`,
  );
}
