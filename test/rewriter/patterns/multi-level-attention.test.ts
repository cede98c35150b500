import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { multiLevelAttention } from '../../../custom-ops/multi-level-attention/operator.js';
import { acceptance } from '../../../custom-ops/operator.js';
import { SeededRandom } from '../../../custom-ops/seeded-random.js';
import { findSites } from '../../../rewriter/find-sites.js';
import { ModelGraph } from '../../../rewriter/graph/model-graph.js';
import { MaskInspector } from '../../../rewriter/masks/facts.js';
import { decodeModel } from '../../../rewriter/onnx/decode.js';
import { multiLevelAttention as multiLevelForm } from '../../../rewriter/patterns/multi-level-attention.js';
import type { Miss } from '../../../rewriter/patterns/source-form.js';
import { decideUniformly } from '../../../rewriter/plan.js';
import { Laboratory } from '../../../rewriter/probe/laboratory.js';
import { rewriteModel } from '../../../rewriter/rewrite-model.js';
import { relativeError } from '../../comparison.js';

const FOLDER = fileURLToPath(new URL('../../../../test/zoo/multi-level/', import.meta.url));
const FIXTURES = readdirSync(FOLDER)
  .filter(file => file.endsWith('.onnx'))
  .sort();
const isNegative = (file: string) => file.startsWith('not-');

/** What test/zoo/multi-level/generate.py builds: ranks 4|2|2 of 8 dimensions, blocks of 8 tokens. */
const ROOT = 8 ** -0.5;
const EXPECTED: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  'masked-sum': { causal: 1, scale: ROOT, level_scale: [1, 1, 1], divide: 'shared' },
  'where-and-split': {
    causal: 0,
    // The query carries the rest of it.
    scale: 0.5,
    level_scale: [1, 2.5 / 1.5, 3.5 / 1.5],
    divide: 'none',
  },
  'sliced-blocks': { causal: 0, scale: ROOT, level_scale: [1, 1, 1], divide: 'none' },
  'spread-blocks': { causal: 1, scale: ROOT, level_scale: [1, 1, 1], divide: 'none' },
  'heads-last': { causal: 1, scale: ROOT, level_scale: [1, 1, 1], divide: 'none' },
  'key-mask': { causal: 0, scale: ROOT, level_scale: [1, 1, 1], divide: 'none' },
  cached: { causal: 1, scale: ROOT, level_scale: [1, 1, 1], divide: 'none' },
  'merged-batch': { causal: 1, scale: ROOT, level_scale: [1, 1, 1], divide: 'none' },
};

const read = (file: string) => readFileSync(join(FOLDER, file));
const find = (file: string) => findSites(new ModelGraph(decodeModel(read(file))));

/** Batches and lengths that a fixture takes; the legacy exporter bakes in those it was traced with. */
function sizesOf(file: string): readonly (readonly [number, number])[] {
  if (file.includes('legacy')) return [[2, 32]];
  const dim = decodeModel(read(file)).graph.inputs[0]?.dims?.[1];
  return (typeof dim === 'number' ? [dim] : [1, 19, 32, 77]).map(length => [3, length]);
}

/** Cached tokens: the last block that they lie in is not full. */
const PAST = 21;

async function run(model: Uint8Array, batch: number, length: number): Promise<Float32Array> {
  const session = await InferenceSession.create(model, { logSeverityLevel: 3 });
  const random = new SeededRandom(length);
  const normal = (...dims: number[]) =>
    new Tensor('float32', random.normals(dims.reduce((product, dim) => product * dim, 1)), dims);
  // The first key stays, so that every row sees one.
  const visible = Uint8Array.from({ length: batch * length }, (_, n) =>
    Number(n % length === 0 || random.uniform() < 0.6),
  );
  const given: Readonly<Record<string, Tensor>> = {
    x: normal(batch, length, 16),
    mask: new Tensor('bool', visible, [batch, length]),
    past_key: normal(batch, 2, PAST, 8),
    past_value: normal(batch, 2, PAST, 8),
  };
  const { y } = await session.run(Object.fromEntries(session.inputNames.map(name => [name, given[name]!])));
  await session.release();
  return y!.data as Float32Array;
}

describe('multi-level attention in plain operators', () => {
  for (const file of FIXTURES.filter(name => !isNegative(name))) {
    it(`is recognized for what it computes: ${file}`, () => {
      const { sites, nearMisses } = find(file);
      assert.deepEqual(nearMisses, []);
      assert.equal(sites.length, 1);
      const [site] = sites;
      assert.ok(site?.computation === 'multi-level', site?.pattern);
      assert.equal(site.reason, null);
      const name = file.replace(/-(legacy|dynamo)\d+\.onnx$/, '');
      const { scale, level_scale, ...rest } = EXPECTED[name]!;
      const { scale: foundScale, level_scale: foundLevels, ...found } = site.parameters;
      assert.deepEqual(found, { ...rest, ranks: [4, 2, 2], block: 8 });
      [foundScale, ...(foundLevels as number[])].forEach((factor, n) => {
        const expected = [scale, ...(level_scale as number[])][n] as number;
        assert.ok(Math.abs((factor as number) - expected) < 1e-6 * expected, `${factor} for ${expected}`);
      });
    });

    it(`gives the original's outputs when swapped: ${file}`, async () => {
      const original = read(file);
      const { model, decisions } = rewriteModel(original, sites =>
        decideUniformly(sites, { operator: multiLevelAttention, settings: {}, selects: () => true }, null),
      );
      assert.equal(decisions.filter(({ replacement }) => replacement !== null).length, 1);
      for (const [batch, length] of sizesOf(file)) {
        const [before, after] = [await run(original, batch, length), await run(model, batch, length)];
        assert.ok(relativeError(after, before) < 1e-6, `at ${length}: ${relativeError(after, before)}`);
      }
    });
  }

  for (const file of FIXTURES.filter(isNegative)) {
    it(`is not taken for it: ${file}`, () => {
      const { sites } = find(file);
      assert.ok(sites.every(({ computation }) => computation === 'softmax'));
      assert.ok(sites.every(site => !acceptance(multiLevelAttention, site).ok));
      assert.match(reasonOf(file), REASONS[file.replace(/-dynamo18\.onnx$/, '')]!);
    });
  }
});

const REASONS: Readonly<Record<string, RegExp>> = {
  'not-uneven-blocks': /blocks of 24, 8 tokens: not each half of the one before/,
  'not-shifted-blocks': /not each half of the one before/,
  'not-later-key': /row i sees the keys up to i \+ 1/,
  'not-windows': /are not those of levels with blocks of 8 tokens/,
  'not-learned-bias': /have a bias/,
};

/** Why the form does not take the attention of a fixture. */
function reasonOf(file: string): string {
  const graph = new ModelGraph(decodeModel(read(file)));
  const laboratory = new Laboratory(graph);
  const context = { graph, laboratory, masks: new MaskInspector(laboratory, graph.constants) };
  const results = graph.main.nodes
    .filter(({ type }) => multiLevelForm.anchors.includes(type))
    .map(node => multiLevelForm.recognize(node, context))
    .filter(result => 'near' in result && result.near);
  assert.equal(results.length, 1);
  return (results[0] as Miss).reason;
}
