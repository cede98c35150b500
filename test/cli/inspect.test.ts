import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DataType } from '../../rewriter/onnx/spec.js';
import { temporaryFolder } from '../temporary-folder.js';
import { onnxRewrite } from './command-line.js';
import { tinyTransformer } from './tiny-transformer.js';

describe('onnx-rewrite inspect', () => {
  const folder = temporaryFolder();

  function save(name: string, options?: Parameters<typeof tinyTransformer>[0]): string {
    const file = join(folder(), name);
    writeFileSync(file, tinyTransformer(options).model);
    return file;
  }

  it('prints one JSON document with the keys of the contract and nothing else', async () => {
    const file = save('model.onnx', { mask: DataType.INT64, causal: true });
    const { exitCode, stdout, stderr } = await onnxRewrite(['inspect', file, '--json']);
    assert.equal(exitCode, 0);
    assert.equal(stderr, '');
    assert.match(stdout, /^\{.*\}\n$/);
    const document = JSON.parse(stdout);
    assert.deepEqual(Object.keys(document), ['model', 'sites', 'near_misses']);
    assert.deepEqual(document.model, {
      file,
      ir_version: 8,
      opsets: { 'ai.onnx': 17 },
      producer: 'tiny',
      nodes: document.model.nodes,
      initializers_bytes: document.model.initializers_bytes,
      external_data: [],
    });
    assert.ok(document.model.nodes > 40);
    assert.ok(document.model.initializers_bytes > 4 * (2 * 257 * 32 + 8 * 32 * 32));
    assert.equal(document.sites.length, 2);
    const { operators, ...site } = document.sites[1];
    assert.ok(operators.includes('multipole-attention'));
    assert.deepEqual(site, {
      computation: 'softmax',
      parameters: {},
      id: 'blocks.1.attn',
      scope: 'blocks.1.attn',
      pattern: site.pattern,
      query_heads: 4,
      kv_heads: 4,
      head_dim: 8,
      scale: site.scale,
      causal: true,
      mask: 'causal+padding',
      window: null,
      kind: 'self',
      dtype: 'float32',
      alignment: site.alignment,
      empty_row: site.empty_row,
      past: false,
      replaceable: true,
      reason: null,
    });
    assert.ok(Math.abs(site.scale - 8 ** -0.5) < 1e-6);
  });

  it('shows how wide a sliding window is', async () => {
    const file = save('window.onnx', { layers: 1, causal: true, window: 9 });
    const { stdout } = await onnxRewrite(['inspect', file]);
    assert.match(stdout, /sliding-window \(9 before, 0 after\) +local-attention/);
    const { sites } = JSON.parse((await onnxRewrite(['inspect', file, '--json'])).stdout);
    assert.deepEqual(sites[0].window, { left: 9, right: 0 });
  });

  it('prints a document a line for several models, and takes folders', async () => {
    mkdirSync(join(folder(), 'more'));
    const files = [save('a.onnx'), save('more/c.onnx'), save('more/b.onnx')];
    writeFileSync(join(folder(), 'more', 'notes.txt'), 'no model');
    const { exitCode, stdout } = await onnxRewrite(['inspect', files[0]!, join(folder(), 'more'), '--json']);
    assert.equal(exitCode, 0);
    const lines = stdout.trimEnd().split('\n');
    assert.deepEqual(
      lines.map(line => JSON.parse(line).model.file),
      [files[0], files[2], files[1]],
    );
  });

  it('shows the other models when one is bad, and says so in the exit code', async () => {
    const good = save('good.onnx');
    const bad = join(folder(), 'bad.onnx');
    writeFileSync(bad, 'no model at all');
    const { exitCode, stdout, stderr } = await onnxRewrite(['inspect', bad, good, '--json']);
    assert.equal(exitCode, 2);
    assert.equal(JSON.parse(stdout).model.file, good);
    assert.match(stderr, /bad\.onnx/);
  });

  it('draws a table without color codes where there is no terminal', async () => {
    const { exitCode, stdout } = await onnxRewrite(['inspect', save('model.onnx')]);
    assert.equal(exitCode, 0);
    assert.match(stdout, /2 attention sites, 2 replaceable; no near misses/);
    assert.match(stdout, /^blocks\.0\.attn +\S+ +4 x 8 +0\.3536 +self +none +multipole-attention/m);
    assert.ok(!stdout.includes('\x1b'));
  });

  it('names the files of external data', async () => {
    const { model, weights } = tinyTransformer({ externalData: 'weights.bin' });
    const file = join(folder(), 'model.onnx');
    writeFileSync(file, model);
    writeFileSync(join(folder(), 'weights.bin'), weights);
    const { stdout } = await onnxRewrite(['inspect', file, '--json']);
    const { external_data, initializers_bytes } = JSON.parse(stdout).model;
    assert.deepEqual(external_data, ['weights.bin']);
    assert.ok(initializers_bytes > weights.length);
  });
});
