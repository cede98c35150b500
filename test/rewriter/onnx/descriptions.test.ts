import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import onnxProto, { type onnx as proto } from 'onnx-proto';
import { decodeModel } from '../../../rewriter/onnx/decode.js';
import { NAME_SCOPES, withoutDescriptions } from '../../../rewriter/onnx/descriptions.js';
import { editModel } from '../../../rewriter/onnx/edit.js';
import { buildModel } from '../../../rewriter/onnx/encode.js';
import { DataType } from '../../../rewriter/onnx/spec.js';
import { writeToMemory } from '../../../rewriter/onnx/write.js';

const { onnx } = onnxProto;
const ZOO = new URL('../../../../test/zoo/', import.meta.url);
const TRACE = 'File "/home/somebody/model.py", line 12, in forward';

function stripped(bytes: Uint8Array): Uint8Array {
  const model = decodeModel(bytes);
  return writeToMemory(model.source, editModel(model, withoutDescriptions(model)));
}

/** The model with doc strings wherever the format has room for them. */
function described(bytes: Uint8Array): Uint8Array {
  const model = onnx.ModelProto.decode(bytes);
  const describe = (message: { docString?: string | null }) => {
    message.docString = TRACE;
  };
  const inGraph = (graph: proto.IGraphProto) => {
    describe(graph);
    for (const list of [graph.initializer, graph.input, graph.output, graph.valueInfo])
      list?.forEach(describe);
    for (const node of graph.node ?? []) {
      describe(node);
      for (const attribute of node.attribute ?? []) {
        attribute.docString = TRACE;
        if (attribute.t) describe(attribute.t);
        if (attribute.g) inGraph(attribute.g);
      }
    }
  };
  inGraph(model.graph!);
  return onnx.ModelProto.encode(model).finish();
}

/** The model as text, empty doc strings left out like those that are absent. */
function withoutDocStrings(bytes: Uint8Array): string {
  return JSON.stringify(onnx.ModelProto.decode(bytes).toJSON(), (key, value: unknown) =>
    key === 'docString' && value === '' ? undefined : value,
  );
}

describe('descriptions in models', () => {
  for (const file of ['graph-branches.onnx', 'bert-sdpa-legacy17.onnx']) {
    it(`are taken out, and nothing else: ${file}`, () => {
      // Written by the same encoder, so that only what is stripped can differ.
      const original = onnx.ModelProto.encode(
        onnx.ModelProto.decode(readFileSync(new URL(file, ZOO))),
      ).finish();
      const bytes = described(original);
      assert.ok(Buffer.from(bytes).includes(TRACE));
      const result = stripped(bytes);
      assert.ok(!Buffer.from(result).includes(TRACE));
      assert.equal(withoutDocStrings(result), withoutDocStrings(original));
    });
  }

  it('keep metadata of the model and the scopes of nodes', () => {
    const metadata = { 'pkg.torch.onnx.stack_trace': TRACE, [NAME_SCOPES]: "['', 'blocks.0', 'relu']" };
    const bytes = buildModel({
      irVersion: 10,
      opsetImports: { '': 18 },
      metadata: { labels: 'cat,dog' },
      graph: {
        name: 'main',
        inputs: [{ name: 'x', dataType: DataType.FLOAT, dims: [2] }],
        outputs: [{ name: 'y', dataType: DataType.FLOAT, dims: [2] }],
        nodes: [{ opType: 'Relu', inputs: ['x'], outputs: ['y'], attributes: {}, metadata }],
      },
    });
    const model = decodeModel(stripped(bytes));
    assert.equal(model.metadata.get('labels'), 'cat,dog');
    assert.deepEqual([...model.graph.nodes[0]!.metadata.keys()], [NAME_SCOPES]);
  });

  it('are none in a model without: not a byte changes', () => {
    const bytes = readFileSync(new URL('graph-loop.onnx', ZOO));
    assert.deepEqual(withoutDescriptions(decodeModel(bytes)), []);
  });
});
