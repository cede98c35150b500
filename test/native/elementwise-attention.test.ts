import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { caseInputs, ELEMENTWISE_CASES } from '../../custom-ops/elementwise-attention/cases.js';
import type { ElementwiseParameters } from '../../custom-ops/elementwise-attention/parameters.js';
import {
  type ElementwiseInputs,
  type ElementwiseResult,
  type ElementwiseState,
  elementwiseAttention,
} from '../../custom-ops/elementwise-attention/reference.js';
import type { Tensor } from '../../custom-ops/operator.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { HALF, SINGLE } from '../comparison.js';
import { assertClose, assertMatches } from '../custom-ops/elementwise-attention/comparison.js';
import { runKernel } from './elementwise-kernel.js';
import { nativeBuild } from './native-build.js';

const RANDOM_CASES = 150;

/** Ragged shapes and any attributes, by seed. */
function randomCase(seed: number): { inputs: ElementwiseInputs; parameters: ElementwiseParameters } {
  const random = new SeededRandom(seed);
  const oneOf = <T>(values: readonly T[]): T => values[random.below(values.length)]!;
  const order = oneOf([0, 2, 2, 4, 6, 6, 8]);
  const causal = random.uniform() < 0.5;
  const [batch, channels] = [oneOf([1, 1, 2, 3]), oneOf([1, 5, 16, 17, 48, 64, 65, 130])];
  const keys = random.below(oneOf([3, 40, 300, 1200]));
  const rows = causal ? keys : oneOf([keys, random.below(60)]);
  const size = oneOf([0.3, 1, 4, 12]);
  const tensor = (length: number, factor: number): Tensor => ({
    dims: [batch, length, channels],
    data: random.normals(batch * length * channels).map(x => x * factor),
  });
  const mask = random.uniform() < 0.4;
  const earlier = { query: tensor(0, 1), key: tensor(9, size), value: tensor(9, 1) };
  const past =
    order > 0 && random.uniform() < 0.4
      ? elementwiseAttention(earlier, { order, causal: false }).present
      : null;
  return {
    inputs: {
      query: tensor(rows, Math.min(size, 4)),
      key: tensor(keys, size),
      value: tensor(keys, 1),
      ...(mask && {
        keyMask: Uint8Array.from({ length: batch * keys }, () => Number(random.uniform() < 0.7)),
      }),
      ...(past && { past }),
    },
    parameters: { order, causal },
  };
}

function selfAttention(seed: number, rows: number, channels: number): ElementwiseInputs {
  const random = new SeededRandom(seed);
  const tensor = (): Tensor => ({ dims: [1, rows, channels], data: random.normals(rows * channels) });
  return { query: tensor(), key: tensor(), value: tensor() };
}

/** Tokens [from, to) of one batch row. */
function part({ query, key, value }: ElementwiseInputs, from: number, to: number): ElementwiseInputs {
  const rows = ({ dims, data }: Tensor): Tensor => ({
    dims: [1, to - from, dims[2]!],
    data: data.slice(from * dims[2]!, to * dims[2]!),
  });
  return { query: rows(query), key: rows(key), value: rows(value) };
}

describe('ElementwiseAttention on the CPU', () => {
  before(function () {
    this.timeout(600_000);
    nativeBuild(this);
  });

  describe('equals the reference', () => {
    for (const shared of ELEMENTWISE_CASES) {
      it(shared.name, async () => {
        const { parameters, float16 } = shared;
        const inputs = caseInputs(shared);
        const actual = await runKernel(inputs, parameters, { threads: 2, float16 });
        assertMatches(actual, inputs, parameters, float16 ? HALF : SINGLE);
      });
    }

    it(`in ${RANDOM_CASES} random cases`, async () => {
      for (let seed = 0; seed < RANDOM_CASES; seed++) {
        const { inputs, parameters } = randomCase(seed);
        try {
          assertMatches(await runKernel(inputs, parameters, { threads: 2 }), inputs, parameters, SINGLE);
        } catch (error) {
          const shapes = JSON.stringify([inputs.query.dims, inputs.key.dims, parameters]);
          throw new Error(`seed ${seed}, ${shapes}: ${(error as Error).message}`, { cause: error });
        }
      }
    });

    for (const simd of ['avx2', 'baseline']) {
      it(`with ${simd} instructions`, () => {
        const program = fileURLToPath(new URL('check-elementwise-cases.js', import.meta.url));
        const run = spawnSync(process.execPath, [program], {
          encoding: 'utf8',
          env: { ...process.env, ONNX_REWRITE_SIMD: simd },
        });
        assert.equal(run.status, 0, run.stdout + run.stderr);
      });
    }
  });

  it('gives the same bits for any number of threads', async () => {
    for (const causal of [false, true]) {
      const inputs = selfAttention(5, 3000, 70);
      const one = await runKernel(inputs, { order: 4, causal }, { threads: 1 });
      const three = await runKernel(inputs, { order: 4, causal }, { threads: 3 });
      assert.deepEqual(three, one);
    }
  });

  it('lets no later token change an output, bit for bit', async () => {
    const inputs = selfAttention(6, 2000, 20);
    const changed = ({ dims, data }: Tensor): Tensor => ({
      dims,
      data: data.map((x, at) => (at < 1000 * 20 ? x : 7 - 3 * x)),
    });
    const other = { query: inputs.query, key: changed(inputs.key), value: changed(inputs.value) };
    for (const order of [0, 2, 6]) {
      const [before, after] = await Promise.all(
        [inputs, other].map(given => runKernel(given, { order, causal: true }, { threads: 2 })),
      );
      const earlier = ({ output }: ElementwiseResult) => output.data.subarray(0, 1000 * 20);
      assert.deepEqual(earlier(after!), earlier(before!));
      assert.notDeepEqual(after!.output.data, before!.output.data);
    }
  });

  it('keeps what hidden tokens hold out of every row, numbers or not', async () => {
    const inputs = selfAttention(10, 500, 20);
    const keyMask = Uint8Array.from({ length: 500 }, (_, n) => Number(n % 3 !== 1));
    const spoiled = ({ dims, data }: Tensor, filler: number): Tensor => ({
      dims,
      data: data.map((x, at) => (keyMask[Math.floor(at / 20)] === 0 ? filler : x)),
    });
    const [key, value] = [spoiled(inputs.key, Number.NaN), spoiled(inputs.value, Number.POSITIVE_INFINITY)];
    for (const order of [0, 4]) {
      for (const causal of [false, true]) {
        const before = await runKernel({ ...inputs, keyMask }, { order, causal }, { threads: 2 });
        const after = await runKernel({ ...inputs, key, value, keyMask }, { order, causal }, { threads: 2 });
        assert.deepEqual(after, before);
      }
    }
  });

  it('decodes token by token and in chunks what it computes at once', async () => {
    const inputs = selfAttention(7, 96, 24);
    const parameters = { order: 6, causal: true };
    const whole = elementwiseAttention(inputs, parameters);
    for (const size of [1, 40]) {
      let past: ElementwiseState | null = null;
      const rows: number[] = [];
      for (let start = 0; start < 96; start += size) {
        const chunk = part(inputs, start, Math.min(start + size, 96));
        const { output, present }: ElementwiseResult = await runKernel(
          past === null ? chunk : { ...chunk, past },
          parameters,
        );
        assert.deepEqual(present!.state.dims, [1, 2, 7, 24]);
        rows.push(...output.data);
        past = present;
      }
      assertClose({ dims: [1, 96, 24], data: Float32Array.from(rows) }, whole.output, SINGLE, 'output');
    }
  });

  it('stays exact at 65536 tokens with keys up to 30', async () => {
    const length = 65536;
    const random = new SeededRandom(8);
    const tensor = (draw: () => number): Tensor => ({
      dims: [1, length, 2],
      data: Float32Array.from({ length: length * 2 }, draw),
    });
    const wide = () => 60 * random.uniform() - 30;
    const inputs = { query: tensor(wide), key: tensor(wide), value: tensor(() => random.normal()) };
    for (const [order, causal] of [
      [2, true],
      [6, true],
      [2, false],
      [6, false],
    ] as const) {
      const actual = await runKernel(inputs, { order, causal }, { threads: 2 });
      assertMatches(actual, inputs, { order, causal }, SINGLE);
    }
  });

  it('refuses shapes that do not fit, naming them', async () => {
    const inputs = selfAttention(9, 6, 3);
    const { present } = elementwiseAttention(inputs, { order: 2, causal: false });
    const refused = (given: ElementwiseInputs, order: number, causal: boolean) =>
      runKernel(given, { order, causal });
    await assert.rejects(refused({ ...inputs, query: part(inputs, 0, 4).query }, 2, true), /as many queries/);
    await assert.rejects(refused({ ...inputs, past: present! }, 4, true), /past_state has shape \[1,2,3,3\]/);
    await assert.rejects(
      refused({ ...inputs, value: part(inputs, 0, 4).value }, 2, false),
      /does not fit key/,
    );
  });
});
