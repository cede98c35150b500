import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { encodeNpz } from '../../cli/data/npz.js';
import { tensorFrom } from '../../cli/data/tensor.js';
import { DataType } from '../../rewriter/onnx/spec.js';
import { floats, floatValue, model, node } from '../rewriter/onnx/builders.js';
import { temporaryFolder } from '../temporary-folder.js';
import { onnxRewrite } from './command-line.js';
import { type TinyOptions, tinyTransformer } from './tiny-transformer.js';

describe('onnx-rewrite validate', () => {
  const folder = temporaryFolder();
  const path = (name: string) => join(folder(), name);

  /** Saves a model and its rewrite. */
  async function rewritten(options: TinyOptions, ...args: string[]): Promise<[string, string]> {
    writeFileSync(path('model.onnx'), tinyTransformer(options).model);
    const rewrite = ['rewrite', path('model.onnx'), '-o', path('out.onnx'), '--no-validate', ...args];
    const { exitCode, stderr } = await onnxRewrite(rewrite);
    assert.equal(exitCode, 0, stderr);
    return [path('model.onnx'), path('out.onnx')];
  }

  it('prints the document of the contract for every length', async () => {
    const files = await rewritten({ mask: DataType.INT64 }, '--min-length', '0', '--set', 'retrieve=0');
    const budgets = ['--max-error', '1', '--max-output-error', '1'];
    const args = ['validate', ...files, '--length', '33', '700', ...budgets];
    const { exitCode, stdout, stderr } = await onnxRewrite([...args, '--json']);
    assert.equal(exitCode, 0, stderr);
    assert.equal(stderr, '');
    const { lengths, passed } = JSON.parse(stdout);
    assert.equal(passed, true);
    assert.deepEqual(
      lengths.map(({ length }: { length: number }) => length),
      [33, 700],
    );
    for (const { outputs, sites, passed } of lengths) {
      assert.equal(passed, true);
      assert.deepEqual(
        outputs.map(({ name }: { name: string }) => name),
        ['logits'],
      );
      assert.ok(outputs[0].relative_squared_error >= 0 && outputs[0].relative_squared_error < 1);
      assert.ok(outputs[0].max_abs_error >= 0 && outputs[0].cosine > 0.5);
      assert.deepEqual(
        sites.map(({ id }: { id: string }) => id),
        ['blocks.0.attn', 'blocks.1.attn'],
      );
    }
    const [exact, approximate] = lengths;
    assert.ok(exact.sites[0].isolated < 1e-9, 'one segment is attended exactly');
    assert.ok(approximate.sites[0].isolated > 1e-9, 'the far field is approximated');
    // Nothing before the first site is changed, so there isolated and propagated are one measurement.
    assert.ok(Math.abs(approximate.sites[0].isolated - approximate.sites[0].propagated) < 1e-9);
    assert.notEqual(approximate.sites[1].isolated, approximate.sites[1].propagated);
  });

  it('finds a rewrite with exact attention equal, under causal and padding masks', async () => {
    for (const options of [
      { mask: DataType.INT64 },
      { causal: true },
      { causal: true, mask: DataType.BOOL },
    ] as const) {
      const files = await rewritten(options, '--set', 'retrieve=-1', '--min-length', '0');
      const budgets = ['--max-error', '1e-9', '--max-output-error', '1e-9'];
      const { exitCode, stdout } = await onnxRewrite(['validate', ...files, '--length', '300', ...budgets]);
      assert.equal(exitCode, 0, stdout);
    }
  });

  it('exits with 1 when a budget is exceeded', async () => {
    const files = await rewritten({}, '--min-length', '0');
    const { exitCode, stdout } = await onnxRewrite([
      'validate',
      ...files,
      '--length',
      '900',
      '--max-error',
      '0',
    ]);
    assert.equal(exitCode, 1);
    assert.match(stdout, /over budget/);
    assert.match(stdout, /Validation failed\./);
  });

  it('leaves out rows that see no key, and counts them', async () => {
    const files = await rewritten({ causal: true, mask: DataType.INT64 }, '--set', 'retrieve=-1');
    // Padding on the left hides every key that the first rows may see.
    const ids = Array.from({ length: 2 * 12 }, (_, i) => (i * 37) % 256);
    const mask = Array.from({ length: 2 * 12 }, (_, i) => (i < 5 ? 0 : 1));
    const inputs = new Map([
      ['input_ids', tensorFrom('int64', [2, 12], ids)],
      ['attention_mask', tensorFrom('int64', [2, 12], mask)],
    ]);
    writeFileSync(path('inputs.npz'), encodeNpz(inputs));
    const args = ['validate', ...files, '--inputs', path('inputs.npz'), '--json', '--max-error', '1e-9'];
    const { exitCode, stdout, stderr } = await onnxRewrite(args);
    assert.equal(exitCode, 0, stderr);
    const [{ length, sites, outputs }] = JSON.parse(stdout).lengths;
    assert.equal(length, 12);
    assert.deepEqual(
      sites.map(({ rows_without_keys }: { rows_without_keys: number }) => rows_without_keys),
      [5, 5],
    );
    assert.ok(outputs[0].relative_squared_error < 1e-9);
  });

  it('takes text as bytes, and JSON by name', async () => {
    const files = await rewritten({ mask: DataType.INT64 }, '--set', 'retrieve=-1');
    writeFileSync(path('text.txt'), 'It is a truth universally acknowledged');
    const lengthsOf = async (...args: string[]) => {
      const { exitCode, stdout, stderr } = await onnxRewrite(['validate', ...files, '--json', ...args]);
      assert.equal(exitCode, 0, stderr);
      return JSON.parse(stdout).lengths.map(({ length }: { length: number }) => length);
    };
    assert.deepEqual(await lengthsOf('--inputs', path('text.txt')), [38]);
    assert.deepEqual(await lengthsOf('--inputs', path('text.txt'), '--length', '7,9'), [7, 9]);
    writeFileSync(
      path('inputs.json'),
      '{"input_ids": [[1, 2, 3, 4, 5]], "attention_mask": [[1, 1, 1, 1, 0]]}',
    );
    assert.deepEqual(await lengthsOf('--inputs', path('inputs.json')), [5]);
  });

  it('says that the original itself fails', async () => {
    const reshape = model({
      name: 'fails',
      inputs: [floatValue('x', 'n', 4)],
      outputs: [floatValue('y', 'n', 7)],
      initializers: [
        floats(
          'w',
          [2, 7],
          Array.from({ length: 14 }, (_, i) => i),
        ),
      ],
      nodes: [
        node('Transpose', ['x'], ['t'], { perm: { type: 'ints', value: [1, 0] } }),
        node('MatMul', ['t', 'w'], ['y']),
      ],
    });
    writeFileSync(path('fails.onnx'), reshape);
    const args = ['validate', path('fails.onnx'), path('fails.onnx')];
    const { exitCode, stderr, stdout } = await onnxRewrite(args);
    assert.equal(exitCode, 2);
    assert.equal(stdout, '');
    assert.match(stderr, /fails\.onnx: the original model itself fails/);
  });

  it('shortens the lengths that it chose itself to what the original takes', async () => {
    writeFileSync(path('position.onnx'), positionModel(100));
    const args = ['validate', path('position.onnx'), path('position.onnx'), '--json'];
    const { exitCode, stdout, stderr } = await onnxRewrite(args);
    assert.equal(exitCode, 0, stderr);
    const { lengths, notes } = JSON.parse(stdout);
    assert.deepEqual(
      lengths.map(({ length }: { length: number }) => length),
      [64],
    );
    assert.ok(notes.some((note: string) => /does not run at 256 tokens; 64 were used/.test(note)));
    const asked = await onnxRewrite([...args, '--length', '256']);
    assert.equal(asked.exitCode, 2);
  });

  it('fails on NaN that the original does not have', async () => {
    const divide = (divisor: number) =>
      model({
        name: 'divides',
        inputs: [floatValue('x', 'n', 4)],
        outputs: [floatValue('y', 'n', 4)],
        initializers: [floats('divisor', [], [divisor]), floats('zero', [], [0])],
        nodes: [node('Mul', ['x', 'zero'], ['zeros']), node('Div', ['zeros', 'divisor'], ['y'])],
      });
    writeFileSync(path('zeros.onnx'), divide(1));
    writeFileSync(path('nan.onnx'), divide(0));
    const validate = (a: string, b: string) => onnxRewrite(['validate', path(a), path(b), '--json']);
    const failed = await validate('zeros.onnx', 'nan.onnx');
    assert.equal(failed.exitCode, 1);
    const [output] = JSON.parse(failed.stdout).lengths[0].outputs;
    assert.equal(output.mismatches, 4);
    assert.equal(output.relative_squared_error, null);
    assert.equal((await validate('nan.onnx', 'nan.onnx')).exitCode, 0);
  });

  it('refuses inputs that do not fit, naming the file', async () => {
    const files = await rewritten({ mask: DataType.INT64 });
    const ids = tensorFrom('int64', [1, 4], [1, 2, 3, 4]);
    const save = (name: string, ...tensors: [string, typeof ids][]) =>
      writeFileSync(path(name), encodeNpz(new Map(tensors)));
    save('unknown.npz', ['input_ids', ids], ['other', ids]);
    save('type.npz', ['input_ids', tensorFrom('int32', [1, 4], [1, 2, 3, 4]) as typeof ids]);
    save('rank.npz', ['input_ids', tensorFrom('int64', [4], [1, 2, 3, 4]) as typeof ids]);
    save('missing.npz', ['attention_mask', ids]);
    writeFileSync(path('broken.npz'), 'no archive');
    writeFileSync(path('broken.json'), '{"input_ids": [[1, 2], [3]]}');
    writeFileSync(path('short.txt'), 'short');
    const cases: readonly (readonly [string, RegExp])[] = [
      ['unknown.npz', /no input "other"/],
      ['type.npz', /"input_ids" is int32, the model takes int64/],
      ['rank.npz', /has shape \[4\], the model takes \[batch, sequence\]/],
      ['missing.npz', /input "input_ids" is missing/],
      ['broken.npz', /broken\.npz/],
      ['broken.json', /rows of different lengths/],
      ['absent.npz', /no such file/],
    ];
    for (const [name, message] of cases) {
      const { exitCode, stderr } = await onnxRewrite(['validate', ...files, '--inputs', path(name)]);
      assert.equal(exitCode, 2, stderr);
      assert.match(stderr, message);
      assert.ok(stderr.includes(name));
    }
    const long = await onnxRewrite(['validate', ...files, '--inputs', path('short.txt'), '--length', '6']);
    assert.equal(long.exitCode, 2);
    assert.match(long.stderr, /only 5 bytes, not 6/);
  });

  it('compares sites in subgraphs at the outputs of the model only, and says so', async () => {
    writeFileSync(path('branch.onnx'), branchModel());
    const output = ['-o', path('out.onnx'), '--set', 'retrieve=-1', '--json'];
    const { exitCode, stdout, stderr } = await onnxRewrite(['rewrite', path('branch.onnx'), ...output]);
    assert.equal(exitCode, 0, stderr);
    const { sites, validation } = JSON.parse(stdout);
    assert.equal(sites.length, 1);
    assert.equal(sites[0].decision, 'replaced');
    assert.equal(sites[0].error, null);
    const [length] = validation.lengths;
    assert.equal(length.sites[0].id, sites[0].id);
    assert.equal(length.sites[0].isolated, null);
    assert.match(length.sites[0].note, /inside a subgraph/);
    assert.ok(length.outputs[0].relative_squared_error < 1e-9);
  });

  it('refuses two models that are not one rewritten', async () => {
    writeFileSync(path('plain.onnx'), tinyTransformer().model);
    writeFileSync(path('masked.onnx'), tinyTransformer({ mask: DataType.INT64 }).model);
    const { exitCode, stderr } = await onnxRewrite(['validate', path('plain.onnx'), path('masked.onnx')]);
    assert.equal(exitCode, 2);
    assert.match(stderr, /masked\.onnx is not a rewrite of .*plain\.onnx/);
  });
});

/** Looks up a position table of `count` rows, as models with learned positions do. */
function positionModel(count: number): Uint8Array {
  return model({
    name: 'positions',
    inputs: [{ name: 'position_ids', dataType: DataType.INT64, dims: ['batch', 'sequence'] }],
    outputs: [floatValue('y', 'batch', 'sequence', 2)],
    initializers: [
      floats(
        'table',
        [count, 2],
        Array.from({ length: 2 * count }, (_, i) => i),
      ),
    ],
    nodes: [node('Gather', ['table', 'position_ids'], ['y'])],
  });
}

/** Self-attention over x, `[batch, 2 heads, sequence, 4]`, in a branch of an If that is always taken. */
function branchModel(): Uint8Array {
  const attended = floatValue('attended', 'batch', 2, 'sequence', 4);
  const perm = { type: 'ints', value: [0, 1, 3, 2] } as const;
  const attention = [
    node('Mul', ['x', 'key_weight'], ['k']),
    node('Mul', ['x', 'value_weight'], ['v']),
    node('Transpose', ['k'], ['k_transposed'], { perm }),
    node('MatMul', ['x', 'k_transposed'], ['scores']),
    node('Mul', ['scores', 'scale'], ['scaled']),
    node('Softmax', ['scaled'], ['probabilities'], { axis: { type: 'int', value: -1 } }),
    node('MatMul', ['probabilities', 'v'], ['attended']),
  ];
  const branch = (name: string, nodes: ReturnType<typeof node>[], output: string) =>
    ({
      type: 'graph',
      value: { name, inputs: [], outputs: [{ ...attended, name: output }], nodes },
    }) as const;
  const weight = (name: string, shift: number) =>
    floats(
      name,
      [2, 1, 4],
      Array.from({ length: 8 }, (_, i) => Math.cos(i + shift)),
    );
  return model({
    name: 'branch',
    inputs: [floatValue('x', 'batch', 2, 'sequence', 4)],
    outputs: [floatValue('y', 'batch', 2, 'sequence', 4)],
    initializers: [
      weight('key_weight', 0),
      weight('value_weight', 1),
      floats('scale', [], [0.5]),
      { name: 'taken', dataType: DataType.BOOL, dims: [], data: Uint8Array.of(1) },
    ],
    nodes: [
      node('If', ['taken'], ['y'], {
        then_branch: branch('attention', attention, 'attended'),
        else_branch: branch('plain', [node('Identity', ['x'], ['copied'])], 'copied'),
      }),
    ],
  });
}
