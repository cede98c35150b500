import assert from 'node:assert/strict';
import { OPERATORS } from '../../custom-ops/index.js';
import { ModelGraph } from '../../rewriter/graph/model-graph.js';
import { inspect } from '../../rewriter/inspection.js';
import { decodeModel } from '../../rewriter/onnx/decode.js';
import { assertSameResults, fused, fusionFixtures } from './fusion-fixtures.js';

const WIDTH = 24;

const TRAIN = { input_pieces: [4], output_pieces: [6], permuted: [1] };

/**
 * What generate.py writes: the attributes of each form, besides those that all share. Of what only looks like it,
 * the reason why it is kept; null where it comes nowhere near.
 */
const EXPECTED: Readonly<Record<string, Readonly<Record<string, unknown>> | RegExp | null>> = {
  'low-rank': { kind: 'low-rank', ranks: [4] },
  'low-rank-transposed': { kind: 'low-rank', ranks: [4] },
  kronecker: { kind: 'kronecker', ...TRAIN },
  'kronecker-joint': { kind: 'kronecker', ...TRAIN },
  monarch: { kind: 'monarch', ...TRAIN },
  'monarch-ellipsis': { kind: 'monarch', ...TRAIN },
  'tensor-train': { kind: 'block-tensor-train', ...TRAIN, ranks: [2], level_scale: [0.25] },
  levels: { kind: 'multi-level-low-rank', input_pieces: [1, 2, 4], ranks: [4, 2, 1], permuted: [0, 0, 0] },
  'pieces-apart': { kind: 'block-tensor-train', ...TRAIN, ranks: [2] },
  butterfly: { kind: 'butterfly', in_features: 8 },
  'butterfly-sums': { kind: 'butterfly', in_features: 8 },
  'not-far-pairs-first': /stage 0 pairs entries at a distance of 4/,
  'not-other-permutation': /its two weights are no factors of a structured matrix/,
  'not-thick': null,
  'not-nonlinear': null,
  'not-inner-bias': null,
  'not-used-middle': /the products with a factor are used by MatMul/,
};

const models = fusionFixtures('structured-matmul');

describe('zoo: products with structured matrices in plain operators', () => {
  it('has every form', () => {
    assert.deepEqual([...new Set(models.map(({ form }) => form))].sort(), Object.keys(EXPECTED).sort());
  });

  for (const { form, exporter, bytes } of models) {
    const expected = EXPECTED[form]!;
    const negative = expected === null || expected instanceof RegExp;
    it(`${form}, ${exporter}: is what it is found to be`, () => {
      const { sites, near_misses } = inspect(new ModelGraph(decodeModel(bytes)), OPERATORS);
      const accepted = sites.filter(({ operators }) => operators.length > 0);
      if (negative) {
        assert.deepEqual(accepted, []);
        const reasons = [...near_misses, ...sites].map(({ reason }) => reason).join();
        if (expected === null) assert.equal(reasons, '');
        else assert.match(reasons, expected);
        return;
      }
      assert.equal(sites.length, 1, near_misses.map(({ reason }) => reason).join());
      assert.deepEqual(near_misses, []);
      const { parameters, operators, pattern } = sites[0]!;
      const found = Object.fromEntries(Object.keys(expected).map(name => [name, parameters[name]]));
      assert.deepEqual(found, expected);
      const form = parameters.kind === 'butterfly' ? 'butterfly-matmul' : 'structured-matmul';
      assert.deepEqual([pattern, operators], [form, ['structured-matmul']]);
    });

    if (negative) continue;
    it(`${form}, ${exporter}: is replaced exactly`, async () => {
      const { model, types } = fused(bytes);
      assert.equal(types.filter(type => type === 'StructuredMatMul').length, 1);
      assert.ok(types.filter(type => ['MatMul', 'Einsum', 'Gemm'].includes(type)).length <= 2, types.join());
      await assertSameResults(bytes, model, WIDTH, [
        [2, 37],
        [1, 1],
      ]);
    });
  }
});
