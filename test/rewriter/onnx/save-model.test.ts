import assert from 'node:assert/strict';
import {
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { InputError } from '../../../rewriter/errors.js';
import { editModel, type ModelEdit } from '../../../rewriter/onnx/edit.js';
import { openModelFile } from '../../../rewriter/onnx/model-file.js';
import { type ExternalDataMode, saveModel } from '../../../rewriter/onnx/save-model.js';
import { DataType } from '../../../rewriter/onnx/spec.js';
import { temporaryFolder } from '../../temporary-folder.js';
import { floatValue, incrementModel, model, node } from './builders.js';

/** x + w, with w = [1, 2, 3] at byte 64 of `location`. */
function writeExternal(folder: string, location = 'weights.bin', length = 12): string {
  const external = { location, offset: 64, length };
  const file = join(folder, 'model.onnx');
  writeFileSync(
    file,
    model({
      name: 'g',
      inputs: [floatValue('x', 3)],
      outputs: [floatValue('y', 3)],
      initializers: [{ name: 'w', dataType: DataType.FLOAT, dims: [3], external }],
      nodes: [node('Add', ['x', 'w'], ['y'])],
    }),
  );
  return file;
}

function weights(): Uint8Array {
  const bytes = new Uint8Array(128);
  bytes.set(new Uint8Array(Float32Array.of(1, 2, 3).buffer), 64);
  return bytes;
}

async function rewrite(
  file: string,
  output: string,
  externalData: ExternalDataMode,
): Promise<readonly string[]> {
  const input = openModelFile(file);
  try {
    const { graph } = input.model;
    const [add] = graph.nodes;
    const edits: ModelEdit[] = [
      { kind: 'insert-nodes', into: graph, before: add!, nodes: [node('Mul', ['x', 'w'], ['y'])] },
      { kind: 'remove', from: graph, item: add! },
    ];
    return await saveModel(input, editModel(input.model, edits), output, { externalData });
  } finally {
    input.close();
  }
}

async function run(file: string): Promise<number[]> {
  const session = await InferenceSession.create(file);
  const { y } = await session.run({ x: new Tensor('float32', [5, 5, 5], [3]) });
  return [...(y!.data as Float32Array)];
}

function rejectsInput(action: Promise<unknown>, message: RegExp): Promise<void> {
  return assert.rejects(
    action,
    (error: unknown) => error instanceof InputError && message.test(error.message),
  );
}

function refuses(action: () => unknown, message: RegExp): void {
  assert.throws(action, (error: unknown) => error instanceof InputError && message.test(error.message));
}

describe('model files', () => {
  const folder = temporaryFolder();
  const path = (...steps: string[]) => join(folder(), ...steps);

  describe('openModelFile', () => {
    it('decodes what decodeModel decodes', () => {
      writeFileSync(path('m.onnx'), incrementModel());
      const { model: info, close } = openModelFile(path('m.onnx'));
      assert.deepEqual(
        info.graph.nodes.map(({ opType }) => opType),
        ['Add'],
      );
      close();
    });

    it('refuses paths that are no file', () => {
      refuses(() => openModelFile(path('missing.onnx')), /missing\.onnx: no such file/);
      refuses(() => openModelFile(folder()), /a directory/);
      refuses(() => openModelFile('/dev/null'), /not a regular file/);
    });

    it('accepts external data beside the model, in folders below, and behind links inside', () => {
      mkdirSync(path('below'));
      writeFileSync(path('below', 'real.bin'), weights());
      symlinkSync(path('below', 'real.bin'), path('weights.bin'));
      openModelFile(writeExternal(folder())).close();
      openModelFile(writeExternal(folder(), 'below/real.bin')).close();
    });

    it('accepts a model and data that are links into one folder, as download caches have them', () => {
      for (const name of ['blobs', 'snapshot', 'elsewhere']) mkdirSync(path(name));
      writeExternal(path('blobs'));
      writeFileSync(path('blobs', 'data'), weights());
      symlinkSync('../blobs/model.onnx', path('snapshot', 'model.onnx'));
      symlinkSync('../blobs/data', path('snapshot', 'weights.bin'));
      openModelFile(path('snapshot', 'model.onnx')).close();
    });

    it('refuses external data that leaves the folder', () => {
      mkdirSync(path('inside'));
      writeFileSync(path('weights.bin'), weights());
      symlinkSync('../weights.bin', path('inside', 'link.bin'));
      for (const location of [
        '../weights.bin',
        'a/../../weights.bin',
        path('weights.bin'),
        '..\\weights.bin',
        'C:\\w',
      ]) {
        refuses(
          () => openModelFile(writeExternal(path('inside'), location)),
          /leaves the folder of the model/,
        );
      }
      refuses(
        () => openModelFile(writeExternal(path('inside'), 'link.bin')),
        /a link that leaves the folder/,
      );
    });

    it('refuses external data that is missing, too short, of the wrong length, or no file', () => {
      refuses(() => openModelFile(writeExternal(folder())), /external data file 'weights.bin' is missing/);
      writeFileSync(path('weights.bin'), weights());
      truncateSync(path('weights.bin'), 75);
      refuses(
        () => openModelFile(writeExternal(folder())),
        /tensor 'w': 'weights.bin' has 75 bytes where 76 are needed/,
      );
      writeFileSync(path('weights.bin'), weights());
      for (const length of [8, 11]) {
        refuses(
          () => openModelFile(writeExternal(folder(), 'weights.bin', length)),
          new RegExp(`${length} bytes for a shape that needs 12`),
        );
      }
      writeFileSync(path('long.bin'), new Uint8Array(80));
      refuses(
        () => openModelFile(writeExternal(folder(), 'long.bin', 16)),
        /16 bytes for a shape that needs 12/,
      );
      mkdirSync(path('folder.bin'));
      refuses(() => openModelFile(writeExternal(folder(), 'folder.bin')), /a directory/);
    });
  });

  describe('saveModel', () => {
    it('writes the edited model, in one piece and without leftovers', async () => {
      writeFileSync(path('weights.bin'), weights());
      const file = writeExternal(folder());
      const before = readFileSync(file);
      await rewrite(file, path('out.onnx'), 'reference');
      assert.deepEqual(await run(path('out.onnx')), [5, 10, 15]);
      assert.deepEqual(readFileSync(file), before);
      assert.deepEqual(readdirSync(folder()).sort(), ['model.onnx', 'out.onnx', 'weights.bin']);
    });

    it('reproduces the input file when there are no edits', async () => {
      writeFileSync(path('m.onnx'), incrementModel());
      const input = openModelFile(path('m.onnx'));
      await saveModel(input, editModel(input.model, []), path('out.onnx'), { externalData: 'copy' });
      input.close();
      assert.deepEqual(readFileSync(path('out.onnx')), readFileSync(path('m.onnx')));
    });

    it('reports progress up to the size of the file', async () => {
      writeFileSync(path('m.onnx'), incrementModel());
      const input = openModelFile(path('m.onnx'));
      const seen: [number, number][] = [];
      const onProgress = (written: number, total: number) => seen.push([written, total]);
      await saveModel(input, editModel(input.model, []), path('out.onnx'), {
        externalData: 'copy',
        onProgress,
      });
      input.close();
      const { size } = statSync(path('out.onnx'));
      assert.deepEqual(seen.at(-1), [size, size]);
    });

    for (const mode of ['copy', 'link'] as const) {
      it(`${mode === 'copy' ? 'copies' : 'links'} external data into another folder, made if need be`, async () => {
        mkdirSync(path('below'));
        writeFileSync(path('below', 'weights.bin'), weights());
        const file = writeExternal(folder(), 'below/weights.bin');
        const output = path('new', 'deep', 'out.onnx');
        await rewrite(file, output, mode);
        const placed = join(dirname(output), 'below', 'weights.bin');
        assert.deepEqual(await run(output), [5, 10, 15]);
        assert.equal(statSync(placed).ino === statSync(path('below', 'weights.bin')).ino, mode === 'link');
        assert.deepEqual(readdirSync(dirname(output)).sort(), ['below', 'out.onnx']);
      });
    }

    it('leaves external data alone that is there already', async () => {
      writeFileSync(path('weights.bin'), weights());
      const file = writeExternal(folder());
      for (const name of ['equal', 'linked']) mkdirSync(path(name));
      writeFileSync(path('equal', 'weights.bin'), weights());
      linkSync(path('weights.bin'), path('linked', 'weights.bin'));
      for (const name of ['equal', 'linked']) {
        const before = statSync(path(name, 'weights.bin'));
        await rewrite(file, path(name, 'out.onnx'), 'copy');
        assert.deepEqual(statSync(path(name, 'weights.bin')).ino, before.ino);
      }
    });

    it('refuses to overwrite different external data, and leaves nothing behind', async () => {
      writeFileSync(path('weights.bin'), weights());
      const file = writeExternal(folder());
      mkdirSync(path('out'));
      writeFileSync(path('out', 'weights.bin'), 'something else');
      await rejectsInput(rewrite(file, path('out', 'out.onnx'), 'copy'), /a different file is there already/);
      assert.deepEqual(readdirSync(path('out')), ['weights.bin']);
      assert.equal(readFileSync(path('out', 'weights.bin'), 'utf8'), 'something else');
    });

    it('refuses a reference that would not be valid, and leaves no folder behind', async () => {
      writeFileSync(path('weights.bin'), weights());
      const file = writeExternal(folder());
      await rejectsInput(
        rewrite(file, path('new', 'out.onnx'), 'reference'),
        /needs external data file 'weights.bin'/,
      );
      assert.ok(!existsSync(path('new')));
    });

    it('refuses outputs that are the input, its data, or a folder', async () => {
      writeFileSync(path('weights.bin'), weights());
      const file = writeExternal(folder());
      symlinkSync(file, path('alias.onnx'));
      mkdirSync(path('out'));
      for (const output of [file, path('alias.onnx'), path('weights.bin')]) {
        await rejectsInput(rewrite(file, output, 'copy'), /overwrite the input/);
      }
      await rejectsInput(
        rewrite(file, path('out', 'weights.bin'), 'copy'),
        /file of external data like that/,
      );
      await rejectsInput(rewrite(file, path('out'), 'copy'), /a directory/);
      assert.deepEqual(readdirSync(path('out')), []);
    });

    it('refuses a link in the output folder that leads external data elsewhere', async () => {
      for (const name of ['below', 'out', 'elsewhere']) mkdirSync(path(name));
      writeFileSync(path('below', 'weights.bin'), weights());
      symlinkSync(path('elsewhere'), path('out', 'below'));
      const file = writeExternal(folder(), 'below/weights.bin');
      await rejectsInput(rewrite(file, path('out', 'out.onnx'), 'copy'), /leads external data out of it/);
      assert.deepEqual(readdirSync(path('elsewhere')), []);
    });

    it('says so when the output cannot be written', async () => {
      writeFileSync(path('m.onnx'), incrementModel());
      await rejectsInput(rewrite(path('m.onnx'), path('m.onnx', 'out.onnx'), 'copy'), /cannot be written/);
    });
  });
});
