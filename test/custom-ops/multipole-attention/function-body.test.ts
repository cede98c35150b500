import assert from 'node:assert/strict';
import * as node from 'onnxruntime-node';
import {
  caseInputs,
  MULTIPOLE_CASES,
  type MultipoleCase,
} from '../../../custom-ops/multipole-attention/cases.js';
import {
  defaultParameters,
  type MultipoleParameters,
} from '../../../custom-ops/multipole-attention/parameters.js';
import {
  type MultipoleInputs,
  type MultipoleResult,
  multipoleAttention,
} from '../../../custom-ops/multipole-attention/reference.js';
import type { Tensor } from '../../../custom-ops/operator.js';
import { SeededRandom } from '../../../custom-ops/seeded-random.js';
import { relativeError } from '../../comparison.js';
import { bodyChoices } from './body-choices.js';
import { BodySessions } from './body-sessions.js';
import { assertSame } from './comparison.js';
import { sequenceRows } from './sequence-rows.js';

const FLOAT32_TOLERANCE = 1e-5;
const FLOAT16_TOLERANCE = 2e-3;

/** Cases that the function body takes; the others are for the reference and the kernels. */
const BODY_CASES = MULTIPOLE_CASES.filter(
  ({ parameters: { order, contracted } }) => order === 0 || contracted,
);

describe('MultipoleAttention function body in onnxruntime-node', () => {
  const sessions = new BodySessions(node);
  after(() => sessions.release());

  for (const shared of BODY_CASES) {
    it(`agrees with the reference: ${shared.name}`, async () => {
      await checkCase(sessions, shared);
    });
  }

  it('agrees with the reference to rounding under its own choices', async () => {
    for (const shared of BODY_CASES.filter(({ name }) => TRACED.has(name))) {
      const inputs = caseInputs(shared);
      const { result, choices } = await bodyChoices(sessions, shared.parameters, inputs);
      const reference = multipoleAttention(inputs, shared.parameters, choices);
      assertSame(result, reference, FLOAT32_TOLERANCE);
    }
  });

  it('gives the same bits again, and with one thread', async () => {
    const inputs = randomInputs(21, 300);
    const single = new BodySessions(node, { intraOpNumThreads: 1 });
    for (const causal of [false, true]) {
      const first = await sessions.run(smallParameters(causal), inputs);
      const again = await sessions.run(smallParameters(causal), inputs);
      const other = await single.run(smallParameters(causal), inputs);
      assert.deepEqual(again.output.data, first.output.data);
      assert.deepEqual(other.output.data, first.output.data);
    }
    await single.release();
  });

  const causalForms: Record<string, Partial<MultipoleParameters>> = {
    kmeans: {},
    contiguous: { keyGrouping: 'contiguous' },
    'by error': { retrieveError: 0.02 },
    dyadic: { hierarchy: 'dyadic', segment: 16 },
    'dyadic, contiguous': { hierarchy: 'dyadic', segment: 16, keyGrouping: 'contiguous', group: 20 },
  };
  for (const [name, changes] of Object.entries(causalForms)) {
    it(`lets no later token change a bit of a causal row (${name})`, async () => {
      const parameters = smallParameters(true, changes);
      const inputs = randomInputs(22, 300);
      const before = (await sessions.run(parameters, inputs)).output.data;
      for (const token of [0, 31, 32, 100, 191, 255]) {
        const change = (tensor: Tensor): Tensor => ({
          dims: tensor.dims,
          data: tensor.data.map((x, at) => ((at >> 3) % 300 <= token ? x : 1.5 - 2 * x)),
        });
        const changed = { query: change(inputs.query), key: change(inputs.key), value: change(inputs.value) };
        const after = (await sessions.run(parameters, changed)).output.data;
        for (let at = 0; at < before.length; at++) {
          if ((at >> 3) % 300 <= token)
            assert.equal(after[at], before[at], `element ${at} knows what follows ${token}`);
        }
        assert.notDeepEqual(after, before);
      }
    });
  }

  for (const exactBelow of [0, 1000]) {
    it(`keeps what hidden keys hold out of everything (exact_below ${exactBelow})`, async () => {
      const length = 150;
      const clean = {
        ...randomInputs(26, length),
        keyMask: Uint8Array.from({ length }, (_, n) => Number(n % 3 > 0)),
      };
      const spoiled = (tensor: Tensor, value: number): Tensor => ({
        dims: tensor.dims,
        data: tensor.data.map((x, at) => (clean.keyMask[(at >> 3) % length] === 0 ? value : x)),
      });
      for (const causal of [false, true]) {
        const parameters = smallParameters(causal, { exactBelow });
        const expected = await sessions.run(parameters, clean);
        for (const value of [Number.NaN, Number.POSITIVE_INFINITY, -3e38]) {
          const dirty = { ...clean, key: spoiled(clean.key, value), value: spoiled(clean.value, value) };
          assert.deepEqual((await sessions.run(parameters, dirty)).output.data, expected.output.data);
        }
      }
    });
  }

  for (const hierarchy of ['flat', 'dyadic'] as const) {
    it(`gives the same causal rows in chunks as in one piece (${hierarchy})`, async () => {
      const parameters = smallParameters(true, { hierarchy });
      const inputs = randomInputs(23, 300);
      const whole = await sessions.run(parameters, inputs);
      for (const [from, to] of [
        [0, 100],
        [100, 101],
        [101, 240],
        [240, 300],
      ] as const) {
        const chunk = await sessions.run(parameters, {
          query: sequenceRows(inputs.query, from, to),
          key: sequenceRows(inputs.key, 0, to),
          value: sequenceRows(inputs.value, 0, to),
          ...(from > 0 && { pastQuery: sequenceRows(inputs.query, 0, from) }),
        });
        const expected = sequenceRows(whole.output, from, to).data;
        assert.ok(relativeError(chunk.output.data, expected) < 1e-6);
      }
    });
  }

  it('is valid in every opset of models from 11 on', async () => {
    const inputs = {
      ...randomInputs(24, 150),
      keyMask: Uint8Array.from({ length: 150 }, (_, n) => Number(n % 5 > 0)),
    };
    for (const causal of [false, true]) {
      const parameters = smallParameters(causal, { exactBelow: 10 });
      const reference = multipoleAttention(inputs, parameters);
      for (const opset of [11, 12, 13, 14, 16, 17, 20, 22]) {
        assertSame(await sessions.run(parameters, inputs, { opset }), reference, FLOAT32_TOLERANCE);
      }
    }
  });

  it('never holds a number per row and key', async () => {
    const length = 20000;
    const inputs = randomInputs(25, length, 1);
    for (const causal of [false, true]) {
      const parameters = { ...defaultParameters(causal), queryClusters: 16 };
      const before = process.resourceUsage().maxRSS;
      await sessions.run(parameters, inputs);
      const grown = (process.resourceUsage().maxRSS - before) * 1024;
      assert.ok(grown < (length * length * 4) / 4, `took ${grown} bytes`);
    }
  });
});

/** Cases whose discrete choices are read from the body, one for each way of making them. */
const TRACED = new Set([
  'acausal ragged',
  'acausal grouped heads',
  'acausal random mask, contiguous',
  'acausal sliding',
  'acausal cluster, masked',
  'acausal retrieve mass',
  'acausal retrieve error',
  'acausal dyadic',
  'acausal dyadic, cluster',
  'acausal large',
  'causal ragged',
  'causal many blocks',
  'causal retrieve error',
  'causal cluster',
  'causal random mask',
  'causal dyadic',
  'causal dyadic, masked',
  'causal large',
]);

/**
 * Equal to the reference within rounding; where a choice of the body differs, equal to the reference under the
 * body's choices, and no worse than the reference alone. Clustered data leaves no choice open.
 */
async function checkCase(sessions: BodySessions, shared: MultipoleCase): Promise<void> {
  const { parameters, float16 } = shared;
  const tolerance = float16 ? FLOAT16_TOLERANCE : FLOAT32_TOLERANCE;
  const inputs = caseInputs(shared);
  const result = await sessions.run(parameters, inputs, { float16 });
  const reference = multipoleAttention(inputs, parameters);
  assert.deepEqual(result.output.dims, reference.output.dims);
  assert.deepEqual(result.lse.dims, reference.lse.dims);
  if (shared.data === 'clustered' || relativeError(result.output.data, reference.output.data) <= tolerance) {
    assertSame(result, reference, tolerance);
    return;
  }
  const traced = await bodyChoices(sessions, parameters, inputs);
  assertSame(traced.result, multipoleAttention(inputs, parameters, traced.choices), tolerance);
  const exact = multipoleAttention(inputs, { ...parameters, retrieve: [-1] }).output.data;
  const error = ({ output }: Pick<MultipoleResult, 'output'>) => relativeError(output.data, exact);
  assert.ok(error(result) <= 1.05 * error(reference));
}

function smallParameters(causal: boolean, changes: Partial<MultipoleParameters> = {}): MultipoleParameters {
  const sizes = {
    segment: 32,
    keyClusters: 4,
    keyGrouping: 'kmeans' as const,
    queryClusters: 8,
    retrieve: [4],
    retrieveError: 0,
    group: 8,
  };
  return { ...defaultParameters(causal), ...sizes, ...changes };
}

function randomInputs(seed: number, length: number, heads = 2): MultipoleInputs {
  const random = new SeededRandom(seed);
  const tensor = (): Tensor => ({ dims: [1, heads, length, 8], data: random.normals(heads * length * 8) });
  return { query: tensor(), key: tensor(), value: tensor() };
}
