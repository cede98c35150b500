import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { OPERATORS } from '../../custom-ops/index.js';
import { multipoleAttention } from '../../custom-ops/multipole-attention/operator.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { ModelGraph } from '../../rewriter/graph/model-graph.js';
import { inspect } from '../../rewriter/inspection.js';
import { decodeModel } from '../../rewriter/onnx/decode.js';
import { decideUniformly } from '../../rewriter/plan.js';
import { rewriteModel } from '../../rewriter/rewrite-model.js';

const FOLDER = new URL('../../../test/zoo/bilinear/', import.meta.url);
const WIDTH = 24;

const TRAIN = { kind: 'block-tensor-train', heads: 3, input_pieces: [4], output_pieces: [6] };
const LEVELS = { kind: 'multi-level-low-rank', heads: 3, input_pieces: [1, 2, 4], ranks: [4, 2, 1] };

/** What generate.py writes: the attributes of each form, besides those that all share; the reason why for what only looks like it. */
const EXPECTED: Readonly<Record<string, Readonly<Record<string, unknown>> | RegExp>> = {
  'tensor-train': { ...TRAIN, ranks: [1], normalisation: 'layer', causal: 1 },
  'plain-tensor-train': { ...TRAIN, ranks: [2], normalisation: 'none', causal: 0 },
  'ranked-weights': { ...TRAIN, ranks: [2], normalisation: 'layer', causal: 1 },
  'key-mask': { ...TRAIN, ranks: [2], normalisation: 'none', causal: 0 },
  'joined-levels': { ...LEVELS, normalisation: 'none', causal: 1 },
  levels: { ...LEVELS, normalisation: 'layer', causal: 1 },
  'plain-levels': { ...LEVELS, normalisation: 'none', causal: 0 },
  'not-other-permutation': /its scores are not those of structured matrices/,
  'not-biased-norm': /its normalization has a bias/,
  'not-other-norm': /it normalizes by the root mean square/,
  'not-distance': /its scores have a bias/,
};

const models = readdirSync(FOLDER)
  .filter(file => file.endsWith('.onnx'))
  .map(file => {
    const [, form, exporter] = /^(.*)-(legacy\d+|dynamo\d+)\.onnx$/.exec(file)!;
    return { form: form!, exporter: exporter!, bytes: readFileSync(fileURLToPath(new URL(file, FOLDER))) };
  });

async function run(model: Uint8Array, batch: number, sequence: number): Promise<Float32Array> {
  const random = new SeededRandom(sequence);
  const x = new Tensor('float32', random.normals(batch * sequence * WIDTH), [batch, sequence, WIDTH]);
  // The first key stays, so that every row sees one.
  const visible = Uint8Array.from({ length: batch * sequence }, (_, n) =>
    Number(n % sequence === 0 || random.uniform() < 0.6),
  );
  const session = await InferenceSession.create(model, { logSeverityLevel: 3 });
  try {
    const mask = session.inputNames.includes('mask')
      ? { mask: new Tensor('bool', visible, [batch, sequence]) }
      : {};
    const { y } = await session.run({ x, ...mask });
    return y!.data as Float32Array;
  } finally {
    await session.release();
  }
}

describe('zoo: bilinear attention in plain operators', () => {
  it('has every form', () => {
    assert.deepEqual([...new Set(models.map(({ form }) => form))].sort(), Object.keys(EXPECTED).sort());
  });

  for (const { form, exporter, bytes } of models) {
    const expected = EXPECTED[form]!;
    it(`${form}, ${exporter}: is what it is found to be`, () => {
      const { sites, near_misses } = inspect(new ModelGraph(decodeModel(bytes)), OPERATORS);
      const found = sites.filter(({ computation }) => computation === 'bilinear');
      if (expected instanceof RegExp) {
        assert.deepEqual(found, []);
        const { reason } = near_misses.find(({ pattern }) => pattern === 'bilinear-attention')!;
        assert.match(reason, expected);
        return;
      }
      assert.equal(found.length, 1, near_misses.map(({ reason }) => reason).join());
      const [site] = found;
      for (const [name, value] of Object.entries(expected)) {
        assert.deepEqual((site!.parameters as Record<string, unknown>)[name], value, name);
      }
      assert.deepEqual(site!.operators, ['bilinear-attention']);
    });

    if (expected instanceof RegExp) continue;
    it(`${form}, ${exporter}: is replaced exactly`, async () => {
      const { model } = rewriteModel(bytes, sites =>
        decideUniformly(
          sites,
          { operator: multipoleAttention, settings: {}, selects: () => true, fusions: OPERATORS },
          null,
        ),
      );
      const types = decodeModel(model).graph.nodes.map(({ opType }) => opType);
      assert.equal(types.filter(type => type === 'BilinearAttention').length, 1);
      assert.ok(!types.some(type => ['Softmax', 'LayerNormalization'].includes(type)), types.join());
      for (const [batch, sequence] of [
        [2, 37],
        [1, 1],
        [3, 300],
      ] as const) {
        const [before, after] = [await run(bytes, batch, sequence), await run(model, batch, sequence)];
        const largest = before.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
        for (const [n, x] of before.entries()) {
          assert.ok(Math.abs(after[n]! - x) <= 1e-5 * largest, `${n}: ${after[n]}, not ${x}`);
        }
      }
    });
  }
});
