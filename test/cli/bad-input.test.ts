import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { buildModel } from '../../rewriter/onnx/encode.js';
import { DataType } from '../../rewriter/onnx/spec.js';
import { floats, floatValue, model, node } from '../rewriter/onnx/builders.js';
import { temporaryFolder } from '../temporary-folder.js';
import { onnxRewrite } from './command-line.js';
import { tinyTransformer } from './tiny-transformer.js';

const x = floatValue('x', 'n', 4);
const y = floatValue('y', 'n', 4);
const one = floats('one', [], [1]);

/** Models that no verb may accept, and what the one message has to say. */
const BAD_MODELS: Readonly<Record<string, readonly [make: () => Uint8Array, message: RegExp]>> = {
  'a truncated file': [() => tinyTransformer().model.subarray(0, 5000), /not a readable ONNX model|damaged/],
  'no ONNX file': [() => Buffer.from('{"layers": []}\n'), /text file, not an ONNX model/],
  'an empty file': [() => new Uint8Array(0), /empty/],
  'a cyclic graph': [
    () =>
      model({
        name: 'cyclic',
        inputs: [x],
        outputs: [y],
        nodes: [node('Add', ['x', 'b'], ['a']), node('Relu', ['a'], ['b']), node('Relu', ['b'], ['y'])],
      }),
    /cycle/,
  ],
  'a dangling name': [
    () =>
      model({ name: 'dangling', inputs: [x], outputs: [y], nodes: [node('Add', ['x', 'nowhere'], ['y'])] }),
    /'nowhere'/,
  ],
  'an empty graph': [() => model({ name: 'empty', inputs: [x], outputs: [x], nodes: [] }), /graph is empty/],
  'missing external data': [
    () => tinyTransformer({ externalData: 'absent.bin' }).model,
    /'absent\.bin' is missing/,
  ],
  'external data outside the folder': [
    () => tinyTransformer({ externalData: '../outside.bin' }).model,
    /'\.\.\/outside\.bin' leaves the folder/,
  ],
};

/** Models that can be inspected and, without validation, rewritten, but that no runtime takes. */
const NOT_RUNNABLE: Readonly<Record<string, () => Uint8Array>> = {
  'a wrong element type': () =>
    model({
      name: 'wrong-type',
      inputs: [x],
      outputs: [y],
      initializers: [{ name: 'two', dataType: DataType.INT64, dims: [], data: new Uint8Array(8) }],
      nodes: [node('Add', ['x', 'two'], ['y'])],
    }),
  'an unknown operator': () =>
    model({ name: 'unknown', inputs: [x], outputs: [y], nodes: [node('NoSuchOperator', ['x'], ['y'])] }),
  'an unknown domain': () =>
    buildModel({
      irVersion: 8,
      opsetImports: { '': 17, 'example.unknown': 1 },
      graph: {
        name: 'unknown',
        inputs: [x],
        outputs: [y],
        initializers: [one],
        nodes: [{ ...node('Mystery', ['x', 'one'], ['y']), domain: 'example.unknown' }],
      },
    }),
};

describe('bad input', () => {
  const folder = temporaryFolder();

  /** Saves a model in a folder of its own, with a file beside that folder that must not be read. */
  function save(bytes: Uint8Array): { readonly file: string; readonly output: string } {
    mkdirSync(join(folder(), 'in'));
    mkdirSync(join(folder(), 'out'));
    writeFileSync(join(folder(), 'outside.bin'), new Uint8Array(1_000_000));
    const file = join(folder(), 'in', 'bad.onnx');
    writeFileSync(file, bytes);
    return { file, output: join(folder(), 'out', 'out.onnx') };
  }

  function assertRefused(result: Awaited<ReturnType<typeof onnxRewrite>>, message: RegExp): void {
    assert.equal(result.exitCode, 2, result.stderr);
    assert.equal(result.stdout, '');
    assert.match(result.stderr, message);
    assert.match(result.stderr, /bad\.onnx/);
    assert.equal(result.stderr.match(/^error: /gm)?.length, 1);
    assert.ok(!/^\s+at /m.test(result.stderr), 'no stack trace');
    assert.deepEqual(readdirSync(join(folder(), 'out')), []);
    assert.deepEqual(readdirSync(join(folder(), 'in')), ['bad.onnx']);
  }

  for (const [what, [make, message]] of Object.entries(BAD_MODELS)) {
    it(`refuses ${what}`, async () => {
      const { file, output } = save(make());
      for (const args of [
        ['inspect', file, '--json'],
        ['rewrite', file, '-o', output, '--no-validate'],
        ['rewrite', file, '-o', output, '--json'],
      ]) {
        assertRefused(await onnxRewrite(args), message);
      }
    });
  }

  for (const [what, make] of Object.entries(NOT_RUNNABLE)) {
    it(`inspects, but does not run or validate ${what}`, async () => {
      const { file } = save(make());
      const inspected = await onnxRewrite(['inspect', file, '--json']);
      assert.equal(inspected.exitCode, 0, inspected.stderr);
      assertRefused(await onnxRewrite(['run', file]), /does not run/);
      assertRefused(
        await onnxRewrite(['validate', file, file]),
        /the original model itself cannot be loaded/,
      );
    });
  }

  it('shows a stack trace with --verbose only', async () => {
    const { file } = save(Buffer.from('no model'));
    const { exitCode, stderr } = await onnxRewrite(['inspect', file, '--verbose']);
    assert.equal(exitCode, 2);
    assert.match(stderr, /^\s+at /m);
  });

  it('refuses unknown verbs and options, and explains itself on request', async () => {
    for (const args of [['no-such-verb'], ['inspect'], ['inspect', '--no-such-option', 'x'], []]) {
      const { exitCode, stdout, stderr } = await onnxRewrite(args);
      assert.equal(exitCode, 2, args.join(' '));
      assert.equal(stdout, '');
      assert.notEqual(stderr, '');
    }
    const help = await onnxRewrite(['rewrite', '--help']);
    assert.equal(help.exitCode, 0);
    assert.match(help.stdout, /--max-output-error/);
    assert.match((await onnxRewrite(['--version'])).stdout, /^\d+\.\d+\.\d+\n$/);
  });
});
