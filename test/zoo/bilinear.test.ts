import assert from 'node:assert/strict';
import { OPERATORS } from '../../custom-ops/index.js';
import { ModelGraph } from '../../rewriter/graph/model-graph.js';
import { inspect } from '../../rewriter/inspection.js';
import { decodeModel } from '../../rewriter/onnx/decode.js';
import { assertSameResults, fused, fusionFixtures } from './fusion-fixtures.js';

const WIDTH = 24;

const TRAIN = { kind: 'block-tensor-train', heads: 3, input_pieces: [4], output_pieces: [6] };
const LEVELS = { kind: 'multi-level-low-rank', heads: 3, input_pieces: [1, 2, 4], ranks: [4, 2, 1] };

/** What generate.py writes: the attributes of each form, besides those that all share; the reason why for what only looks like it. */
const EXPECTED: Readonly<Record<string, Readonly<Record<string, unknown>> | RegExp>> = {
  'tensor-train': { ...TRAIN, ranks: [1], normalisation: 'layer', causal: 1 },
  'plain-tensor-train': { ...TRAIN, ranks: [2], normalisation: 'none', causal: 0 },
  'ranked-weights': { ...TRAIN, ranks: [2], normalisation: 'layer', causal: 1 },
  'root-mean-square': { ...TRAIN, ranks: [2], normalisation: 'root-mean-square', causal: 1 },
  'key-mask': { ...TRAIN, ranks: [2], normalisation: 'none', causal: 0 },
  'joined-levels': { ...LEVELS, normalisation: 'none', causal: 1 },
  levels: { ...LEVELS, normalisation: 'layer', causal: 1 },
  'heads-apart': { ...LEVELS, heads: 1, normalisation: 'none', causal: 1 },
  'plain-levels': { ...LEVELS, normalisation: 'none', causal: 0 },
  'not-other-permutation': /its scores are not those of structured matrices/,
  'not-biased-norm': /its normalization has a bias/,
  'not-distance': /its scores have a bias/,
};

/** Operators that a form becomes: one for each head that is written by itself. */
const countOf = (form: string) => (form === 'heads-apart' ? 3 : 1);

const models = fusionFixtures('bilinear');

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
      assert.equal(found.length, countOf(form), near_misses.map(({ reason }) => reason).join());
      for (const { parameters, operators } of found) {
        for (const [name, value] of Object.entries(expected)) assert.deepEqual(parameters[name], value, name);
        assert.deepEqual(operators, ['bilinear-attention']);
      }
    });

    if (expected instanceof RegExp) continue;
    it(`${form}, ${exporter}: is replaced exactly`, async () => {
      const { model, types } = fused(bytes);
      assert.equal(types.filter(type => type === 'BilinearAttention').length, countOf(form));
      assert.ok(!types.some(type => ['Softmax', 'LayerNormalization'].includes(type)), types.join());
      await assertSameResults(bytes, model, WIDTH, [
        [2, 37],
        [1, 1],
        [3, 300],
      ]);
    });
  }
});
