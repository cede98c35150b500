import assert from 'node:assert/strict';
import {
  type BilinearCase,
  caseInputs,
  levelParameters,
  trainParameters,
} from '../../../custom-ops/bilinear-attention/cases.js';
import type { BilinearParameters } from '../../../custom-ops/bilinear-attention/parameters.js';
import {
  type BilinearInputs,
  bilinearAttention,
  scoresOf,
} from '../../../custom-ops/bilinear-attention/reference.js';
import { SINGLE } from '../../comparison.js';

function inputsOf(parameters: BilinearParameters, changes: Partial<BilinearCase> = {}): BilinearInputs {
  const shape = { batch: 2, length: 9, valueDim: 4, keyMask: 'none', gains: false, float16: false } as const;
  return caseInputs({ name: 'reference', parameters, ...shape, ...changes });
}

/** The entry of a Block Tensor Train by the formula of the specification, head by head. */
function entry(
  { train }: BilinearInputs,
  { heads, features, inputPieces, outputPieces, ranks }: BilinearParameters,
  head: number,
  row: number,
  column: number,
): number {
  const [p, q, s] = [inputPieces[0]!, outputPieces[0]!, ranks[0]!];
  const [d, a] = [features / p, features / q];
  const [alpha, beta] = [Math.floor(row / q), row % q];
  const [gamma, delta] = [Math.floor(column / d), column % d];
  let sum = 0;
  for (let sigma = 0; sigma < s; sigma++) {
    const left = ((head * q + beta) * p * s + gamma * s + sigma) * a + alpha;
    const right = (gamma * d + delta) * heads * q * s + (head * q + beta) * s + sigma;
    sum += train!.left.data[left]! * train!.right.data[right]!;
  }
  return sum;
}

describe('BilinearAttention reference', () => {
  it('scores tokens by the dense matrix of each head, entry by entry', () => {
    const parameters = trainParameters(2, 12, [3, 4, 2], { normalisation: 'none' });
    const inputs = inputsOf(parameters);
    const scores = scoresOf(inputs, parameters);
    const token = (b: number, n: number) => inputs.x.data.subarray((b * 9 + n) * 12, (b * 9 + n + 1) * 12);
    for (const [b, head, i, j] of [
      [0, 0, 0, 0],
      [1, 0, 3, 8],
      [0, 1, 8, 2],
      [1, 1, 5, 5],
    ] as const) {
      let expected = 0;
      for (let row = 0; row < 12; row++) {
        for (let column = 0; column < 12; column++) {
          expected += token(b, i)[row]! * entry(inputs, parameters, head, row, column) * token(b, j)[column]!;
        }
      }
      const [actual] = scores(b, head, i, j);
      assert.ok(Math.abs(actual! - expected) <= 1e-9, `${actual}, not ${expected}`);
    }
  });

  it('is low-rank attention where there is one level of one piece', () => {
    const parameters = levelParameters(2, 8, [3], { normalisation: 'none', levelScale: [0.7] });
    const inputs = inputsOf(parameters);
    const output = bilinearAttention(inputs, parameters);
    const { query, key } = inputs.levels![0]!;
    const [b, head, i] = [1, 1, 4];
    const image = (weight: Float32Array, n: number) =>
      Array.from({ length: 3 }, (_, r) => {
        let sum = 0;
        for (let c = 0; c < 8; c++) {
          sum += inputs.x.data[(b * 9 + n) * 8 + c]! * weight[c * 6 + head * 3 + r]!;
        }
        return sum;
      });
    const q = image(query.data, i);
    const weights = Array.from({ length: 9 }, (_, j) => {
      const k = image(key.data, j);
      return Math.exp(0.7 * q.reduce((sum, element, r) => sum + element * k[r]!, 0));
    });
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    for (let e = 0; e < 4; e++) {
      const value = (j: number) => inputs.value.data[((b * 2 + head) * 9 + j) * 4 + e]!;
      const expected = weights.reduce((sum, weight, j) => sum + weight * value(j), 0) / total;
      const actual = output.data[((b * 2 + head) * 9 + i) * 4 + e]!;
      assert.ok(Math.abs(actual - expected) <= SINGLE, `${actual}, not ${expected}`);
    }
  });

  for (const parameters of [trainParameters(2, 12, [3, 4, 1]), levelParameters(2, 12, [3, 2])]) {
    it(`gives the mean of the values where all tokens are equal: ${parameters.kind}`, () => {
      const inputs = inputsOf(parameters);
      const x = { ...inputs.x, data: inputs.x.data.map((_, n) => inputs.x.data[n % 12]!) };
      const output = bilinearAttention({ ...inputs, x }, parameters);
      for (let part = 0; part < 4; part++) {
        for (let e = 0; e < 4; e++) {
          let mean = 0;
          for (let j = 0; j < 9; j++) mean += inputs.value.data[(part * 9 + j) * 4 + e]! / 9;
          assert.ok(Math.abs(output.data[part * 36 + e]! - mean) <= SINGLE);
        }
      }
    });

    it(`does not change by what comes later, nor by what is hidden: ${parameters.kind}`, () => {
      const causal = { ...parameters, causal: true };
      const inputs = inputsOf(causal, { keyMask: 'random' });
      const changed = { ...inputs, value: { ...inputs.value, data: inputs.value.data.slice() } };
      const rows = 5;
      for (let n = 0; n < 2 * 2 * 9; n++) {
        const [b, j] = [Math.floor(n / 18), n % 9];
        const hidden = inputs.keyMask![b * 9 + j] === 0;
        if (j >= rows || hidden) changed.value.data.fill(100, n * 4, n * 4 + 4);
      }
      const [before, after] = [inputs, changed].map(given => bilinearAttention(given, causal).data);
      for (let n = 0; n < before!.length; n++) {
        if (Math.floor(n / 4) % 9 < rows) assert.equal(after![n], before![n]);
      }
    });
  }
});
