import assert from 'node:assert/strict';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { InputError } from '../../rewriter/errors.js';
import { ModelGraph } from '../../rewriter/graph/model-graph.js';
import { concatenate } from '../../rewriter/onnx/bytes.js';
import { decodeModel } from '../../rewriter/onnx/decode.js';
import { editModel } from '../../rewriter/onnx/edit.js';
import { allTensors } from '../../rewriter/onnx/external-data.js';
import { readTensorData } from '../../rewriter/onnx/tensor-data.js';
import { writeToMemory } from '../../rewriter/onnx/write.js';
import { nestedModel, variedModel } from '../rewriter/onnx/builders.js';
import { addUnknownFields } from '../rewriter/onnx/unknown-fields.js';

const MODELS = {
  nested: nestedModel(),
  varied: variedModel(),
  'nested with unknown fields': addUnknownFields(nestedModel()).model,
};

/**
 * Does with hostile bytes all that is done with a model before anything is rewritten.
 * @returns whether they are a model after all, which must then reproduce itself
 */
function survives(bytes: Uint8Array): boolean {
  try {
    const model = decodeModel(bytes);
    for (const tensor of allTensors(model)) readTensorData(tensor, model);
    assert.ok(Buffer.compare(writeToMemory(model.source, editModel(model, [])), bytes) === 0);
    new ModelGraph(model);
    return true;
  } catch (error) {
    if (error instanceof InputError) return false;
    throw error;
  }
}

/** Two lengths that no file has, and a varint that is none. */
const HUGE = [
  Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0x07),
  Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f),
  new Uint8Array(11).fill(0xff),
];

describe('decoding hostile bytes either gives a model or an InputError', () => {
  for (const [name, model] of Object.entries(MODELS)) {
    it(`${name}, cut off at every byte`, () => {
      assert.ok(survives(model));
      const intact = Array.from({ length: model.length }, (_, end) => survives(model.subarray(0, end)));
      // Only a cut between fields of the model itself can leave a whole model.
      assert.ok(intact.filter(Boolean).length <= 10, `${intact.filter(Boolean).length} cuts went unnoticed`);
    });

    it(`${name}, with a huge number at every byte`, () => {
      const random = new SeededRandom(model.length + 2);
      for (let at = 0; at <= model.length; at++) {
        for (const varint of HUGE) {
          const [before, after] = [
            model.subarray(0, at),
            model.subarray(at + random.below(varint.length + 1)),
          ];
          survives(concatenate([before, varint, after]));
        }
      }
    });

    it(`${name}, with random bytes changed`, () => {
      const random = new SeededRandom(model.length);
      for (let round = 0; round < 2000; round++) {
        const bytes = model.slice();
        for (let i = random.below(4); i >= 0; i--) bytes[random.below(bytes.length)] = random.below(256);
        survives(bytes);
      }
    });

    it(`${name}, with pieces moved`, () => {
      const random = new SeededRandom(model.length + 1);
      for (let round = 0; round < 1000; round++) {
        const bytes = model.slice();
        const from = random.below(bytes.length);
        bytes.copyWithin(random.below(bytes.length), from, from + random.below(64));
        survives(bytes);
      }
    });
  }

  it('random bytes', () => {
    const random = new SeededRandom(2);
    for (let round = 0; round < 4000; round++) {
      const bytes = Uint8Array.from({ length: random.below(100) }, () => random.below(256));
      assert.ok(!survives(bytes), `round ${round}`);
    }
  });
});
