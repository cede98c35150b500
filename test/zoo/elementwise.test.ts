import assert from 'node:assert/strict';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { OPERATORS } from '../../custom-ops/index.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
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
  'exact-divided': { pattern: 'elementwise-softmax', parameters: { order: 0, causal: 0 }, mask: 'none' },
  'series-head-loop': { pattern: 'elementwise-series', parameters: { order: 2, causal: 1 }, mask: 'causal' },
  'step-stacked': { pattern: 'elementwise-series', parameters: { order: 2, causal: 0 }, kind: 'cached' },
  'step-features': { pattern: 'elementwise-series', parameters: { order: 4, causal: 0 }, kind: 'cached' },
  'step-list': { pattern: 'elementwise-series', parameters: { order: 2, causal: 1 }, kind: 'cached' },
  'step-wrong-factor': { pattern: 'elementwise-series', miss: /its state does not hold each sum once/ },
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
  it('has every form', () => {
    assert.deepEqual([...new Set(models.map(({ form }) => form))].sort(), Object.keys(EXPECTED).sort());
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
      const kind = expected.kind ?? 'self';
      assert.deepEqual([site!.computation, site!.dtype, site!.kind], ['elementwise', 'float32', kind]);
      if (site!.replaceable) assert.deepEqual(site!.operators, ['elementwise-attention']);
      else assert.match(site!.reason!, /odd order is negative/);
    });

    if ('miss' in expected || expected.replaceable === false) continue;
    it(`${form}, ${exporter}: is replaced exactly`, async () => {
      const { model, types, decisions } = fused(bytes);
      assert.match(decisions[0]!.reason, /equal to the original up to rounding/);
      assert.equal(types.filter(type => type === 'ElementwiseAttention').length, 1);
      assert.ok(!types.some(type => ['Exp', 'Softmax', 'CumSum'].includes(type)), types.join());
      if (expected.kind === 'cached') return assertSameSteps(bytes, model);
      await assertSameResults(bytes, model, WIDTH, [
        [2, 37],
        [1, 1],
        [3, 300],
      ]);
    });
  }
});

const STEPS = 12;

/**
 * Feeds both models one token after the other, and each its own state: every output and every sum has to be the
 * same up to rounding all the way.
 */
async function assertSameSteps(original: Uint8Array, rewritten: Uint8Array): Promise<void> {
  const sessions = await Promise.all([original, rewritten].map(model => InferenceSession.create(model)));
  try {
    const random = new SeededRandom(3);
    const states = sessions.map(({ inputMetadata }) => emptyState(inputMetadata));
    for (let step = 0; step < STEPS; step++) {
      const x = new Tensor('float32', random.normals(BATCH * WIDTH), [BATCH, 1, WIDTH]);
      const results = await Promise.all(sessions.map((session, n) => session.run({ x, ...states[n] })));
      const [expected, actual] = results.map(outputs => new Map(Object.entries(outputs)));
      for (const [name, { data, dims }] of expected!) {
        const found = actual!.get(name)!;
        assert.deepEqual(found.dims, dims);
        assertClose(found.data as Float32Array, data as Float32Array, `${name} of step ${step}`);
      }
      for (const [n, outputs] of [expected!, actual!].entries()) {
        for (const name of Object.keys(states[n]!)) states[n]![name] = outputs.get(`new_${name}`)!;
      }
    }
  } finally {
    for (const session of sessions) await session.release();
  }
}

const BATCH = 3;

/** Zeros for every input but `x`. */
function emptyState(inputs: InferenceSession['inputMetadata']): Record<string, Tensor> {
  const state: Record<string, Tensor> = {};
  for (const input of inputs) {
    if (input.name === 'x' || !input.isTensor) continue;
    const dims = input.shape.map(dim => (typeof dim === 'number' ? dim : BATCH));
    const count = dims.reduce((product, dim) => product * dim, 1);
    state[input.name] = new Tensor('float32', new Float32Array(count), dims);
  }
  return state;
}

function assertClose(actual: Float32Array, expected: Float32Array, what: string): void {
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  assert.ok(largest > 0, what);
  const error = actual.reduce((most, value, n) => Math.max(most, Math.abs(value - expected[n]!)), 0);
  assert.ok(error <= 1e-5 * largest, `${what}: error ${error} of ${largest}`);
}
