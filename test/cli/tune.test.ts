import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { encodeNpz } from '../../cli/data/npz.js';
import { tensorFrom } from '../../cli/data/tensor.js';
import type { TuningReport } from '../../cli/tune/tuning.js';
import { multipoleAttention } from '../../custom-ops/multipole-attention/operator.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { temporaryFolder } from '../temporary-folder.js';
import { onnxRewrite } from './command-line.js';
import { tinyTransformer } from './tiny-transformer.js';

const LENGTH = 160;
/** Attributes that are no settings of a plan. */
const FROM_SITE = ['scale', 'causal', 'causal_offset'];

describe('onnx-rewrite tune', function () {
  // Tuning runs a model hundreds of times, each tiny; on a busy machine each waits its turn.
  this.timeout(600_000);
  const folder = temporaryFolder();
  const path = (name: string) => join(folder(), name);

  beforeEach(() => {
    writeFileSync(path('causal.onnx'), tinyTransformer({ layers: 1, causal: true }).model);
    writeFileSync(path('encoder.onnx'), tinyTransformer({ layers: 1 }).model);
    const random = new SeededRandom(4);
    writeFileSync(
      path('text.txt'),
      Uint8Array.from({ length: 4 * LENGTH }, () => random.below(256)),
    );
  });

  const tune = (...args: string[]) =>
    onnxRewrite(['tune', ...args, '--data', 'text.txt', '--length', `${LENGTH}`, '--windows', '1'], {
      cwd: folder(),
    });

  async function tuneJson(...args: string[]): Promise<TuningReport> {
    const { exitCode, stdout, stderr } = await tune(...args, '--json');
    assert.equal(stderr, '');
    assert.equal(exitCode, 0);
    return JSON.parse(stdout);
  }

  async function refused(pattern: RegExp, ...args: string[]): Promise<void> {
    const { exitCode, stdout, stderr } = await onnxRewrite(['tune', ...args], { cwd: folder() });
    assert.match(stderr, pattern);
    assert.equal(exitCode, 2);
    assert.equal(stdout, '');
  }

  const measurements = () => {
    const document = JSON.parse(readFileSync(path('cache.json'), 'utf8'));
    const [measured] = Object.values(document.tunings) as [Record<string, unknown>];
    return measured;
  };

  it('finds a plan that keeps the budget and that rewrite takes; a cache gives the same plan again', async () => {
    const args = ['causal.onnx', '--max-loss-increase', '2%', '--cache', 'cache.json', '-o', 'plan.json'];
    const report = await tuneJson(...args, '--report', 'page.html');
    const { baseline, plan, frontier, sites, metric } = report;
    assert.equal(metric.name, 'cross-entropy of the next token, bits');
    assert.ok(baseline.metric > 7 && baseline.original_ms > 0);
    assert.deepEqual(
      sites.map(({ id }) => id),
      ['blocks.0.attn'],
    );
    assert.ok(sites[0]!.forms.length > 10);
    const { predicted, measured, expected } = plan.tuning;
    assert.ok(expected.loss_increase + expected.standard_error <= 0.02);
    assert.ok(predicted.ms > 0 && measured.ms > 0 && expected.standard_error >= 0);
    const ends = [predicted.loss_increase, measured.loss_increase].sort((a, b) => a - b);
    assert.ok(
      Math.abs(expected.loss_increase) <= Math.max(...ends.map(Math.abs)) + 3 * expected.standard_error,
    );
    assert.equal(frontier.filter(({ chosen }) => chosen).length, 1);
    assert.ok(frontier.every(({ speed }) => speed > 0));
    assert.equal(frontier.at(-1)!.loss_increase, 0);
    assert.match(readFileSync(path('page.html'), 'utf8'), /<h2>Frontier<\/h2>[\s\S]*<svg/);

    assert.deepEqual(JSON.parse(readFileSync(path('plan.json'), 'utf8')), plan);
    const rewrite = [
      'rewrite',
      'causal.onnx',
      '--plan',
      'plan.json',
      '-o',
      'out.onnx',
      ...['--data', 'text.txt', '--length', `${LENGTH}`],
      '--no-validate',
      '--json',
    ];
    const rewritten = await onnxRewrite(rewrite, { cwd: folder() });
    assert.equal(rewritten.exitCode, 0, rewritten.stderr);
    const [decision] = JSON.parse(rewritten.stdout).sites;
    assert.equal(decision.operator, plan.sites[0]!.operator);
    // The plan says all that does not follow from the site.
    const settings = Object.entries(decision.attributes ?? {}).filter(([name]) => !FROM_SITE.includes(name));
    assert.deepEqual(plan.sites[0]!.attributes, Object.fromEntries(settings));

    const cache = readFileSync(path('cache.json'), 'utf8');
    // As do the keys of the cache.
    const keys = Object.keys(measurements()).filter(key => key.includes(multipoleAttention.id));
    assert.ok(keys.length > 10);
    for (const { name } of multipoleAttention.attributes) {
      const said = !FROM_SITE.includes(name);
      for (const key of keys) assert.equal(key.includes(`"${name}":`), said, `${key}: ${name}`);
    }
    const again = await tuneJson(...args);
    assert.equal(readFileSync(path('cache.json'), 'utf8'), cache);
    assert.deepEqual(again.plan, plan);
    assert.deepEqual(again.frontier, frontier);
  });

  it('goes on where it was interrupted', async () => {
    const args = ['causal.onnx', '--max-loss-increase', '2%', '--cache', 'cache.json', '-o', 'plan.json'];
    const { exitCode } = await onnxRewrite(
      ['tune', ...args, '--data', 'text.txt', '--length', `${LENGTH}`, '--windows', '1'],
      {
        cwd: folder(),
        onStart: child => {
          const timer = setInterval(() => {
            if (!existsSync(path('cache.json')) || Object.keys(measurements()).length < 8) return;
            clearInterval(timer);
            child.kill('SIGINT');
          }, 5);
          child.once('exit', () => clearInterval(timer));
        },
      },
    );
    assert.equal(exitCode, 130);
    assert.ok(!existsSync(path('plan.json')));
    const before = measurements();
    assert.ok(Object.keys(before).length >= 8);
    await tuneJson(...args);
    const after = measurements();
    assert.ok(Object.keys(after).length > Object.keys(before).length);
    for (const [key, value] of Object.entries(before)) assert.deepEqual(after[key], value, key);
  });

  it('keeps exact attention where nothing else keeps the budget, and says so', async () => {
    // Long enough for no form to see everything exactly.
    writeFileSync(
      path('text.txt'),
      new Uint8Array(4096).map((_, i) => (i * i) % 251),
    );
    const args = [
      'encoder.onnx',
      '--data',
      'text.txt',
      '--length',
      '2k',
      '--windows',
      '1',
      '--max-error',
      '0',
    ];
    const { exitCode, stdout, stderr } = await onnxRewrite(['tune', ...args], { cwd: folder() });
    assert.equal(exitCode, 0, stderr);
    assert.match(stdout, /the plan is exact attention/);
    assert.match(stdout, /relative squared error of the outputs/);
    assert.match(stdout, /No plan was written/);
    assert.deepEqual(readdirSync(folder()).sort(), ['causal.onnx', 'encoder.onnx', 'text.txt']);
  });

  it('replaces sliding windows, exactly, where there is nothing to choose', async () => {
    writeFileSync(path('window.onnx'), tinyTransformer({ layers: 1, causal: true, window: 9 }).model);
    const { plan, sites } = await tuneJson('window.onnx', '--max-loss-increase', '2%', '-o', 'plan.json');
    assert.deepEqual(plan.sites, [{ id: 'blocks.0.attn', operator: 'local-attention', attributes: {} }]);
    const { predicted, measured } = plan.tuning;
    assert.ok(predicted.ms > 0 && measured.ms > 0);
    assert.deepEqual([predicted.loss_increase, measured.loss_increase], [0, 0]);
    assert.ok(sites[0]!.exact_ms > 0);
  });

  it('takes labels from the data, and a loss from a module', async () => {
    const ids = Array.from({ length: 2 * LENGTH }, (_, i) => (37 * i) % 256);
    const shape = [2, LENGTH];
    const tensors = { input_ids: tensorFrom('int64', shape, ids), labels: tensorFrom('int64', shape, ids) };
    writeFileSync(path('data.npz'), encodeNpz(new Map(Object.entries(tensors))));
    writeFileSync(
      path('metric.mjs'),
      `export default ({ inputs, outputs, extras }) => {
        const { dims } = outputs.logits;
        return extras.labels.data.every((id, i) => id === inputs.input_ids.data[i]) ? 1 + dims[1] / 1000 : NaN;
      };`,
    );
    const base = ['tune', 'encoder.onnx', '--data', 'data.npz', '--max-loss-increase', '1%', '--json'];
    const own = await onnxRewrite([...base, '--metric', 'metric.mjs'], { cwd: folder() });
    assert.equal(own.exitCode, 0, own.stderr);
    const { metric, baseline } = JSON.parse(own.stdout) as TuningReport;
    assert.equal(metric.name, 'metric.mjs');
    assert.equal(baseline.metric, 1 + LENGTH / 1000);
  });

  it('says what is wrong with a metric module', async () => {
    const args = ['causal.onnx', '--data', 'text.txt', '--length', `${LENGTH}`, '--max-loss-increase', '1%'];
    const modules: readonly [string, RegExp][] = [
      ['export default () => 0;', /the metric \(metric\.mjs\) is 0 with exact attention/],
      ['export default () => NaN;', /the metric \(metric\.mjs\) is NaN/],
      ['export default () => "0.5";', /returned "0.5", not a number/],
      [
        'export default () => { throw new Error("no labels"); };',
        /the metric fails on text\.txt at \d+: no labels/,
      ],
      ['export const metric = 1;', /has no default function/],
      ['export default', /the metric module does not load/],
    ];
    for (const [text, pattern] of modules) {
      writeFileSync(path('metric.mjs'), text);
      await refused(pattern, ...args, '--metric', 'metric.mjs');
    }
    await refused(/missing\.mjs: cannot be read/, ...args, '--metric', 'missing.mjs');
  });

  it('knows before it begins that an output cannot be written', async () => {
    writeFileSync(path('file'), '');
    // The data is bad as well: that is looked at later.
    const args = ['causal.onnx', '--data', 'missing.npz', '--max-loss-increase', '1%'];
    for (const option of ['-o', '--report', '--cache']) {
      await refused(/file\/x\.html: a part of the path is not a folder/, ...args, option, 'file/x.html');
    }
    await refused(/error: \.: this is a folder/, ...args, '-o', '.');
    await refused(/file: not a cache of measurements/, ...args, '--cache', 'file');
    assert.deepEqual(readdirSync(folder()).sort(), ['causal.onnx', 'encoder.onnx', 'file', 'text.txt']);
  });

  it('says what is wrong with its arguments', async () => {
    const data = ['--data', 'text.txt', '--length', `${LENGTH}`];
    const loss = ['--max-loss-increase', '1%'];
    await refused(/no budget/, 'causal.onnx', ...data);
    await refused(/two budgets/, 'causal.onnx', ...data, ...loss, '--max-error', '0.1');
    await refused(
      /Write 0\.5% or, for so large a share, 50%/,
      'causal.onnx',
      ...data,
      '--max-loss-increase',
      '0.5',
    );
    await refused(/no loss is known for this model/, 'encoder.onnx', ...data, ...loss);
    await refused(
      /two budgets|limits the error/,
      'causal.onnx',
      ...data,
      '--max-error',
      '1',
      '--metric',
      'm.mjs',
    );
    await refused(
      /too short: no window of 4096 tokens/,
      'causal.onnx',
      '--data',
      'text.txt',
      '--length',
      '4k',
      ...loss,
    );
    await refused(/--mask-span says/, 'encoder.onnx', ...data, ...loss, '--mask-span', '3');
    await refused(/unknown operator "magic"/, 'causal.onnx', ...data, ...loss, '--op', 'magic');
    await refused(/no attention to tune.*not selected/, 'causal.onnx', ...data, ...loss, '--sites', 'x*');
    await refused(/--mask-share says/, 'encoder.onnx', ...data, ...loss, '--mask-share', '20%');
    await refused(
      /missing\.npz: no such file\n {2}Check the path/,
      'causal.onnx',
      '--data',
      'missing.npz',
      ...loss,
    );
    await refused(/would overwrite another file/, 'causal.onnx', ...data, ...loss, '-o', 'text.txt');
    assert.deepEqual(readdirSync(folder()).sort(), ['causal.onnx', 'encoder.onnx', 'text.txt']);
  });
});
