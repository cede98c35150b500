import assert from 'node:assert/strict';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { encodeNpz } from '../../cli/data/npz.js';
import { tensorFrom } from '../../cli/data/tensor.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { DataType } from '../../rewriter/onnx/spec.js';
import { temporaryFolder } from '../temporary-folder.js';
import { onnxRewrite } from './command-line.js';
import { tinyTransformer } from './tiny-transformer.js';

const LENGTH = 48;

describe('calibration of onnx-rewrite rewrite', () => {
  const folder = temporaryFolder();
  const path = (name: string) => join(folder(), name);

  beforeEach(() => {
    const random = new SeededRandom(9);
    writeFileSync(
      path('text.txt'),
      Uint8Array.from({ length: 3 * LENGTH }, () => random.below(256)),
    );
  });

  function save(options: Parameters<typeof tinyTransformer>[0]): void {
    writeFileSync(path('model.onnx'), tinyTransformer(options).model);
  }

  const rewrite = (...args: string[]) =>
    onnxRewrite(['rewrite', 'model.onnx', '-o', 'out.onnx', '--op', 'multi-level-attention', ...args], {
      cwd: folder(),
    });

  it('is demanded by an operator that cannot do without', async () => {
    save({});
    const { exitCode, stderr } = await rewrite();
    assert.equal(exitCode, 2);
    assert.match(stderr, /blocks\.0\.attn: multi-level-attention .* calibrated on data\n.*--data FILE/);
    assert.deepEqual(readdirSync(folder()), ['model.onnx', 'text.txt']);
  });

  it('approximates far tokens by the dimensions that data shows to matter', async () => {
    save({ layers: 1, causal: true });
    const args = ['--data', 'text.txt', '--length', `${LENGTH}`, '--inputs', 'text.txt', '--max-error', '1'];
    const errors: number[] = [];
    for (const ranks of ['2,6', '6,2']) {
      const { exitCode, stdout, stderr } = await rewrite(
        ...args,
        '--set',
        `ranks=${ranks}`,
        'block=8',
        '--json',
      );
      assert.equal(exitCode, 0, stderr);
      const [{ error, attributes, reason }] = JSON.parse(stdout).sites;
      assert.deepEqual(attributes.ranks, ranks.split(',').map(Number));
      assert.match(reason, /approximates softmax attention/);
      errors.push(error);
    }
    assert.ok(errors[0]! > errors[1]! && errors[1]! > 0, errors.join(', '));
  });

  it('keeps near tokens exact, from arrays and with padding', async () => {
    save({ mask: DataType.INT64 });
    const random = new SeededRandom(3);
    const ids = Array.from({ length: 2 * LENGTH }, () => random.below(256));
    const mask = ids.map((_, i) => Number(i % LENGTH < LENGTH - 7));
    const arrays = new Map([
      ['input_ids', tensorFrom('int64', [2, LENGTH], ids)],
      ['attention_mask', tensorFrom('int64', [2, LENGTH], mask)],
    ]);
    writeFileSync(path('data.npz'), encodeNpz(arrays));
    const { exitCode, stdout, stderr } = await rewrite(
      '--data',
      'data.npz',
      '--set',
      'block=64',
      '--length',
      '40',
      '--json',
    );
    assert.equal(exitCode, 0, stderr);
    for (const { error } of JSON.parse(stdout).sites) assert.ok(error < 1e-9);
  });

  it('leaves files of external data as they are', async () => {
    const { model, weights } = tinyTransformer({ externalData: 'weights.bin' });
    writeFileSync(path('model.onnx'), model);
    writeFileSync(path('weights.bin'), weights);
    const { exitCode, stderr } = await rewrite(
      '--data',
      'text.txt',
      '--length',
      `${LENGTH}`,
      '--set',
      'block=64',
    );
    assert.equal(exitCode, 0, stderr);
    assert.match(stderr, /Calibrated on 1 window of 48 tokens from text\.txt/);
    assert.ok(readFileSync(path('weights.bin')).equals(weights));
    assert.ok(
      readFileSync(path('out.onnx')).length < model.length + 40_000,
      'weights do not move into the model',
    );
    assert.deepEqual(readdirSync(folder()), ['model.onnx', 'out.onnx', 'text.txt', 'weights.bin']);
  });

  it('refuses data that does not serve, and says when none is needed', async () => {
    save({ layers: 1 });
    const refused = async (pattern: RegExp, ...args: string[]) => {
      const { exitCode, stderr } = await rewrite(...args);
      assert.match(stderr, pattern);
      assert.equal(exitCode, 2);
      assert.ok(!readdirSync(folder()).includes('out.onnx'));
    };
    await refused(/text\.txt: a text has no length of its own\n.*--length/, '--data', 'text.txt');
    await refused(/too short: no window of 500 tokens\n/, '--data', 'text.txt', '--length', '500');
    await refused(
      /ranks 9 add up to 9, and its heads have 8 dimensions/,
      ...['--data', 'text.txt', '--set', 'ranks=9'],
    );
    const unused = ['--data', 'text.txt', '--op', 'multipole-attention', '--no-validate'];
    assert.match((await rewrite(...unused)).stderr, /data was not used/);
  });
});
