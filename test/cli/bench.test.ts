import assert from 'node:assert/strict';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { BenchReport } from '../../cli/bench-report.js';
import { temporaryFolder } from '../temporary-folder.js';
import { onnxRewrite } from './command-line.js';
import { tinyTransformer } from './tiny-transformer.js';

describe('onnx-rewrite bench', () => {
  const folder = temporaryFolder();
  const path = (name: string) => join(folder(), name);

  beforeEach(() => {
    writeFileSync(path('original.onnx'), tinyTransformer({ layers: 2 }).model);
    writeFileSync(path('other.onnx'), tinyTransformer({ layers: 1 }).model);
  });

  const bench = (...args: string[]) => onnxRewrite(['bench', ...args], { cwd: folder() });

  async function benchJson(...args: string[]): Promise<BenchReport> {
    const { exitCode, stdout, stderr } = await bench(...args, '--json');
    assert.equal(exitCode, 0, stderr);
    assert.equal(stderr, '');
    return JSON.parse(stdout);
  }

  it('prints one JSON document about every model, setting and length', async () => {
    const args = ['original.onnx', 'other.onnx', '--lengths', '1k,64', '--threads', '1', '2', '--runs', '3'];
    const { machine, runs, crossover, scaling } = await benchJson(...args);
    assert.ok(machine.cores > 0 && machine.memory_bytes > 0);
    assert.deepEqual(
      runs.map(run => [run.threads, run.model, run.length]),
      [1, 2].flatMap(threads =>
        ['original.onnx', 'other.onnx'].flatMap(model => [64, 1024].map(length => [threads, model, length])),
      ),
    );
    for (const run of runs) {
      assert.deepEqual([run.provider, run.batch, run.failure, run.ms.length], ['CPU', 1, null, 3]);
      const sorted = [...run.ms].sort((a, b) => a - b);
      assert.deepEqual([run.min_ms, run.median_ms, run.max_ms], sorted);
      assert.ok(Math.abs(run.tokens_per_second! / ((1000 * run.length!) / run.median_ms!) - 1) < 1e-9);
      assert.ok(run.peak_bytes! > run.loaded_bytes! && run.loaded_bytes! > 10e6);
    }
    assert.deepEqual(
      crossover.map(({ model, threads }) => [model, threads]),
      [
        ['other.onnx', 1],
        ['other.onnx', 2],
      ],
    );
    assert.equal(scaling.length, 4);
    for (const { time, memory } of scaling) {
      assert.deepEqual([time?.points, time?.from, time?.to], [2, 64, 1024]);
      assert.ok(memory!.exponent > 0.5);
    }
  });

  it('goes on where a model does not take a length', async () => {
    writeFileSync(path('fixed.onnx'), tinyTransformer({ sizes: [1, 64] }).model);
    writeFileSync(path('text.txt'), 'words and '.repeat(20));
    const args = [
      'fixed.onnx',
      'other.onnx',
      '--lengths',
      '64',
      '128',
      '--inputs',
      'text.txt',
      '--no-memory',
    ];
    const { runs, crossover } = await benchJson(...args);
    assert.deepEqual(
      runs.map(({ model, length, median_ms }) => [model, length, median_ms !== null]),
      [
        ['fixed.onnx', 64, true],
        ['fixed.onnx', 128, false],
        ['other.onnx', 64, true],
        ['other.onnx', 128, true],
      ],
    );
    assert.match(runs[1]!.failure!, /\[1, 128\].*\[1, 64\]/);
    assert.ok(runs.every(({ peak_bytes }) => peak_bytes === null));
    assert.ok(crossover[0]!.length === 64 || crossover[0]!.length === 128);
    const { stdout } = await bench(...args);
    assert.match(stdout, /fixed\.onnx +64 .*\n +128 +failed/);
    assert.match(stdout, /fixed\.onnx at 128 tokens: .*has shape/);
  });

  it('goes on where the runtime refuses to run a model', async () => {
    // Ids come from a file by name; ids that count from the end of the vocabulary may be beyond its beginning.
    writeFileSync(path('inputs.json'), JSON.stringify({ input_ids: [[1, 2, 3]] }));
    const { runs } = await benchJson(
      'original.onnx',
      '--inputs',
      'inputs.json',
      '--runs',
      '1',
      '--batch',
      '2',
    );
    assert.deepEqual([runs.length, runs[0]!.length, runs[0]!.batch], [1, 3, 2]);
    writeFileSync(path('inputs.json'), JSON.stringify({ input_ids: [[1, 2, -999]] }));
    const { exitCode, stderr } = await bench('original.onnx', '--inputs', 'inputs.json');
    assert.equal(exitCode, 2);
    assert.match(stderr, /no model runs at any length; original\.onnx: .*(indices|out of)/s);
  });

  it('gives up on models that take too long', async () => {
    const { exitCode, stderr } = await bench(
      'original.onnx',
      '--lengths',
      '64,128',
      '--max-seconds',
      '0.0001',
    );
    assert.equal(exitCode, 2);
    assert.match(stderr, /original\.onnx: a run took longer than 0\.0001 s/);
  });

  it('refuses bad lengths and options', async () => {
    writeFileSync(path('text.txt'), 'short');
    for (const [args, message] of [
      [['--lengths', '0'], /number of tokens, such as 4096 or 4k/],
      [['--lengths', '1k,two'], /number of tokens/],
      [['--length', '64.5'], /number of tokens/],
      [['--lengths', '64', '--inputs', 'text.txt'], /only 5 bytes, not 64/],
      [['--max-seconds', '0'], /seconds above 0/],
      [['--provider', 'tpu'], /cpu, cuda, webgpu/],
      [['--report', 'page.pdf'], /\.html, \.json/],
    ] as const) {
      const { exitCode, stdout, stderr } = await bench('original.onnx', ...args);
      assert.equal(exitCode, 2, args.join(' '));
      assert.equal(stdout, '');
      assert.match(stderr, message);
    }
    const { exitCode, stdout, stderr } = await bench('original.onnx', 'absent.onnx', '--lengths', '64');
    assert.deepEqual([exitCode, stdout], [2, '']);
    assert.match(stderr, /absent\.onnx: no such file/);
  });

  it('writes a report for people and one for tools', async () => {
    for (const report of ['page.html', 'report.json']) {
      const { exitCode, stdout, stderr } = await bench(
        ...[
          'original.onnx',
          'other.onnx',
          '--lengths',
          '32,64',
          '--runs',
          '1',
          '--no-memory',
          '--report',
          report,
        ],
      );
      assert.equal(exitCode, 0, stderr);
      assert.match(stdout, new RegExp(`Report: ${report}`));
    }
    const page = readFileSync(path('page.html'), 'utf8');
    assert.match(page, /^<!doctype html>/);
    assert.equal(page.match(/<svg viewBox[^>]*role="img"/g)?.length, 2);
    assert.equal(JSON.parse(readFileSync(path('report.json'), 'utf8')).runs.length, 4);
  });

  it('leaves no file behind when it is interrupted', async () => {
    const { exitCode } = await onnxRewrite(
      ['bench', path('original.onnx'), '--lengths', '6000', '--report', path('page.html')],
      {
        onStart: child => {
          const timer = setInterval(() => {
            if (!readdirSync(folder()).some(name => name.endsWith('.tmp'))) return;
            clearInterval(timer);
            setTimeout(() => child.kill('SIGINT'), 300);
          }, 5);
          child.once('exit', () => clearInterval(timer));
        },
      },
    );
    assert.equal(exitCode, 130);
    assert.deepEqual(readdirSync(folder()).sort(), ['original.onnx', 'other.onnx']);
  });
});
