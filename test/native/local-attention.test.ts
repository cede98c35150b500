import assert from 'node:assert/strict';
import { LOCAL_CASES } from '../../custom-ops/local-attention/cases.js';
import type { LocalParameters } from '../../custom-ops/local-attention/parameters.js';
import { type LocalInputs, localAttention } from '../../custom-ops/local-attention/reference.js';
import type { Tensor } from '../../custom-ops/operator.js';
import * as runtime from '../../custom-ops/runtime/node/index.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { assertClose, SINGLE } from '../comparison.js';
import { checkCase } from '../custom-ops/local-attention/check-case.js';
import { runNode } from '../custom-ops/local-attention/run-node.js';
import { sequenceRows } from '../custom-ops/multipole-attention/sequence-rows.js';
import { nativeBuild } from './native-build.js';

const RANDOM_CASES = 80;
const BARE = { bare: true } as const;

describe('LocalAttention on the CPU', () => {
  before(function () {
    this.timeout(600_000);
    nativeBuild(this);
  });

  describe('equals the reference', () => {
    for (const shared of LOCAL_CASES) {
      it(shared.name, () => checkCase(runtime, shared, BARE));
    }

    it(`on ${RANDOM_CASES} random ragged cases`, async () => {
      for (let seed = 0; seed < RANDOM_CASES; seed++) {
        const { inputs, parameters } = randomCase(seed);
        const expected = localAttention(inputs, parameters);
        const actual = await runNode(runtime, inputs, parameters, { ...BARE, threads: 1 + (seed % 2) });
        const what = `case ${seed}, ${JSON.stringify(parameters)}`;
        assertClose(actual.output.data, expected.output.data, SINGLE, what);
        assertClose(actual.lse.data, expected.lse.data, SINGLE, what);
      }
    });
  });

  it('leaves rows as they are, bit for bit, whatever stands outside their window', async () => {
    const [length, left, right] = [500, 70, 30];
    const random = new SeededRandom(7);
    const tensor = () => ({ dims: [1, 2, length, 16], data: random.normals(2 * length * 16) });
    const inputs = { query: tensor(), key: tensor(), value: tensor() };
    const parameters = { scale: null, left, right, offset: null };
    const before = await runNode(runtime, inputs, parameters, BARE);
    for (const [spoiled, value] of [
      [250, 3],
      [0, Number.NaN],
      [333, Number.NaN],
      [499, Number.POSITIVE_INFINITY],
    ] as const) {
      const spoil = ({ dims, data }: Tensor): Tensor => ({
        dims,
        data: data.map((x, n) => (Math.floor(n / 16) % length === spoiled ? value : x)),
      });
      const after = await runNode(
        runtime,
        { ...inputs, key: spoil(inputs.key), value: spoil(inputs.value) },
        parameters,
        BARE,
      );
      for (const [from, to] of [
        [0, Math.max(0, spoiled - right)],
        [Math.min(length, spoiled + left + 1), length],
      ] as const) {
        const rows = (result: Tensor) => sequenceRows(result, from, to).data;
        assert.deepEqual(rows(after.output), rows(before.output));
        assert.deepEqual(after.lse.data.slice(from, to), before.lse.data.slice(from, to));
      }
    }
  });

  it('refuses what means nothing, and says what', async () => {
    const shaped = (...dims: number[]): Tensor => ({
      dims,
      data: new Float32Array(dims.reduce((a, b) => a * b, 1)),
    });
    const good = { query: shaped(1, 2, 9, 4), key: shaped(1, 2, 9, 4), value: shaped(1, 2, 9, 4) };
    const parameters = { scale: null, left: 3, right: 0, offset: null };
    const cases: [RegExp, LocalInputs, LocalParameters][] = [
      [/key \[1,3,9,4\] does not fit query/, { ...good, key: shaped(1, 3, 9, 4) }, parameters],
      [/value \[1,2,8,4\] does not fit key/, { ...good, value: shaped(1, 2, 8, 4) }, parameters],
      [/window_left is -2/, good, { ...parameters, left: -2 }],
      [/causal_offset is 4294967296/, good, { ...parameters, offset: 2 ** 32 }],
    ];
    for (const [message, inputs, changed] of cases) {
      await assert.rejects(runNode(runtime, inputs, changed, BARE), message);
    }
  });
});

/** Sizes, windows and masks drawn by a seed. */
function randomCase(seed: number): { inputs: LocalInputs; parameters: LocalParameters } {
  const random = new SeededRandom(seed);
  const pick = <T>(values: readonly T[]): T => values[random.below(values.length)]!;
  const reach = () => (random.uniform() < 0.15 ? null : random.below(pick([3, 80, 400])));
  const heads = pick([1, 2, 4]);
  const kvHeads = pick([1, heads]);
  const [batch, headDim, valueDim] = [1 + random.below(2), 1 + random.below(70), 1 + random.below(40)];
  const keys = random.below(pick([3, 150, 500]));
  const queries = random.uniform() < 0.5 ? keys : random.below(200);
  const tensor = (count: number, rows: number, width: number): Tensor => ({
    dims: [batch, count, rows, width],
    data: random.normals(batch * count * rows * width),
  });
  const masked = random.uniform() < 0.3;
  return {
    parameters: {
      scale: random.uniform() < 0.5 ? null : random.normal(),
      left: reach(),
      right: reach(),
      offset: random.uniform() < 0.7 ? null : random.below(300) - 100,
    },
    inputs: {
      query: tensor(heads, queries, headDim),
      key: tensor(kvHeads, keys, headDim),
      value: tensor(kvHeads, keys, valueDim),
      ...(masked && {
        keyMask: Uint8Array.from({ length: batch * keys }, () => Number(random.uniform() < 0.7)),
      }),
    },
  };
}
