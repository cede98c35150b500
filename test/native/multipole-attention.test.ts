import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { caseInputs, MULTIPOLE_CASES } from '../../custom-ops/multipole-attention/cases.js';
import {
  defaultParameters,
  type MultipoleParameters,
} from '../../custom-ops/multipole-attention/parameters.js';
import { type MultipoleInputs, multipoleAttention } from '../../custom-ops/multipole-attention/reference.js';
import type { Tensor } from '../../custom-ops/operator.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { assertClose, relativeError, SINGLE } from '../comparison.js';
import { compareWithReference } from './compare.js';
import { nativeBuild } from './native-build.js';
import { randomCase } from './random-case.js';
import { runKernel } from './traced-attention.js';

const RANDOM_CASES = 500;
const SMALL = { segment: 32, keyClusters: 4, queryClusters: 8, retrieveError: 0, group: 8 } as const;

function parameters(causal: boolean, changes: Partial<MultipoleParameters> = {}): MultipoleParameters {
  return { ...defaultParameters(causal), ...SMALL, retrieve: [4], ...changes };
}

/** One batch row, `heads` heads, self-attention. */
function randomInputs(seed: number, heads: number, length: number, size: number): MultipoleInputs {
  const random = new SeededRandom(seed);
  const tensor = (): Tensor => ({
    dims: [1, heads, length, size],
    data: random.normals(heads * length * size),
  });
  return { query: tensor(), key: tensor(), value: tensor() };
}

/** Rows [from, to) of axis 2. */
function rows({ dims, data }: Tensor, from: number, to: number): Tensor {
  const [batch = 0, heads = 0, length = 0, size = 1] = dims;
  const result = new Float32Array(batch * heads * (to - from) * size);
  for (let head = 0; head < batch * heads; head++) {
    const start = head * length * size;
    result.set(data.subarray(start + from * size, start + to * size), head * (to - from) * size);
  }
  return { dims: [batch, heads, to - from, size], data: result };
}

/** A copy with some elements replaced. */
function changed({ dims, data }: Tensor, at: (element: number) => boolean, value: number): Tensor {
  return { dims, data: data.map((x, n) => (at(n) ? value : x)) };
}

function filled(dims: readonly number[], value: number): Tensor {
  return { dims, data: new Float32Array(dims.reduce((size, dim) => size * dim, 1)).fill(value) };
}

describe('MultipoleAttention on the CPU', () => {
  before(function () {
    this.timeout(600_000);
    nativeBuild(this);
  });

  describe('equals the reference under equal choices', () => {
    for (const shared of MULTIPOLE_CASES) {
      it(shared.name, () =>
        compareWithReference(caseInputs(shared), shared.parameters, { threads: 2, float16: shared.float16 }),
      );
    }

    it(`on ${RANDOM_CASES} random ragged cases`, async () => {
      for (let seed = 0; seed < RANDOM_CASES; seed++) {
        const { inputs, parameters: drawn, what } = randomCase(seed);
        await compareWithReference(inputs, drawn, { threads: 1 + (seed % 2) }).catch(error => {
          throw new Error(`${what}: ${(error as Error).message}`);
        });
      }
    });

    for (const simd of ['avx2', 'baseline']) {
      it(`with ${simd} vectors`, function () {
        this.timeout(300_000);
        const script = fileURLToPath(new URL('check-cases.js', import.meta.url));
        const run = spawnSync(process.execPath, [script], {
          encoding: 'utf8',
          env: { ...process.env, ONNX_REWRITE_SIMD: simd },
        });
        assert.equal(run.status, 0, run.stdout + run.stderr);
      });
    }
  });

  it('takes the choices that it is given', async () => {
    for (const shared of MULTIPOLE_CASES.filter(({ float16, large }) => !float16 && !large)) {
      const inputs = caseInputs(shared);
      const expected = multipoleAttention(inputs, shared.parameters);
      const actual = await runKernel(inputs, shared.parameters, { given: expected.choices });
      assertClose(actual.output.data, expected.output.data, SINGLE, shared.name);
    }
  });

  it('makes the choices of the reference where clusters are well separated', async () => {
    for (const shared of MULTIPOLE_CASES.filter(({ data, float16 }) => data === 'clustered' && !float16)) {
      const inputs = caseInputs(shared);
      const expected = multipoleAttention(inputs, shared.parameters);
      const actual = await runKernel(inputs, shared.parameters);
      assertClose(actual.output.data, expected.output.data, SINGLE, shared.name);
    }
  });

  it('is as near to exact attention as the reference', async () => {
    for (const causal of [false, true]) {
      const inputs = randomInputs(7, 2, 700, 16);
      const chosen = parameters(causal, { window: 0, retrieve: [2] });
      const exact = multipoleAttention(inputs, { ...chosen, retrieve: [-1] }).output.data;
      const ours = relativeError((await runKernel(inputs, chosen)).output.data, exact);
      const reference = relativeError(multipoleAttention(inputs, chosen).output.data, exact);
      assert.ok(ours <= 1.05 * reference, `${ours} against ${reference}`);
    }
  });

  it('gives the same bits run after run and for any number of threads', async () => {
    for (const causal of [false, true]) {
      const inputs = randomInputs(3, 3, 1500, 24);
      const chosen = parameters(causal);
      const first = await runKernel(inputs, chosen, { threads: 1, plain: true });
      for (const threads of [1, 2, 4]) {
        const again = await runKernel(inputs, chosen, { threads, plain: true });
        assert.deepEqual(again.output.data, first.output.data);
        assert.deepEqual(again.lse.data, first.lse.data);
      }
    }
  });

  describe('when causal', () => {
    const length = 700;
    const inputs = randomInputs(11, 2, length, 16);

    for (const [name, changes] of [
      ['flat', {}],
      ['without retrieval', { retrieve: [0] }],
      ['dyadic', { hierarchy: 'dyadic', segment: 16 }],
      ['by mass', { retrieveMass: 0.1 }],
      ['by error', { retrieve: [20], retrieveError: 0.02 }],
      ['exact', { retrieve: [-1] }],
      ['with a window', { window: 1, group: 50 }],
    ] as const) {
      it(`leaves rows as they are, bit for bit, whatever follows: ${name}`, async () => {
        const chosen = parameters(true, changes);
        const before = await runKernel(inputs, chosen, { plain: true });
        for (const [kept, value] of [
          [1, 3],
          [64, -2],
          [333, Number.NaN],
          [450, Number.POSITIVE_INFINITY],
          [699, 1e30],
        ] as const) {
          const later = (n: number) => Math.floor(n / 16) % length >= kept;
          const after = await runKernel(
            {
              query: changed(inputs.query, later, value),
              key: changed(inputs.key, later, value),
              value: changed(inputs.value, later, value),
            },
            chosen,
            { plain: true },
          );
          assert.deepEqual(rows(after.output, 0, kept).data, rows(before.output, 0, kept).data);
        }
      });
    }

    it('computes chunks like the whole', async () => {
      const chosen = parameters(true);
      const whole = await runKernel(inputs, chosen);
      for (const [from, to] of [
        [0, 100],
        [100, 391],
        [391, 700],
      ] as const) {
        const chunk = await runKernel(
          {
            query: rows(inputs.query, from, to),
            pastQuery: rows(inputs.query, 0, from),
            key: rows(inputs.key, 0, to),
            value: rows(inputs.value, 0, to),
          },
          chosen,
          { plain: true },
        );
        assertClose(chunk.output.data, rows(whole.output, from, to).data, SINGLE, `rows ${from} to ${to}`);
      }
    });
  });

  it('keeps what hidden keys hold out of everything', async () => {
    const inputs = randomInputs(5, 2, 300, 16);
    const keyMask = Uint8Array.from({ length: 300 }, (_, n) => Number(n % 3 > 0));
    const hidden = (n: number) => Math.floor(n / 16) % 3 === 0;
    for (const causal of [false, true]) {
      const chosen = parameters(causal);
      const clean = await runKernel({ ...inputs, keyMask }, chosen, { plain: true });
      for (const value of [Number.NaN, Number.POSITIVE_INFINITY]) {
        const dirty = {
          query: inputs.query,
          key: changed(inputs.key, hidden, value),
          value: changed(inputs.value, hidden, value),
          keyMask,
        };
        assert.deepEqual((await runKernel(dirty, chosen, { plain: true })).output.data, clean.output.data);
      }
    }
  });

  it('survives infinities and NaN anywhere', async () => {
    const random = new SeededRandom(99);
    const special = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 3e38, -3e38, 1e-42];
    for (let round = 0; round < 60; round++) {
      const { inputs, parameters: chosen } = randomCase(1000 + round);
      const spoil = (tensor: Tensor): Tensor => {
        const value = special[random.below(special.length)]!;
        const every = 1 + random.below(50);
        return changed(tensor, n => n % every === 0, value);
      };
      const result = await runKernel(
        { ...inputs, query: spoil(inputs.query), key: spoil(inputs.key), value: spoil(inputs.value) },
        chosen,
        { plain: true, threads: 2 },
      );
      assert.equal(result.output.data.length, result.lse.data.length * inputs.value.dims[3]!);
    }
  });

  it('takes dimensions of zero', async () => {
    for (const causal of [false, true]) {
      for (const [batch, heads, length, headDim, valueDim] of [
        [0, 2, 10, 8, 8],
        [1, 0, 10, 8, 8],
        [1, 2, 0, 8, 8],
        [1, 2, 300, 0, 8],
        [1, 2, 300, 8, 0],
      ] as const) {
        const query = filled([batch, heads, length, headDim], 0.5);
        const value = filled([batch, heads, length, valueDim], 2);
        const { output } = await runKernel({ query, key: query, value }, parameters(causal), { plain: true });
        // All logits are equal, so every row is the mean of equal values.
        assert.deepEqual(output.dims, value.dims);
        assertClose(output.data, value.data, SINGLE, `${query.dims}`);
      }
    }
  });

  it('refuses shapes that do not fit, and says which', async () => {
    const good = randomInputs(1, 2, 10, 8);
    const shaped = (dims: number[]) => filled(dims, 0);
    const chosen = parameters(false);
    const cases: [string, MultipoleInputs, Partial<MultipoleParameters>][] = [
      ['4 dimensions', { ...good, query: shaped([2, 10, 8]) }, {}],
      ['key \\[1,2,10,4\\] does not fit query', { ...good, key: shaped([1, 2, 10, 4]) }, {}],
      ['key \\[1,3,10,8\\] does not fit query', { ...good, key: shaped([1, 3, 10, 8]) }, {}],
      ['key \\[2,2,10,8\\] does not fit query', { ...good, key: shaped([2, 2, 10, 8]) }, {}],
      ['value \\[1,2,9,8\\] does not fit key', { ...good, value: shaped([1, 2, 9, 8]) }, {}],
      ['past_query \\[1,2,3,4\\] does not fit', { ...good, pastQuery: shaped([1, 2, 3, 4]) }, {}],
      ['retrieve has 3 numbers for 2 heads', good, { retrieve: [1, 2, 3] }],
    ];
    for (const [message, inputs, changes] of cases) {
      await assert.rejects(
        runKernel(inputs, { ...chosen, ...changes }, { plain: true }),
        new RegExp(message),
        message,
      );
    }
  });

  it('refuses attributes that mean nothing', async () => {
    const inputs = randomInputs(1, 2, 10, 8);
    for (const [message, changes] of [
      ['key_clusters is 0', { keyClusters: 0 }],
      ['segment is 0', { causal: true, segment: 0 }],
      ['unknown selection', { selection: 'best' as 'tile' }],
      ['contracted needs', { contracted: true }],
    ] as const) {
      await assert.rejects(
        runKernel(inputs, { ...parameters(false), ...changes }, { plain: true }),
        new RegExp(message),
        message,
      );
    }
  });
});
