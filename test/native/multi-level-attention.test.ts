import assert from 'node:assert/strict';
import { caseInputs, MULTI_LEVEL_CASES } from '../../custom-ops/multi-level-attention/cases.js';
import {
  type MultiLevelParameters,
  plainParameters,
} from '../../custom-ops/multi-level-attention/parameters.js';
import {
  type MultiLevelInputs,
  multiLevelAttention,
} from '../../custom-ops/multi-level-attention/reference.js';
import type { Tensor } from '../../custom-ops/operator.js';
import * as runtime from '../../custom-ops/runtime/node/index.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { assertClose, HALF, SINGLE } from '../comparison.js';
import { assertSameCache, keyNumbers } from '../custom-ops/multi-level-attention/comparison.js';
import { randomSequence, runInPieces } from '../custom-ops/multi-level-attention/decoding.js';
import { NodeSessions } from '../custom-ops/multi-level-attention/node-session.js';
import { sequenceRows } from '../custom-ops/multipole-attention/sequence-rows.js';
import { nativeBuild } from './native-build.js';

const RANDOM_CASES = 120;
/** Refused inputs are expected: nothing is to be logged. */
const FATAL = 4;
const BARE = { bare: true } as const;

describe('MultiLevelAttention on the CPU', () => {
  const sessions = (threads: number) =>
    new NodeSessions(runtime, { intraOpNumThreads: threads, logSeverityLevel: FATAL });
  const single = sessions(1);
  const double = sessions(2);

  before(function () {
    this.timeout(600_000);
    nativeBuild(this);
  });
  after(async () => {
    await single.release();
    await double.release();
  });

  describe('equals the reference', () => {
    const check = async (
      inputs: MultiLevelInputs,
      parameters: MultiLevelParameters,
      float16 = false,
      kernels = double,
    ) => {
      const expected = multiLevelAttention(inputs, parameters);
      const actual = await kernels.run(parameters, inputs, { ...BARE, float16 });
      const tolerance = float16 ? HALF : SINGLE;
      assertClose(actual.output.data, expected.output.data, tolerance, 'output');
      assertClose(actual.lse.data, expected.lse.data, tolerance, 'lse');
      assertSameCache(actual.present, expected.present);
    };

    for (const shared of MULTI_LEVEL_CASES) {
      it(shared.name, () => check(caseInputs(shared), shared.parameters, shared.float16));
    }

    it(`on ${RANDOM_CASES} random ragged cases`, async () => {
      for (let seed = 0; seed < RANDOM_CASES; seed++) {
        const { inputs, parameters } = randomCase(seed);
        const kernels = sessions(1 + (seed % 2));
        await check(inputs, parameters, false, kernels).catch(error => {
          throw new Error(`case ${seed}, ${JSON.stringify(parameters)}: ${(error as Error).message}`);
        });
        await kernels.release();
      }
    });
  });

  it('gives the same bits run after run and for any number of threads', async () => {
    for (const [causal, block] of [
      [false, 100],
      [true, 64],
      [true, 5],
    ] as const) {
      const inputs = randomSequence(3, 1500, 24, 3);
      const parameters = plainParameters([8, 8, 4, 4], block, { causal, divide: 'shared' });
      const first = await single.run(parameters, inputs, BARE);
      for (const kernels of [single, double]) {
        const again = await kernels.run(parameters, inputs, BARE);
        assert.deepEqual(again.output.data, first.output.data);
        assert.deepEqual(again.lse.data, first.lse.data);
      }
    }
  });

  it('leaves causal rows as they are, bit for bit, whatever follows', async () => {
    const length = 500;
    const inputs = randomSequence(11, length, 16);
    for (const block of [3, 64, 90]) {
      const parameters = plainParameters([8, 4, 4], block, { causal: true });
      const before = await double.run(parameters, inputs, BARE);
      for (const [kept, value] of [
        [1, 3],
        [64, -2],
        [333, Number.NaN],
        [450, Number.POSITIVE_INFINITY],
      ] as const) {
        const change = ({ dims, data }: Tensor): Tensor => ({
          dims,
          data: data.map((x, n) => (Math.floor(n / 16) % length >= kept ? value : x)),
        });
        const after = await double.run(
          parameters,
          { query: change(inputs.query), key: change(inputs.key), value: change(inputs.value) },
          BARE,
        );
        const rows = (tensor: Tensor) => sequenceRows(tensor, 0, kept).data;
        assert.deepEqual(rows(after.output), rows(before.output));
      }
    }
  });

  it('decodes step by step what it computes at once, on a quarter of the key cache', async () => {
    const length = 256;
    const ranks = [8, 8, 8, 8, 8, 8, 8, 8];
    const parameters = plainParameters(ranks, 2, { causal: true });
    const inputs = randomSequence(12, length, 64, 4, 2);
    const whole = await double.run(parameters, inputs, BARE);
    let peak = 0;
    await runInPieces(
      inputs,
      Array.from({ length }, () => 1),
      parameters,
      (piece, same) => double.run(same, piece, BARE),
      ({ output, present }, from, to) => {
        assertClose(output.data, sequenceRows(whole.output, from, to).data, SINGLE, `row ${from}`);
        peak = Math.max(peak, keyNumbers(present));
      },
    );
    assert.ok(peak <= length * ranks.reduce((sum, rank, l) => sum + rank / 2 ** l, 0));
    assert.ok(peak / (length * 64) < 0.26);
  });

  it('keeps what hidden keys hold out of everything', async () => {
    const length = 300;
    const inputs = randomSequence(5, length, 16);
    const keyMask = Uint8Array.from({ length }, (_, n) => Number(n % 3 > 0));
    for (const causal of [false, true]) {
      const parameters = plainParameters([8, 4, 4], 20, { causal });
      const clean = await double.run(parameters, { ...inputs, keyMask }, BARE);
      for (const value of [Number.NaN, Number.POSITIVE_INFINITY]) {
        const spoil = ({ dims, data }: Tensor): Tensor => ({
          dims,
          data: data.map((x, n) => ((Math.floor(n / 16) % length) % 3 === 0 ? value : x)),
        });
        const dirty = { query: inputs.query, key: spoil(inputs.key), value: spoil(inputs.value), keyMask };
        assert.deepEqual((await double.run(parameters, dirty, BARE)).output.data, clean.output.data);
      }
    }
  });

  it('refuses shapes that do not fit, and says which', async () => {
    const good = randomSequence(1, 10, 8);
    const parameters = plainParameters([4, 4], 4);
    const cache = multiLevelAttention(good, parameters).present;
    const shaped = (...dims: number[]): Tensor => ({
      dims,
      data: new Float32Array(dims.reduce((a, b) => a * b, 1)),
    });
    const cases: [string, MultiLevelInputs, Partial<MultiLevelParameters>][] = [
      ['key \\[1,3,10,8\\] does not fit query', { ...good, key: shaped(1, 3, 10, 8) }, {}],
      ['value \\[1,2,9,8\\] does not fit key', { ...good, value: shaped(1, 2, 9, 8) }, {}],
      ['has not the 9 dimensions', good, { ranks: [4, 5] }],
      [
        'past_value \\[1,2,10,4\\] does not fit',
        { ...good, past: { ...cache, value: shaped(1, 2, 10, 4) } },
        {},
      ],
      [
        'past_key_2 has shape \\[1,2,3,4\\], not \\[1,2,2,4\\] after 10 tokens',
        { ...good, past: { ...cache, keys: [cache.keys[0]!, shaped(1, 2, 3, 4)] } },
        {},
      ],
      ['come together', { ...good, past: { ...cache, keys: [cache.keys[0]!] } }, {}],
      ['as many queries as keys', { ...good, query: shaped(1, 2, 3, 8), past: cache }, {}],
      ['no causal_offset', { ...good, past: cache }, { causalOffset: 3 }],
    ];
    for (const [message, inputs, changes] of cases) {
      await assert.rejects(
        single.run({ ...parameters, ...changes }, inputs, BARE),
        new RegExp(message),
        message,
      );
    }
  });

  it('refuses attributes that mean nothing', async () => {
    const inputs = randomSequence(1, 10, 8);
    for (const [message, changes] of [
      ['block is 0', { block: 0 }],
      ['ranks holds 0', { ranks: [8, 0] }],
      ['ranks has to hold', { ranks: [1, 1, 1, 1, 1, 1, 1, 1, 1], levelScale: [] }],
      ['level_scale has 1', { levelScale: [1] }],
      ['unknown divide', { divide: 'most' as 'none' }],
    ] as const) {
      const parameters = { ...plainParameters([4, 4], 4), ...changes };
      const outputs = ['lse'];
      await assert.rejects(
        single.runRaw(parameters, inputs, { ...BARE, outputs }),
        new RegExp(message),
        message,
      );
    }
  });
});

/** Sizes, levels, masks and caches drawn by a seed. */
function randomCase(seed: number): { inputs: MultiLevelInputs; parameters: MultiLevelParameters } {
  const random = new SeededRandom(seed);
  const pick = <T>(values: readonly T[]): T => values[random.below(values.length)]!;
  const ranks = Array.from({ length: 1 + random.below(8) }, () => 1 + random.below(9));
  const size = ranks.reduce((a, b) => a + b, 0);
  const parameters = plainParameters(ranks, 1 + random.below(pick([4, 40, 150])), {
    causal: random.uniform() < 0.5,
    divide: pick(['none', 'count', 'shared']),
    levelScale: ranks.map(() => (random.uniform() < 0.5 ? 1 : random.normal())),
  });
  const heads = pick([1, 2, 4]);
  const kvHeads = pick([1, heads]);
  const batch = 1 + random.below(2);
  const keys = random.below(pick([3, 150, 400]));
  const cached = random.uniform() < 0.4;
  const queries = cached || random.uniform() < 0.5 ? keys : random.below(200);
  const tensor = (count: number, rows: number, width: number): Tensor => ({
    dims: [batch, count, rows, width],
    data: random.normals(batch * count * rows * width),
  });
  const valueDim = 1 + random.below(40);
  const past = cached ? random.below(300) : 0;
  const earlier = {
    query: tensor(heads, 0, size),
    key: tensor(kvHeads, past, size),
    value: tensor(kvHeads, past, valueDim),
  };
  const masked = random.uniform() < 0.3;
  return {
    parameters,
    inputs: {
      query: tensor(heads, queries, size),
      key: tensor(kvHeads, keys, size),
      value: tensor(kvHeads, keys, valueDim),
      ...(masked && {
        keyMask: Uint8Array.from({ length: batch * (past + keys) }, () => Number(random.uniform() < 0.7)),
      }),
      ...(cached && { past: multiLevelAttention(earlier, parameters).present }),
    },
  };
}
