import assert from 'node:assert/strict';
import { asFusion, fusionAttributes } from '../../custom-ops/attributes.js';
import type { OperatorDefinition } from '../../custom-ops/operator.js';
import { InputError } from '../../rewriter/errors.js';
import {
  type Decision,
  decideByPlan,
  decideUniformly,
  documentDecision,
  parsePlan,
} from '../../rewriter/plan.js';
import type { AttentionSite, FusionSite } from '../../rewriter/site.js';
import { EXACT_ATTENTION } from './exact-attention.js';

/** An operator that takes causal sites only, and has a minimum length. */
const OPERATOR: OperatorDefinition = {
  ...EXACT_ATTENTION,
  id: 'causal-only',
  fidelity: { softmax: 'approximates-softmax' },
  attributes: [
    { name: 'exact_below', type: 'int', description: 'minimum length' },
    { name: 'rank', type: 'int', description: 'rank' },
  ],
  defaultMinLength: 512,
  accepts: site => (site.causal ? { ok: true } : { ok: false, reason: 'it takes causal sites only' }),
  resolve: (_, settings) => ({ rank: 4, ...settings }),
};

function site(id: string, overrides: Partial<AttentionSite> = {}): AttentionSite {
  const operand = { value: id, layout: 'BHND', dataType: 1 } as const;
  return {
    computation: 'softmax',
    id,
    nodes: [],
    query: operand,
    key: operand,
    value: operand,
    output: operand,
    causal: true,
    replaceable: true,
    reason: null,
    sink: null,
    ...overrides,
  } as AttentionSite;
}

const SITES = [
  site('a'),
  site('b', { causal: false }),
  site('c', { replaceable: false, reason: 'its scores are used elsewhere' }),
];

describe('decisions', () => {
  it('replace what is selected and accepted, and give the reason for the rest', () => {
    const choice = { operator: OPERATOR, settings: { rank: 2 }, selects: (id: string) => id !== 'x' };
    const decisions = decideUniformly([...SITES, site('x')], choice, null);
    assert.deepEqual(
      decisions.map(({ replacement, reason }) => [replacement?.attributes ?? null, reason]),
      [
        [{ rank: 2, exact_below: 512 }, decisions[0]!.reason],
        [null, 'it takes causal sites only'],
        [null, 'its scores are used elsewhere'],
        [null, 'not selected'],
      ],
    );
    assert.match(decisions[0]!.reason, /exact below 512 keys at run time/);
  });

  it('take for a fusion the operator that computes it, and keep it from others', () => {
    const { query, key, value, operatorScale, ...facts } = site('fused');
    const fused: FusionSite = {
      ...facts,
      computation: 'elementwise',
      operands: {},
      output: { value: 'fused', dataType: 1, moves: [], axes: { batch: 0, sequence: 1 } },
      furtherOutputs: {},
      parameters: { rank: 3 },
    };
    const fusion: OperatorDefinition = {
      ...OPERATOR,
      id: 'fused',
      fidelity: { elementwise: 'exact', softmax: 'needs-trained-weights' },
      attributes: [{ name: 'rank', type: 'int', description: 'rank' }],
      resolve: (found, settings) => fusionAttributes(fusion, asFusion(found), settings),
    };
    const both = [site('a'), fused];
    const choice = { operator: OPERATOR, settings: { rank: 9 }, selects: () => true };
    const summary = (decisions: readonly Decision[]) =>
      decisions.map(({ replacement, reason }) => [
        replacement?.operator.id ?? reason,
        replacement?.attributes,
      ]);

    const decisions = decideUniformly(both, { ...choice, fusions: [OPERATOR, fusion] }, 64);
    assert.deepEqual(summary(decisions), [
      ['causal-only', { rank: 9, exact_below: 64 }],
      ['fused', { rank: 3 }],
    ]);
    assert.match(decisions[1]!.reason, /equal to the original/);
    assert.match(
      String(summary(decideUniformly(both, choice, null))[1]![0]),
      /cannot stand in for element-wise/,
    );

    const forced = { ...choice, operator: fusion, settings: {} };
    assert.match(String(summary(decideUniformly(both, forced, null))[0]![0]), /trained with it.*--retrain/s);
    assert.throws(
      () => decideUniformly([fused], { ...forced, settings: { rank: 4 } }, null),
      (error: InputError) => error instanceof InputError && /the graph has rank 3/.test(error.message),
    );
    const retrainable = { ...fusion, resolve: OPERATOR.resolve };
    const retrained = decideUniformly(both, { ...forced, operator: retrainable, retrained: true }, null);
    assert.match(retrained[0]!.reason, /right only in a model trained/);
  });

  it('keep the sites of models that are too old for the operator', () => {
    const graph = { opsets: new Map([['', 9]]), resolve: () => null };
    const old = site('old', { nodes: [{ graph }] as unknown as AttentionSite['nodes'] });
    const choice = { operator: { ...OPERATOR, oldestOpset: 11 }, settings: {}, selects: () => true };
    const [decision] = decideUniformly([old], choice, null);
    assert.equal(decision!.replacement, null);
    assert.match(decision!.reason, /needs opset 11 or newer/);
  });

  it('take the minimum length that is asked for over settings and the operator', () => {
    const decide = (settings: { exact_below?: number }, minLength: number | null) =>
      decideUniformly([site('a')], { operator: OPERATOR, settings, selects: () => true }, minLength)[0]!
        .replacement!.attributes.exact_below;
    assert.equal(decide({}, null), 512);
    assert.equal(decide({ exact_below: 7 }, null), 7);
    assert.equal(decide({ exact_below: 7 }, 9), 9);
    assert.equal(decide({}, 0), 0);
  });

  it('keep sites of a fixed length below the minimum', () => {
    const decide = (keys: number) => {
      const graph = { opsets: new Map(), resolve: () => ({ declared: { dims: [1, 4, keys, 64] } }) };
      const fixed = site('a', { nodes: [{ graph }] as unknown as AttentionSite['nodes'] });
      return decideUniformly([fixed], { operator: OPERATOR, settings: {}, selects: () => true }, 512)[0]!;
    };
    assert.match(decide(511).reason, /its 511 keys are fewer than the minimum length, 512/);
    assert.equal(decide(511).replacement, null);
    assert.notEqual(decide(512).replacement, null);
  });

  it('refuse a minimum length for an operator without one', () => {
    const operator = { ...OPERATOR, attributes: [] };
    const choice = { operator, settings: {}, selects: () => true };
    assert.throws(() => decideUniformly([site('a')], choice, 9), /no minimum length/);
    assert.equal(
      decideUniformly([site('a')], choice, null)[0]!.replacement!.attributes.exact_below,
      undefined,
    );
  });

  it('follow a plan, and keep what it leaves out', () => {
    const plan = parsePlan(
      '{"version": 1, "sites": [{"id": "a", "operator": "causal-only", "attributes": {"rank": 8}}]}',
      'plan.json',
    );
    const decisions = decideByPlan(SITES, plan, [OPERATOR], null);
    assert.equal(decisions[0]!.replacement!.attributes.rank, 8);
    assert.deepEqual(
      decisions.slice(1).map(({ replacement, reason }) => [replacement, reason]),
      [
        [null, 'not in the plan'],
        [null, 'not in the plan'],
      ],
    );
  });

  it('keep a site that a plan keeps, whatever operator it names', () => {
    const entry = { id: 'a', operator: 'causal-only', decision: 'kept' };
    const plan = parsePlan(JSON.stringify({ version: 1, sites: [entry] }), 'plan.json');
    const [decision] = decideByPlan(SITES, plan, [OPERATOR], null);
    assert.deepEqual([decision!.replacement, decision!.reason], [null, 'kept by the plan']);
  });

  it('refuse a plan that cannot be followed', () => {
    const follow = (entry: object) => () =>
      decideByPlan(SITES, parsePlan(JSON.stringify({ version: 1, sites: [entry] }), 'p'), [OPERATOR], null);
    assert.throws(follow({ id: 'nowhere', operator: null }), /no attention site "nowhere"/);
    assert.throws(follow({ id: 'a', operator: 'magic' }), /plan: site "a": unknown operator "magic"/);
    assert.throws(
      follow({ id: 'b', operator: 'causal-only' }),
      /"b" cannot be replaced by causal-only: it takes causal/,
    );
    assert.throws(follow({ id: 'c', operator: 'causal-only' }), /used elsewhere/);
  });
});

describe('plans', () => {
  it('are what rewrite --json prints, too', () => {
    const choice = { operator: OPERATOR, settings: { rank: 3 }, selects: () => true };
    const decisions = decideUniformly(SITES, choice, 99);
    const document = {
      version: 1,
      sites: decisions.map(decision => documentDecision(decision, 0.5)),
      model: {},
    };
    const plan = parsePlan(JSON.stringify(document), 'plan.json');
    const again = decideByPlan(SITES, plan, [OPERATOR], null);
    assert.deepEqual(
      again.map(({ replacement }) => replacement),
      decisions.map(({ replacement }) => replacement),
    );
  });

  for (const [what, text, message] of [
    ['no JSON', '{', /not a JSON document/],
    ['another version', '{"version": 2, "sites": []}', /version: expected 1, found 2/],
    ['no version', '{"sites": []}', /version: expected 1/],
    ['no sites', '{"version": 1}', /sites: expected an array/],
    ['a site without an id', '{"version": 1, "sites": [{"operator": null}]}', /sites\[0\]\.id/],
    [
      'a site twice',
      '{"version": 1, "sites": [{"id": "a"}, {"id": "a"}]}',
      /sites\[1\]\.id: site "a" occurs twice/,
    ],
    ['an unknown key', '{"version": 1, "sites": [{"id": "a", "atributes": {}}]}', /unknown key "atributes"/],
    [
      'an attribute of no type',
      '{"version": 1, "sites": [{"id": "a", "attributes": {"rank": true}}]}',
      /sites\[0\]\.attributes\.rank: expected a number/,
    ],
    ['an unknown decision', '{"version": 1, "sites": [{"id": "a", "decision": "maybe"}]}', /decision/],
  ] as const) {
    it(`with ${what} are refused, naming file and place`, () => {
      assert.throws(
        () => parsePlan(text, 'plan.json'),
        (error: unknown) =>
          error instanceof InputError &&
          error.message.startsWith('plan.json: ') &&
          message.test(error.message),
      );
    });
  }
});
