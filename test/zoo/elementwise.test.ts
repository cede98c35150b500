import assert from 'node:assert/strict';
import { OPERATORS } from '../../custom-ops/index.js';
import { ModelGraph } from '../../rewriter/graph/model-graph.js';
import { inspect, type SiteDescription } from '../../rewriter/inspection.js';
import { decodeModel } from '../../rewriter/onnx/decode.js';
import { assertSameResults, fused, fusionFixtures } from './fusion-fixtures.js';

const WIDTH = 12;

/** What inspect has to say of each form that generate.py writes; null where it is none, with the reason. */
const EXPECTED: Readonly<
  Record<string, Partial<SiteDescription> | { readonly pattern: string; readonly miss: RegExp }>
> = {
  'series-sum': { pattern: 'elementwise-series', parameters: { order: 2, causal: 0 }, mask: 'none' },
  'series-cumsum': { pattern: 'elementwise-series', parameters: { order: 6, causal: 1 }, mask: 'causal' },
  'series-stacked': { pattern: 'elementwise-series', parameters: { order: 4, causal: 1 }, mask: 'causal' },
  'series-horner': { pattern: 'elementwise-series', parameters: { order: 4, causal: 0 }, mask: 'none' },
  'series-padded': {
    pattern: 'elementwise-series',
    parameters: { order: 2, causal: 0 },
    mask: 'key-padding',
  },
  'series-sequence-first': {
    pattern: 'elementwise-series',
    parameters: { order: 2, causal: 1 },
    mask: 'causal',
  },
  'exact-softmax': { pattern: 'elementwise-softmax', parameters: { order: 0, causal: 0 }, mask: 'none' },
  'exact-causal': { pattern: 'elementwise-softmax', parameters: { order: 0, causal: 1 }, mask: 'causal' },
  'exact-padded': {
    pattern: 'elementwise-softmax',
    parameters: { order: 0, causal: 0 },
    mask: 'key-padding',
  },
  'exact-exp': { pattern: 'elementwise-series', parameters: { order: 0, causal: 0 }, mask: 'none' },
  'series-heads': { pattern: 'elementwise-series', parameters: { order: 2, causal: 1 }, mask: 'causal' },
  'series-triangle': { pattern: 'elementwise-series', parameters: { order: 2, causal: 1 }, mask: 'causal' },
  'exact-einsum': { pattern: 'elementwise-series', parameters: { order: 0, causal: 0 }, mask: 'none' },
  'exact-channel-first': {
    pattern: 'elementwise-softmax',
    parameters: { order: 0, causal: 1 },
    mask: 'causal',
  },
  'exact-bias': { pattern: 'elementwise-softmax', parameters: { order: 0, causal: 0 }, mask: 'key-padding' },
  'odd-order': {
    pattern: 'elementwise-series',
    parameters: { order: 3, causal: 0 },
    replaceable: false,
  },
  epsilon: { pattern: 'elementwise-series', miss: /its denominator has 0\.01\d* added/ },
  'wrong-factor': { pattern: 'elementwise-series', miss: /multiplied by something else than exp\(2 q k\)/ },
  'later-key': { pattern: 'elementwise-softmax', miss: /multiplied by something else/ },
  window: { pattern: 'elementwise-softmax', miss: /multiplied by something else/ },
};

const models = fusionFixtures('elementwise');

describe('zoo: element-wise attention in plain operators', () => {
  it('has every form from both exporters', () => {
    const names = models.map(({ form, exporter }) => `${form} ${exporter}`).sort();
    const expected = Object.keys(EXPECTED).flatMap(form => [`${form} dynamo18`, `${form} legacy17`]);
    assert.deepEqual(names, expected.sort());
  });

  for (const { form, exporter, bytes } of models) {
    const expected = EXPECTED[form]!;
    it(`${form}, ${exporter}: is what it is found to be`, () => {
      const { sites, near_misses } = inspect(new ModelGraph(decodeModel(bytes)), OPERATORS);
      if ('miss' in expected) {
        assert.deepEqual(sites, []);
        assert.equal(near_misses.length, 1);
        assert.equal(near_misses[0]!.pattern, expected.pattern);
        assert.match(near_misses[0]!.reason, expected.miss);
        return;
      }
      assert.equal(sites.length, 1, near_misses.map(({ reason }) => reason).join());
      assert.deepEqual(near_misses, []);
      const [site] = sites;
      const found = Object.fromEntries(
        Object.keys(expected).map(key => [key, site![key as keyof SiteDescription]]),
      );
      assert.deepEqual(found, expected);
      assert.deepEqual([site!.computation, site!.dtype, site!.kind], ['elementwise', 'float32', 'self']);
      if (site!.replaceable) assert.deepEqual(site!.operators, ['elementwise-attention']);
      else assert.match(site!.reason!, /odd order is negative/);
    });

    if ('miss' in expected || expected.replaceable === false) continue;
    it(`${form}, ${exporter}: is replaced exactly`, async () => {
      const { model, types, decisions } = fused(bytes);
      assert.match(decisions[0]!.reason, /equal to the original up to rounding/);
      assert.equal(types.filter(type => type === 'ElementwiseAttention').length, 1);
      assert.ok(!types.some(type => ['Exp', 'Softmax', 'CumSum'].includes(type)), types.join());
      await assertSameResults(bytes, model, WIDTH, [
        [2, 37],
        [1, 1],
        [3, 300],
      ]);
    });
  }
});
