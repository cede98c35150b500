import assert from 'node:assert/strict';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { decodeJsonTensors } from '../../cli/data/json-tensors.js';
import { encodeNpy } from '../../cli/data/npy.js';
import { decodeNpz } from '../../cli/data/npz.js';
import { tensorFrom } from '../../cli/data/tensor.js';
import { nativeParts } from '../../custom-ops/runtime/node/binding.js';
import { temporaryFolder } from '../temporary-folder.js';
import { onnxRewrite } from './command-line.js';
import { tinyTokenizer } from './tiny-tokenizer.js';
import { tinyTransformer } from './tiny-transformer.js';

describe('onnx-rewrite run', () => {
  const folder = temporaryFolder();
  const path = (name: string) => join(folder(), name);

  beforeEach(() => writeFileSync(path('model.onnx'), tinyTransformer().model));

  it('prints one JSON document about outputs, time, memory and what ran', async () => {
    const args = ['run', path('model.onnx'), '--length', '20', '--repeat', '3', '--threads', '1', '--json'];
    const { exitCode, stdout, stderr } = await onnxRewrite(args);
    assert.equal(exitCode, 0, stderr);
    assert.equal(stderr, '');
    const result = JSON.parse(stdout);
    assert.equal(result.length, 20);
    assert.equal(result.runtime.name, 'onnxruntime-node');
    assert.equal(result.runtime.custom_operators, null);
    assert.equal(result.run_ms.length, 3);
    assert.ok(result.peak_bytes > 10e6);
    const [{ name, type, dims, min, mean, max, not_finite }] = result.outputs;
    assert.deepEqual([name, type, dims, not_finite], ['logits', 'float32', [1, 20, 257], 0]);
    assert.ok(min < mean && mean < max);
  });

  it('says what computes the operators of a rewritten model', async () => {
    const rewrite = ['rewrite', path('model.onnx'), '-o', path('out.onnx'), '--no-validate'];
    assert.equal((await onnxRewrite(rewrite)).exitCode, 0);
    const { stdout } = await onnxRewrite(['run', path('out.onnx'), '--json']);
    const native = nativeParts().ok;
    assert.equal(JSON.parse(stdout).runtime.custom_operators, native ? 'native-kernels' : 'function-body');
    const text = (await onnxRewrite(['run', path('out.onnx')])).stdout;
    assert.match(text, native ? /by native kernels/ : /by their function bodies/);
  });

  it('tells how to get an execution provider that does not load', async function () {
    const { exitCode, stderr } = await onnxRewrite(['run', path('model.onnx'), '--provider', 'cuda']);
    if (exitCode === 0) this.skip();
    assert.equal(exitCode, 2);
    assert.match(stderr, /CUDA execution provider (does not load|finds no GPU)[\s\S]*leave out "cuda"/);
  });

  it('stores the outputs as .npz and .json', async () => {
    writeFileSync(path('text.txt'), 'words');
    const run = async (output: string) => {
      const args = ['run', path('model.onnx'), '--inputs', path('text.txt'), '-o', path(output)];
      const { exitCode, stderr } = await onnxRewrite(args);
      assert.equal(exitCode, 0, stderr);
    };
    await run('out.npz');
    await run('out.json');
    assert.deepEqual(readdirSync(folder()).sort(), ['model.onnx', 'out.json', 'out.npz', 'text.txt']);
    const fromNpz = decodeNpz(readFileSync(path('out.npz')));
    assert.deepEqual(fromNpz.get('logits')!.dims, [1, 5, 257]);
    const fromJson = decodeJsonTensors(readFileSync(path('out.json'), 'utf8'), () => undefined);
    assert.deepEqual(fromJson, fromNpz);
  });

  it('takes a text by the tokenizer beside the model', async () => {
    writeFileSync(path('tokenizer.json'), tinyTokenizer());
    writeFileSync(path('text.txt'), 'The sea was quieter.');
    const args = ['run', path('model.onnx'), '--inputs', path('text.txt'), '--json'];
    const { exitCode, stdout, stderr } = await onnxRewrite(args);
    assert.equal(exitCode, 0, stderr);
    const { inputs, length } = JSON.parse(stdout);
    assert.deepEqual([inputs, length], [`${path('text.txt')}, as tokens of ${path('tokenizer.json')}`, 8]);
  });

  it('takes an array without a name for the one input to give', async () => {
    const ids = tensorFrom('int64', [1, 3], [1, 2, 3]);
    writeFileSync(path('ids.npy'), encodeNpy(ids));
    const args = ['run', path('model.onnx'), '--inputs', path('ids.npy'), '--json'];
    const { exitCode, stdout, stderr } = await onnxRewrite(args);
    assert.equal(exitCode, 0, stderr);
    assert.equal(JSON.parse(stdout).length, 3);
    writeFileSync(path('ids.npy'), 'no array');
    const bad = await onnxRewrite(args);
    assert.equal(bad.exitCode, 2);
    assert.match(bad.stderr, /ids\.npy: not a NumPy array/);
  });

  it('names ids that the model does not have', async () => {
    writeFileSync(path('bad.json'), '{"input_ids": [[1, 999]]}');
    const { exitCode, stderr } = await onnxRewrite(['run', path('model.onnx'), '--inputs', path('bad.json')]);
    assert.equal(exitCode, 2);
    assert.match(stderr, /bad\.json: input "input_ids" has the id 999, and the model knows ids up to 256/);
  });

  it('refuses a model that the runtime refuses, and leaves nothing behind', async () => {
    const args = ['run', path('model.onnx'), '--inputs', path('bad.json'), '-o', path('out.npz')];
    writeFileSync(path('bad.json'), '{"input_ids": [[1, -999]]}');
    const { exitCode, stderr } = await onnxRewrite(args);
    assert.equal(exitCode, 2);
    assert.match(stderr, /model\.onnx: the model does not run/);
    assert.deepEqual(readdirSync(folder()).sort(), ['bad.json', 'model.onnx']);
  });
});
