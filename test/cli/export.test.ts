import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { nativeLibraries } from '../../custom-ops/runtime/node/binding.js';
import { DataType } from '../../rewriter/onnx/spec.js';
import { temporaryFolder } from '../temporary-folder.js';
import { onnxRewrite } from './command-line.js';
import { tinyTransformer } from './tiny-transformer.js';

describe('onnx-rewrite export', () => {
  const folder = temporaryFolder();
  const path = (...names: string[]) => join(folder(), ...names);
  const files = (at: string) => (readdirSync(at, { recursive: true }) as string[]).sort();

  it('makes a model repository, external data and all', async () => {
    const { model, weights } = tinyTransformer({ mask: DataType.BOOL, externalData: 'weights.bin' });
    writeFileSync(path('tiny model.onnx'), model);
    writeFileSync(path('weights.bin'), weights);
    const { exitCode, stderr } = await onnxRewrite([
      'export',
      path('tiny model.onnx'),
      '-o',
      path('repository'),
    ]);
    assert.equal(exitCode, 0, stderr);
    const made = path('repository', 'tiny_model');
    assert.deepEqual(files(made), ['1', '1/model.onnx', '1/weights.bin', 'config.pbtxt']);
    assert.deepEqual(readFileSync(join(made, '1', 'model.onnx')), Buffer.from(model));
    assert.deepEqual(readFileSync(join(made, '1', 'weights.bin')), weights);
    assert.equal(
      readFileSync(join(made, 'config.pbtxt'), 'utf8'),
      `name: "tiny_model"
platform: "onnxruntime_onnx"
max_batch_size: 0
input [
  {
    name: "input_ids"
    data_type: TYPE_INT64
    dims: [ -1, -1 ]
  }
]
input [
  {
    name: "attention_mask"
    data_type: TYPE_BOOL
    dims: [ -1, -1 ]
  }
]
output [
  {
    name: "logits"
    data_type: TYPE_FP32
    dims: [ -1, -1, 257 ]
  }
]
instance_group [
  {
    kind: KIND_CPU
  }
]
`,
    );
  });

  it('names the library with native kernels by its path on the server, and writes for KServe', async function () {
    if (nativeLibraries().length === 0) this.skip();
    writeFileSync(path('tiny.onnx'), tinyTransformer().model);
    await onnxRewrite(['rewrite', path('tiny.onnx'), '-o', path('out.onnx'), '--no-validate']);
    const { exitCode, stdout, stderr } = await onnxRewrite([
      'export',
      path('out.onnx'),
      ...['-o', path('repository'), '--name', 'Tiny_1', '--native', '--repository', '/mnt/models'],
      ...['--max-batch', '8', '--device', 'gpu', '--storage-uri', 'pvc://claim/repository', '--json'],
    ]);
    assert.equal(exitCode, 0, stderr);
    const document = JSON.parse(stdout);
    assert.equal(document.custom_operators, 'native-kernels');
    for (const file of document.files) assert.ok(existsSync(file), file);
    const config = readFileSync(path('repository', 'Tiny_1', 'config.pbtxt'), 'utf8');
    assert.match(config, /max_batch_size: 8/);
    assert.match(config, /data_type: TYPE_INT64\n {4}dims: \[ -1 \]/);
    assert.match(config, /kind: KIND_GPU/);
    const library = /op_library_filename: \[ "(.*)" \]/.exec(config)![1]!;
    assert.ok(library.startsWith('/mnt/models/Tiny_1/1/'));
    assert.ok(existsSync(path('repository', library.slice('/mnt/models/'.length))));
    const service = readFileSync(path('repository', 'Tiny_1', 'inference-service.yaml'), 'utf8');
    assert.match(service, /name: tiny-1\n/);
    assert.match(service, /storageUri: "pvc:\/\/claim\/repository"/);
  });

  it('refuses what it cannot do, and leaves nothing behind', async () => {
    writeFileSync(path('tiny.onnx'), tinyTransformer({ sizes: [1, 16] }).model);
    const refused = async (args: readonly string[], reason: RegExp) => {
      const { exitCode, stderr } = await onnxRewrite(['export', path('tiny.onnx'), ...args]);
      assert.equal(exitCode, 2);
      assert.match(stderr, reason);
    };
    await refused(['-o', path('repository'), '--max-batch', '4'], /no dynamic batch dimension/);
    assert.deepEqual(files(folder()), ['tiny.onnx']);
    mkdirSync(path('repository', 'tiny'), { recursive: true });
    await refused(['-o', path('repository')], /exists already/);
    await refused(['-o', path('repository'), '--name', '../up'], /Expected letters/);
    assert.deepEqual(files(folder()), ['repository', 'repository/tiny', 'tiny.onnx']);
  });
});
