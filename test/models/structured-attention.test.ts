import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { bitsPerByte, nextByteTask } from '../../cli/data/byte-task.js';
import { OPERATORS } from '../../custom-ops/index.js';
import { multipoleAttention } from '../../custom-ops/multipole-attention/operator.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { readResults } from '../../models/structured-attention/results.js';
import { tables } from '../../models/structured-attention/tables.js';
import { decideUniformly } from '../../rewriter/plan.js';
import { rewriteModel } from '../../rewriter/rewrite-model.js';

const FOLDER = new URL('../../../models/structured-attention/', import.meta.url);
const LENGTH = 300;

/** Trained models, how many sites they have, and inputs of a length that is no multiple of a block. */
const MODELS = [
  {
    name: 'multi-level',
    operator: 'multi-level-attention',
    sites: 6,
    inputs: () => ({ input_ids: prose(LENGTH) }),
  },
  {
    name: 'elementwise',
    operator: 'elementwise-attention',
    sites: 6,
    inputs: () => ({ input_ids: prose(LENGTH) }),
  },
  { name: 'bilinear-tensor-train', operator: 'bilinear-attention', sites: 4, inputs: () => examples(37) },
] as const;

function text(): Uint8Array {
  return readFileSync(new URL('../byte-lm/mansfield-park.txt', FOLDER));
}

function prose(length: number): Tensor {
  return new Tensor('int64', BigInt64Array.from(text().subarray(0, length), BigInt), [1, length]);
}

/** Two regressions in 16 dimensions. */
function examples(points: number): Readonly<Record<string, Tensor>> {
  const random = new SeededRandom(points);
  return {
    xs: new Tensor('float32', random.normals(2 * points * 16), [2, points, 16]),
    ys: new Tensor('float32', random.normals(2 * points), [2, points]),
  };
}

async function run(model: Uint8Array, inputs: Readonly<Record<string, Tensor>>): Promise<Float32Array> {
  const session = await InferenceSession.create(model);
  const outputs = await session.run(inputs);
  await session.release();
  return Object.values(outputs)[0]!.data as Float32Array;
}

describe('trained models with structured attention', () => {
  for (const { name, operator, sites, inputs } of MODELS) {
    it(`${name}: every site is found, and the rewritten model computes the same`, async () => {
      const original = readFileSync(new URL(`${name}.onnx`, FOLDER));
      const rewritten = rewriteModel(original, found =>
        decideUniformly(
          found,
          { operator: multipoleAttention, settings: {}, selects: () => true, fusions: OPERATORS },
          null,
        ),
      );
      const replaced = rewritten.decisions.map(({ replacement }) => replacement?.operator.id);
      assert.deepEqual(replaced, new Array(sites).fill(operator));
      const [before, after] = [await run(original, inputs()), await run(rewritten.model, inputs())];
      const largest = before.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
      before.forEach((expected, n) => {
        assert.ok(
          Math.abs(after[n]! - expected) <= 2e-5 * largest,
          `output ${n}: ${after[n]}, not ${expected}`,
        );
      });
    });
  }

  for (const { name, bits } of [
    { name: 'multi-level', bits: 3.0351 },
    { name: 'elementwise', bits: 3.5204 },
  ]) {
    it(`${name}: its loss on prose is the one recorded`, async () => {
      const original = readFileSync(new URL(`${name}.onnx`, FOLDER));
      const logits = await run(original, { input_ids: prose(1025) });
      assert.ok(Math.abs(bitsPerByte(logits, nextByteTask(text().subarray(0, 1025))) - bits) < 1e-3);
    });
  }

  it('README: its tables are those of the results', () => {
    const readme = readFileSync(new URL('README.md', FOLDER), 'utf8');
    for (const [name, table] of Object.entries(tables(readResults(new URL('results/', FOLDER))))) {
      assert.ok(readme.includes(table), `the table of ${name} is not the one that render-results.js prints`);
    }
  });
});
