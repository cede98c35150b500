import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { multipoleAttention } from '../../../custom-ops/multipole-attention/operator.js';
import { InputError } from '../../../rewriter/errors.js';
import { findSites } from '../../../rewriter/find-sites.js';
import { ModelGraph } from '../../../rewriter/graph/model-graph.js';
import { decodeModel } from '../../../rewriter/onnx/decode.js';
import { decideByPlan, parsePlan, type Settings } from '../../../rewriter/plan.js';

const MODELS = new URL('../../../../models/byte-lm/', import.meta.url);
const PLANS = readdirSync(new URL('plans/', MODELS)).filter(name => name.endsWith('.json'));
const MODEL_NAMES = ['causal', 'encoder'] as const;

const sitesOf = (name: string) => {
  const file = fileURLToPath(new URL(`${name}.onnx`, MODELS));
  return findSites(new ModelGraph(decodeModel(readFileSync(file), { file }))).sites;
};

describe('MultipoleAttention at the sites of trained models', () => {
  const sites = Object.fromEntries(MODEL_NAMES.map(name => [name, sitesOf(name)]));

  it('has plans for each of them', () => {
    for (const name of MODEL_NAMES) assert.ok(PLANS.some(plan => plan.startsWith(`${name}-`)));
  });

  for (const file of PLANS) {
    it(`replaces what the plan ${file} says`, () => {
      const plan = parsePlan(readFileSync(new URL(`plans/${file}`, MODELS), 'utf8'), file);
      const own = sites[file.split('-')[0]!]!;
      assert.deepEqual(
        plan.sites.map(({ id }) => id),
        own.map(({ id }) => id),
      );
      for (const [n, { replacement }] of decideByPlan(own, plan, [multipoleAttention], null).entries()) {
        const { scale, causal, ...settings } = replacement!.attributes;
        assert.deepEqual([scale, causal], [1 / 8, Number(file.startsWith('causal'))]);
        // All else is a setting, and plans say each, so that other defaults do not change them.
        assert.deepEqual(plan.sites[n]!.attributes, settings);
      }
    });
  }

  const accepted: readonly (readonly [name: string, model: string, settings: Settings])[] = [
    ['a dyadic hierarchy', 'causal', { hierarchy: 'dyadic' }],
    ['a dyadic hierarchy', 'encoder', { hierarchy: 'dyadic', retrieve: 0 }],
    ['the contracted dipole', 'encoder', { segment: 0, order: 1, contracted: 1, retrieve: 0 }],
    ['the preset for speed', 'causal', multipoleAttention.presets.fast!],
    ['retrieval by mass', 'encoder', { retrieve_mass: 0.1 }],
    ['a fixed number of clusters', 'causal', { retrieve: 8, retrieve_error: 0 }],
    ["the paper's form", 'encoder', multipoleAttention.presets.paper!],
  ];
  for (const [name, model, settings] of accepted) {
    it(`takes ${name} (${model})`, () => {
      const attributes = multipoleAttention.resolve(sites[model]![0]!, settings);
      const body = multipoleAttention.functionBody(attributes, ['query', 'key', 'value', 'output'], {
        opset: 18,
        elementType: 1,
      });
      assert.ok(body.nodes.length > 0);
    });
  }

  const refused: readonly (readonly [pattern: RegExp, model: string, settings: Settings])[] = [
    [/costs more than exact attention/, 'encoder', { order: 1 }],
    [/costs more than exact attention/, 'causal', { order: 2 }],
    [/contracted dipole belongs to order 1/, 'encoder', { order: 1, contracted: 1, retrieve: 0 }],
    [/contracted dipole belongs to order 1/, 'encoder', { segment: 0, contracted: 1, retrieve: 0 }],
    [/contracted dipole belongs to order 1/, 'encoder', { segment: 0, order: 1, contracted: 1 }],
    [/needs segments/, 'causal', { segment: 0 }],
    [/2 numbers for 4 query heads/, 'causal', { retrieve: [1, 2] }],
    [/two ways to choose clusters/, 'causal', { retrieve_mass: 0.1, retrieve_error: 0.1 }],
  ];
  for (const [pattern, model, settings] of refused) {
    it(`refuses ${JSON.stringify(settings)} (${model}) with the reason and a remedy`, () => {
      assert.throws(
        () => multipoleAttention.resolve(sites[model]![0]!, settings),
        error =>
          error instanceof InputError && pattern.test(error.message) && error.details.remedy !== undefined,
      );
    });
  }
});
