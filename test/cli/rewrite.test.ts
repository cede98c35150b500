import assert from 'node:assert/strict';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { buildModel } from '../../rewriter/onnx/encode.js';
import { DataType } from '../../rewriter/onnx/spec.js';
import { temporaryFolder } from '../temporary-folder.js';
import { onnxRewrite } from './command-line.js';
import { tinyTransformer } from './tiny-transformer.js';

/** Exact attention: a small function body, which loads fast. */
const EXACT = ['--set', 'retrieve=-1'];

describe('onnx-rewrite rewrite', () => {
  const folder = temporaryFolder();
  const path = (name: string) => join(folder(), name);

  function save(options?: Parameters<typeof tinyTransformer>[0]): string {
    writeFileSync(path('model.onnx'), tinyTransformer(options).model);
    return path('model.onnx');
  }

  it('refuses operators that need trained weights, unless the model will be retrained', async () => {
    const args = ['rewrite', save(), '-o', path('out.onnx'), '--op', 'elementwise-attention', '--json'];
    const refused = JSON.parse((await onnxRewrite(args)).stdout);
    for (const { decision, reason } of refused.sites) {
      assert.equal(decision, 'kept');
      assert.match(reason, /right only in a model trained with it.* --retrain/);
    }
    const odd = await onnxRewrite([...args, '--retrain', '--set', 'order=3']);
    assert.equal(odd.exitCode, 2);
    assert.match(odd.stderr, /order 3 is odd: .* weights change sign/);
    const retrained = await onnxRewrite([...args, '--retrain']);
    assert.equal(retrained.exitCode, 0, retrained.stderr);
    const document = JSON.parse(retrained.stdout);
    assert.equal(document.validation, null);
    for (const { operator, attributes } of document.sites) {
      assert.equal(operator, 'elementwise-attention');
      assert.equal(attributes.order, 2);
    }
    const run = await onnxRewrite(['run', path('out.onnx'), '--length', '12']);
    assert.equal(run.exitCode, 0, run.stderr);
  });

  it('replaces every site, validates, and prints the document of the contract', async () => {
    const model = save({ mask: DataType.INT64 });
    const args = ['rewrite', model, '-o', path('out.onnx'), '--length', '40', '--json'];
    const { exitCode, stdout, stderr } = await onnxRewrite(args);
    assert.equal(stderr, '');
    assert.equal(exitCode, 0);
    const document = JSON.parse(stdout);
    assert.deepEqual(Object.keys(document), ['version', 'sites', 'model', 'validation']);
    for (const [i, site] of document.sites.entries()) {
      assert.deepEqual(Object.keys(site), ['id', 'decision', 'operator', 'attributes', 'reason', 'error']);
      assert.equal(site.id, `blocks.${i}.attn`);
      assert.equal(site.decision, 'replaced');
      assert.equal(site.operator, 'multipole-attention');
      assert.ok(site.error >= 0 && site.error < 0.02);
    }
    assert.equal(document.model.file, path('out.onnx'));
    assert.equal(document.model.original, model);
    assert.equal(document.validation.passed, true);
    const inspected = JSON.parse((await onnxRewrite(['inspect', path('out.onnx'), '--json'])).stdout);
    const { original, ...header } = document.model;
    assert.deepEqual(inspected.model, header);
    assert.equal(inspected.model.opsets['ai.onnxrewrite'], 1);
  });

  it('computes sliding windows, exactly, from the keys inside them', async () => {
    const model = save({ mask: DataType.INT64, causal: true, window: 11 });
    const args = ['rewrite', model, '-o', path('out.onnx'), '--length', '9', '150', '--json'];
    const { exitCode, stdout, stderr } = await onnxRewrite(args);
    assert.equal(exitCode, 0, stderr);
    const { sites, validation } = JSON.parse(stdout);
    assert.equal(sites.length, 2);
    for (const site of sites) {
      assert.equal(site.operator, 'local-attention');
      assert.deepEqual(
        [site.attributes.window_left, site.attributes.window_right],
        [11, 0],
        'the key itself is not counted',
      );
      assert.ok(site.error < 1e-10);
    }
    assert.equal(validation.passed, true);
    const widened = await onnxRewrite([...args, '--op', 'local-attention', '--set', 'window_left=12']);
    assert.equal(widened.exitCode, 2);
    assert.match(widened.stderr, /the graph has window_left 11/);
  });

  it('decides without writing in a dry run, whose output is a plan', async () => {
    const model = save();
    const dry = await onnxRewrite([
      'rewrite',
      model,
      '--dry-run',
      '--json',
      '--sites',
      '*.1.*',
      '--min-length',
      '77',
    ]);
    assert.equal(dry.exitCode, 0);
    const { sites, validation, model: header } = JSON.parse(dry.stdout);
    assert.equal(validation, null);
    assert.equal(header.file, null);
    assert.deepEqual(
      sites.map((site: { decision: string; reason: string }) => site.decision),
      ['kept', 'replaced'],
    );
    assert.equal(sites[0].reason, 'not selected');
    assert.equal(sites[1].attributes.exact_below, 77);
    assert.match(sites[1].reason, /exact below 77 keys/);
    assert.deepEqual(readdirSync(folder()), ['model.onnx']);

    writeFileSync(path('plan.json'), dry.stdout);
    const args = [
      'rewrite',
      model,
      '--plan',
      path('plan.json'),
      '-o',
      path('out.onnx'),
      '--no-validate',
      '--json',
    ];
    const planned = JSON.parse((await onnxRewrite(args)).stdout);
    assert.deepEqual(planned.sites[1], sites[1]);
    assert.equal(planned.sites[0].decision, 'kept');
  });

  it('leaves no output behind when a budget is exceeded, unless told to keep it', async () => {
    const model = save();
    const coarse = ['--length', '1024', '--min-length', '0', '--set', 'retrieve=0'];
    const args = ['rewrite', model, '-o', path('out.onnx'), '--json', ...coarse];
    const strict = ['--max-error', '1e-9'];
    const failed = await onnxRewrite([...args, ...strict]);
    assert.equal(failed.exitCode, 1);
    const document = JSON.parse(failed.stdout);
    assert.equal(document.validation.passed, false);
    assert.equal(document.model.file, null);
    assert.ok(document.sites[0].error > 1e-9);
    assert.deepEqual(readdirSync(folder()), ['model.onnx']);

    const outputs = await onnxRewrite([...args, '--max-output-error', '0']);
    assert.equal(outputs.exitCode, 1);
    assert.deepEqual(readdirSync(folder()), ['model.onnx']);

    const kept = await onnxRewrite([...args, ...strict, '--keep']);
    assert.equal(kept.exitCode, 1);
    assert.deepEqual(readdirSync(folder()), ['model.onnx', 'out.onnx']);
  });

  it('copies the input byte for byte where there is nothing to do', async () => {
    const model = save();
    writeFileSync(path('plan.json'), '{"version": 1, "sites": []}');
    const args = ['rewrite', model, '-o', path('out.onnx'), '--plan', path('plan.json')];
    const { exitCode, stderr } = await onnxRewrite(args);
    assert.equal(exitCode, 0);
    assert.match(stderr, /No site was replaced/);
    assert.ok(readFileSync(model).equals(readFileSync(path('out.onnx'))));
  });

  it('leaves out descriptions on demand', async () => {
    const model = path('described.onnx');
    const metadata = { 'pkg.torch.onnx.stack_trace': 'File "/home/somebody/model.py", line 12' };
    const relu = { opType: 'Relu', inputs: ['x'], outputs: ['y'], attributes: {}, metadata };
    const [input, output] = ['x', 'y'].map(name => ({ name, dataType: DataType.FLOAT, dims: [2] }));
    const graph = { name: 'main', inputs: [input!], outputs: [output!], nodes: [relu] };
    writeFileSync(model, buildModel({ irVersion: 10, opsetImports: { '': 18 }, graph }));
    const { exitCode } = await onnxRewrite(['rewrite', model, '-o', path('out.onnx'), '--strip-metadata']);
    assert.equal(exitCode, 0);
    assert.ok(readFileSync(model).includes('somebody'));
    assert.ok(!readFileSync(path('out.onnx')).includes('somebody'));
  });

  it('keeps sites whose static length never reaches the minimum', async () => {
    const model = save({ sizes: [1, 20] });
    const args = ['rewrite', model, '--dry-run', '--json', '--min-length', '21'];
    const { sites } = JSON.parse((await onnxRewrite(args)).stdout);
    for (const { decision, reason } of sites) {
      assert.equal(decision, 'kept');
      assert.match(reason, /its 20 keys are fewer than the minimum length, 21/);
    }
  });

  for (const extension of ['html', 'md', 'json']) {
    it(`writes a report as .${extension}`, async () => {
      const model = save();
      const report = path(`report.${extension}`);
      const { exitCode } = await onnxRewrite([
        ...['rewrite', model, '-o', path('out.onnx'), '--length', '30', '--report', report, ...EXACT],
      ]);
      assert.equal(exitCode, 0);
      const text = readFileSync(report, 'utf8');
      assert.match(text, /blocks.*0.*attn/);
      if (extension === 'json') assert.equal(JSON.parse(text).validation.passed, true);
    });
  }

  it('writes the report of a rewrite that fails validation', async () => {
    const model = save();
    const args = [
      '--length',
      '600',
      '--min-length',
      '0',
      '--max-error',
      '0',
      '--report',
      path('report.json'),
    ];
    const { exitCode } = await onnxRewrite(['rewrite', model, '-o', path('out.onnx'), ...args]);
    assert.equal(exitCode, 1);
    const report = JSON.parse(readFileSync(path('report.json'), 'utf8'));
    assert.equal(report.validation.passed, false);
    assert.equal(report.output, null);
    assert.deepEqual(readdirSync(folder()).sort(), ['model.onnx', 'report.json']);
  });

  it('validates before external data is in place, then copies or links it', async () => {
    const { model, weights } = tinyTransformer({ externalData: 'weights.bin' });
    writeFileSync(path('model.onnx'), model);
    writeFileSync(path('weights.bin'), weights);
    for (const mode of ['copy', 'link']) {
      const output = path(`${mode}/out.onnx`);
      const args = [
        'rewrite',
        path('model.onnx'),
        '-o',
        output,
        '--external-data',
        mode,
        '--length',
        '30',
        ...EXACT,
      ];
      const { exitCode, stderr } = await onnxRewrite(args);
      assert.equal(exitCode, 0, stderr);
      assert.deepEqual(readdirSync(path(mode)).sort(), ['out.onnx', 'weights.bin']);
      assert.ok(readFileSync(path(`${mode}/weights.bin`)).equals(weights));
      const run = await onnxRewrite(['run', output, '--length', '30']);
      assert.equal(run.exitCode, 0, run.stderr);
    }
  });

  it('passes settings to the operator', async () => {
    const model = save();
    const args = ['rewrite', model, '--dry-run', '--json', '--set', 'key_clusters=5', 'retrieve=-1'];
    const { sites } = JSON.parse((await onnxRewrite(args)).stdout);
    assert.equal(sites[0].attributes.key_clusters, 5);
    assert.deepEqual([sites[0].attributes.retrieve].flat(), [-1]);
  });

  it('refuses bad usage with one message and exit code 2', async () => {
    const model = save();
    writeFileSync(path('plan.json'), '{"version": 1, "sites": [{"id": "no.such", "operator": null}]}');
    const output = ['-o', path('out.onnx')];
    const cases: readonly (readonly [readonly string[], RegExp])[] = [
      [[], /no output file/],
      [['-o', model], /would overwrite the input/],
      [[...output, '--op', 'no-such-operator'], /unknown operator "no-such-operator"/],
      [[...output, '--preset', 'no-such-preset'], /no preset "no-such-preset"/],
      [[...output, '--set', 'no_such=1'], /no attribute "no_such"/],
      [[...output, '--set', 'segment'], /not an assignment/],
      [[...output, '--set', 'segment=many'], /segment takes an integer, not "many"/],
      [[...output, '--sites', 'nowhere*'], /no site matches "nowhere\*"/],
      [[...output, '--plan', path('plan.json')], /no attention site "no.such"/],
      [[...output, '--plan', path('missing.json')], /missing\.json/],
      [[...output, '--plan', path('plan.json'), '--op', 'x'], /cannot be used with/],
      [[...output, '--min-length', '-3'], /Expected an integer/],
      [[...output, '--length', 'short'], /Expected a number of tokens/],
      [[...output, '--max-error', 'small'], /Expected a number/],
      [[...output, '--report', path('report.pdf')], /Expected a file name that ends in/],
      [[...output, '--report', model], /Expected a file name that ends in/],
      [[...output, '--no-such-option'], /unknown option/],
    ];
    const results = await Promise.all(cases.map(([args]) => onnxRewrite(['rewrite', model, ...args])));
    for (const [i, { exitCode, stdout, stderr }] of results.entries()) {
      assert.match(stderr, cases[i]![1]);
      assert.equal(exitCode, 2, stderr);
      assert.equal(stdout, '');
      assert.ok(!stderr.includes('    at '), 'no stack trace');
    }
    assert.deepEqual(readdirSync(folder()).sort(), ['model.onnx', 'plan.json']);
  });
});
