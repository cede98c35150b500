import assert from 'node:assert/strict';
import { closeSync, existsSync, openSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { temporaryFolder } from '../temporary-folder.js';
import { MAIN, onnxRewrite, runProcess } from './command-line.js';
import { tinyTransformer } from './tiny-transformer.js';

describe('interruptions', () => {
  const folder = temporaryFolder();
  const path = (name: string) => join(folder(), name);

  beforeEach(() => writeFileSync(path('model.onnx'), tinyTransformer().model));

  for (const [signal, expected] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const) {
    it(`leaves no file behind on ${signal}`, async () => {
      const args = ['rewrite', path('model.onnx'), '-o', path('out.onnx'), '--length', '6000'];
      let seen = false;
      const { exitCode } = await onnxRewrite(args, {
        onStart: child => {
          const timer = setInterval(() => {
            if (!readdirSync(folder()).some(name => name.endsWith('.tmp'))) return;
            clearInterval(timer);
            seen = true;
            // Long enough for the models to be running, far too short for them to be done.
            setTimeout(() => child.kill(signal), 500);
          }, 5);
          child.once('exit', () => clearInterval(timer));
        },
      });
      assert.ok(seen, 'the output was under way');
      assert.equal(exitCode, expected);
      assert.deepEqual(readdirSync(folder()), ['model.onnx']);
    });
  }

  it('takes a reader that stops reading as no failure', async () => {
    const many = Array.from({ length: 20 }, () => `'${path('model.onnx')}'`).join(' ');
    const script = `set -o pipefail; '${process.execPath}' '${MAIN}' inspect --json ${many} | head -c 10`;
    const { exitCode, stdout, stderr } = await runProcess('bash', ['-c', script]);
    assert.equal(exitCode, 0, stderr);
    assert.equal(stdout.length, 10);
    assert.equal(stderr, '');
  });

  it('leaves no file behind when the disk is full', async () => {
    // A limit on the size of files stands in for a full disk: writes fail halfway through.
    const script = `ulimit -f 40; '${process.execPath}' '${MAIN}' rewrite model.onnx -o out.onnx --no-validate`;
    const { exitCode, stdout, stderr } = await runProcess('bash', ['-c', script], { cwd: folder() });
    assert.equal(exitCode, 2, stderr);
    assert.equal(stdout, '');
    assert.match(stderr, /out\.onnx/);
    assert.deepEqual(readdirSync(folder()), ['model.onnx']);
  });

  it('says so when its output cannot be stored', async function () {
    if (!existsSync('/dev/full')) this.skip();
    closeSync(openSync('/dev/full', 'w'));
    const script = `'${process.execPath}' '${MAIN}' inspect --json model.onnx > /dev/full`;
    const { exitCode, stderr } = await runProcess('bash', ['-c', script], { cwd: folder() });
    assert.equal(exitCode, 2);
    assert.match(stderr, /no space left/);
  });

  it('reports a target folder that cannot be written to', async () => {
    writeFileSync(path('file'), '');
    const args = ['rewrite', path('model.onnx'), '-o', path('file/out.onnx'), '--no-validate'];
    const { exitCode, stderr } = await onnxRewrite(args);
    assert.equal(exitCode, 2, stderr);
    assert.match(stderr, /out\.onnx|file/);
  });
});
