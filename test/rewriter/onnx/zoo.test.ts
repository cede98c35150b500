import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { decodeModel } from '../../../rewriter/onnx/decode.js';
import { editModel, type ModelEdit } from '../../../rewriter/onnx/edit.js';
import { openModelFile } from '../../../rewriter/onnx/model-file.js';
import type { ModelInfo } from '../../../rewriter/onnx/model-info.js';
import { writeToMemory } from '../../../rewriter/onnx/write.js';
import { node } from './builders.js';
import { addUnknownFields, unknownFieldsIn } from './unknown-fields.js';

/** Exports of real architectures, from the root of the repository. */
const ZOO = fileURLToPath(new URL('../../../../test/zoo/', import.meta.url));
const FILES = readdirSync(ZOO).filter(name => name.endsWith('.onnx'));

function edit(model: ModelInfo, edits: readonly ModelEdit[]): Uint8Array {
  return writeToMemory(model.source, editModel(model, edits));
}

describe('exported models', () => {
  it('are there', () => assert.ok(FILES.length > 10));

  it('reproduce themselves byte for byte, read from memory or from the file', () => {
    for (const name of FILES) {
      const bytes = readFileSync(join(ZOO, name));
      assert.ok(bytes.equals(edit(decodeModel(bytes), [])), name);
      const { model, close } = openModelFile(join(ZOO, name));
      assert.ok(bytes.equals(edit(model, [])), name);
      close();
    }
  });

  it('keep unknown fields of all messages that an edit leaves alone', () => {
    for (const name of FILES) {
      const { model: bytes, labels } = addUnknownFields(readFileSync(join(ZOO, name)));
      const model = decodeModel(bytes);
      const { graph } = model;
      const middle = graph.nodes[Math.floor(graph.nodes.length / 2)]!;
      const removed = unknownFieldsIn(bytes.subarray(middle.range.start, middle.range.end), labels);
      const nodes = [node('Identity', ['a'], ['b'])];
      const output = edit(model, [
        { kind: 'insert-nodes', into: graph, before: middle, nodes },
        { kind: 'remove', from: graph, item: middle },
        { kind: 'set-ir-version', version: 10 },
      ]);
      assert.ok(removed.length > 0, name);
      const kept = labels.filter(label => !removed.includes(label));
      assert.deepEqual(unknownFieldsIn(output, labels), kept, name);
      const types = (info: ModelInfo) => info.graph.nodes.map(({ opType }) => opType);
      const expected = types(model);
      expected[graph.nodes.indexOf(middle)] = 'Identity';
      assert.deepEqual(types(decodeModel(output)), expected, name);
    }
  });
});
