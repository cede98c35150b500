import assert from 'node:assert/strict';
import { caseInputs, ELEMENTWISE_CASES } from '../../../custom-ops/elementwise-attention/cases.js';
import { coefficients } from '../../../custom-ops/elementwise-attention/parameters.js';
import {
  type ElementwiseInputs,
  type ElementwiseState,
  elementwiseAttention,
} from '../../../custom-ops/elementwise-attention/reference.js';
import type { Tensor } from '../../../custom-ops/operator.js';
import { SeededRandom } from '../../../custom-ops/seeded-random.js';
import { assertClose } from './comparison.js';

/** The definition, row by row and key by key: means under weights exp(-k^2) P(2 q k), from the largest down. */
function quadratic(
  { query, key, value, keyMask }: ElementwiseInputs,
  order: number,
  causal: boolean,
): Tensor {
  const [batch = 0, rows = 0, channels = 0] = query.dims;
  const keys = key.dims[1]!;
  const factors = coefficients(order);
  const data = new Float32Array(query.data.length);
  for (let b = 0; b < batch; b++) {
    for (let i = 0; i < rows; i++) {
      for (let c = 0; c < channels; c++) {
        const q = query.data[(b * rows + i) * channels + c]!;
        const seen = Array.from({ length: causal ? i + 1 : keys }, (_, j) => j)
          .filter(j => keyMask?.[b * keys + j] !== 0)
          .map(j => ({
            k: key.data[(b * keys + j) * channels + c]!,
            v: value.data[(b * keys + j) * channels + c]!,
          }));
        const logWeights = seen.map(({ k }) => {
          if (order === 0) return -((q - k) ** 2);
          return Math.log(factors.reduce((sum, f, n) => sum + f * (q * k) ** n, 0)) - k * k;
        });
        const top = Math.max(...logWeights);
        const weights = logWeights.map(weight => Math.exp(weight - top));
        const total = weights.reduce((sum, weight) => sum + weight, 0);
        const mean = weights.reduce((sum, weight, n) => sum + weight * seen[n]!.v, 0) / total;
        data[(b * rows + i) * channels + c] = seen.length === 0 ? 0 : mean;
      }
    }
  }
  return { dims: query.dims, data };
}

/** Tokens [from, to) of all operands. */
function part(inputs: ElementwiseInputs, from: number, to: number): ElementwiseInputs {
  const rows = ({ dims, data }: Tensor): Tensor => {
    const [, , channels = 0] = dims;
    return { dims: [1, to - from, channels], data: data.subarray(from * channels, to * channels) };
  };
  return { query: rows(inputs.query), key: rows(inputs.key), value: rows(inputs.value) };
}

function randomInputs(seed: number, rows: number, channels: number, size: number): ElementwiseInputs {
  const random = new SeededRandom(seed);
  const tensor = (factor: number): Tensor => ({
    dims: [1, rows, channels],
    data: random.normals(rows * channels).map(x => x * factor),
  });
  return { query: tensor(size), key: tensor(size), value: tensor(1) };
}

describe('the reference of element-wise attention', () => {
  for (const shared of ELEMENTWISE_CASES.filter(({ past, rows }) => past === null && rows <= 300)) {
    it(`equals its quadratic definition: ${shared.name}`, () => {
      const inputs = caseInputs(shared);
      const { order, causal } = shared.parameters;
      const { output } = elementwiseAttention(inputs, shared.parameters);
      assertClose(output, quadratic(inputs, order, causal), 1e-6, 'output');
    });
  }

  it('comes closer to the exponential as the order grows', () => {
    const inputs = randomInputs(1, 200, 4, 0.5);
    const exact = elementwiseAttention(inputs, { order: 0, causal: false }).output.data;
    const norm = exact.reduce((sum, x) => sum + x * x, 0);
    const errors = [2, 4, 6, 8].map(order => {
      const { data } = elementwiseAttention(inputs, { order, causal: false }).output;
      return data.reduce((sum, x, n) => sum + (x - exact[n]!) ** 2, 0) / norm;
    });
    for (const [n, error] of errors.entries()) assert.ok(n === 0 || error < errors[n - 1]! / 2, `${errors}`);
    assert.ok(errors.at(-1)! < 1e-4);
  });

  it('gives the same token by token, in chunks and at once', () => {
    const inputs = randomInputs(2, 60, 6, 2);
    for (const order of [2, 6]) {
      const parameters = { order, causal: true };
      const whole = elementwiseAttention(inputs, parameters);
      for (const size of [1, 7, 60]) {
        let past: ElementwiseState | null = null;
        const rows: number[] = [];
        for (let start = 0; start < 60; start += size) {
          const chunk = part(inputs, start, Math.min(start + size, 60));
          const { output, present }: ReturnType<typeof elementwiseAttention> = elementwiseAttention(
            past === null ? chunk : { ...chunk, past },
            parameters,
          );
          rows.push(...output.data);
          past = present;
        }
        const joined = { dims: inputs.query.dims, data: Float32Array.from(rows) };
        assertClose(joined, whole.output, 1e-6, `chunks of ${size}`);
        assertClose(past!.state, whole.present!.state, 1e-6, 'state');
      }
    }
  });

  it('is the mean of equal values, whatever the keys', () => {
    const inputs = randomInputs(3, 50, 3, 10);
    const value = { ...inputs.value, data: inputs.value.data.fill(0.75) };
    for (const order of [0, 2, 6]) {
      for (const x of elementwiseAttention({ ...inputs, value }, { order, causal: true }).output.data) {
        assert.ok(Math.abs(x - 0.75) < 1e-6);
      }
    }
  });

  it('refuses odd orders, with the reason, and what it has no form for', () => {
    const inputs = randomInputs(4, 5, 2, 1);
    assert.throws(() => elementwiseAttention(inputs, { order: 3, causal: false }), /odd order is negative/);
    const { present } = elementwiseAttention(inputs, { order: 2, causal: false });
    const continued = { ...inputs, past: present! };
    assert.throws(() => elementwiseAttention(continued, { order: 0, causal: true }), /no finite state/);
    const short = { ...inputs, query: part(inputs, 0, 3).query };
    assert.throws(() => elementwiseAttention(short, { order: 2, causal: true }), /as many/);
  });
});
