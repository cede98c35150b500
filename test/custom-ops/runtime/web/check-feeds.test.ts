import assert from 'node:assert/strict';
import { Tensor } from 'onnxruntime-common';
import { checkFeeds } from '../../../../custom-ops/runtime/web/check-feeds.js';
import { decodeModel } from '../../../../rewriter/onnx/decode.js';
import { buildModel } from '../../../../rewriter/onnx/encode.js';
import { DataType } from '../../../../rewriter/onnx/spec.js';

const { inputs } = decodeModel(
  buildModel({
    irVersion: 8,
    opsetImports: { '': 18 },
    graph: {
      name: 'two inputs',
      nodes: [],
      inputs: [
        { name: 'ids', dataType: DataType.INT64, dims: [1, 'tokens'] },
        { name: 'any', dataType: DataType.FLOAT },
      ],
      outputs: [],
    },
  }),
).graph;

const ids = new Tensor('int64', new BigInt64Array(3), [1, 3]);
const any = new Tensor('float32', new Float32Array(2), [2]);

describe('feeds of a model in parts', () => {
  it('may have any size where the model leaves it open', () => {
    for (const dims of [[2], [1, 2, 1]]) checkFeeds(inputs, { ids, any: any.reshape(dims) });
  });

  const refusals: Record<string, [Parameters<typeof checkFeeds>[1], RegExp]> = {
    'a missing input': [{ ids }, /input 'any' is missing/],
    'a name that is no input': [
      { ids, any, mask: any },
      /names 'mask', which is no input: those are ids, any/,
    ],
    'another element type': [{ ids: any, any }, /input 'ids' is float32 where the model takes int64/],
    'another rank': [
      { ids: ids.reshape([3]), any },
      /'ids' has shape \[3\] where the model takes \[1, tokens\]/,
    ],
    'another size': [
      { ids: ids.reshape([3, 1]), any },
      /'ids' has shape \[3, 1\] where the model takes \[1, /,
    ],
  };
  for (const [what, [feeds, message]] of Object.entries(refusals)) {
    it(`must not have ${what}`, () => assert.throws(() => checkFeeds(inputs, feeds), message));
  }
});
