import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { temporaryFolder } from '../temporary-folder.js';
import { bilinearCases } from './bilinear-cases.js';
import { elementwiseCases } from './elementwise-cases.js';
import { localCases } from './local-cases.js';
import { multiLevelCases } from './multi-level-cases.js';
import { multipoleCases } from './multipole-cases.js';
import { structuredCases } from './structured-cases.js';

/**
 * By operator, whose runner is named after it: the cases, and names of one case of each path through the kernels; on a
 * GPU all of them run.
 */
const EMULATED = {
  'multipole-attention': {
    suite: multipoleCases,
    names: [
      'acausal ragged [bfloat16]',
      'acausal cluster, masked [float32]',
      'acausal paper preset [float16]',
      'causal chunk with past [float16]',
      'acausal random mask, contiguous, not finite [bfloat16]',
      'causal no retrieval, not finite [float32]',
      'causal retrieve error per head [bfloat16]',
      'acausal sliding, error, most [float32]',
    ],
  },
  'elementwise-attention': {
    suite: elementwiseCases,
    names: [
      'acausal order 0, random mask [float16]',
      'acausal order 6, many channels [float32]',
      'causal order 2, many chunks [bfloat16]',
      'causal order 2, chunk after a state [float32]',
      'causal order 6, step [float16]',
    ],
  },
  'multi-level-attention': {
    suite: multiLevelCases,
    names: [
      'causal divide by shared, small blocks [bfloat16]',
      'acausal level scale [float16]',
      'causal chunk across blocks [float16]',
      'acausal random mask [float32]',
      'acausal step, eight levels [bfloat16]',
    ],
  },
  'local-attention': {
    suite: localCases,
    names: [
      'causal value size one [float32]',
      'acausal many fewer queries [float16]',
      'large, heads wider than values [float16]',
      'large, keys outside windows not finite [bfloat16]',
    ],
  },
  'bilinear-attention': {
    suite: bilinearCases,
    names: [
      'causal tensor train of rank two [float32]',
      'acausal levels, ragged [bfloat16]',
      'causal levels by root mean squares [float16]',
    ],
  },
  'structured-matmul': {
    suite: structuredCases,
    names: ['butterfly of two [float32]', 'butterfly of 128 [bfloat16]', 'butterfly of 512 [float16]'],
  },
};

const run = (command: string, ...args: readonly string[]) => spawnSync(command, args, { encoding: 'utf8' });

/** Folder of the CUDA toolkit's headers. */
const TOOLKIT = [process.env.CUDA_HOME ?? '', '/usr/local/cuda'].find(
  folder => folder && existsSync(join(folder, 'include', 'cuda_fp16.h')),
);

describe('the CUDA kernels', () => {
  const folder = temporaryFolder();

  before(function () {
    if (TOOLKIT !== undefined && run(join(TOOLKIT, 'bin', 'nvcc'), '--version').status === 0) return;
    console.log(
      'no CUDA toolkit ($CUDA_HOME, /usr/local/cuda): the CUDA kernels are neither compiled nor emulated',
    );
    this.skip();
  });

  it('compile and link into a library that names its operators', function () {
    this.timeout(600_000);
    const library = join(folder(), 'libonnxrewrite_ops_cuda.so');
    const fast = ['--', '-Xptxas=-O0', '-Xcicc=-O1'];
    const build = run(
      process.execPath,
      'custom-ops/native/build-cuda.mjs',
      ...['--architectures', '80', '--all', '--output', library],
      ...fast,
    );
    assert.equal(build.status, 0, build.stdout + build.stderr);
    const exported = run('nm', '-D', '--defined-only', library).stdout;
    assert.match(exported, / T OnnxRewriteOperators$/m);
    assert.match(exported, / T OnnxRewriteDeviceMemory$/m);
    // A second RegisterCustomOps would make a second domain object, and CUDA itself comes from the driver alone.
    assert.doesNotMatch(exported, /RegisterCustomOps/);
    assert.doesNotMatch(run('readelf', '-d', library).stdout, /NEEDED.*(cuda|nvrtc)/);
  });

  for (const [operator, { suite, names }] of Object.entries(EMULATED)) {
    it(`compute in emulation what the reference of ${operator} does`, function () {
      this.timeout(600_000);
      const runner = join(folder(), operator);
      const compiled = run(
        process.env.CXX ?? 'c++',
        ...['-O1', '-std=c++17', '-DONNX_REWRITE_EMULATE_CUDA', '-w'],
        ...[`-I${join(TOOLKIT!, 'include')}`, '-Itest/gpu/emulation', '-x', 'c++'],
        ...[`test/gpu/${operator}-runner.cu`, 'test/gpu/emulation/emulation.cc', '-o', runner],
      );
      assert.equal(compiled.status, 0, compiled.stderr);
      for (const name of names) {
        const cases = join(folder(), 'cases.bin');
        const results = join(folder(), 'results.bin');
        writeFileSync(cases, suite.file(name, true));
        const done = run(runner, cases, results);
        assert.equal(done.status, 0, done.stderr);
        const problems = suite.check(readFileSync(results));
        assert.ok(problems.size > 0, `no case is named ${name}`);
        for (const [found, wrong] of problems) assert.deepEqual(wrong, [], found);
      }
    });
  }
});
