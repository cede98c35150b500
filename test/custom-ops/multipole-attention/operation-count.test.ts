import assert from 'node:assert/strict';
import { operationCount } from '../../../custom-ops/multipole-attention/operation-count.js';
import {
  defaultParameters,
  type MultipoleParameters,
} from '../../../custom-ops/multipole-attention/parameters.js';

/** Of the power of the length that operations grow as between two lengths. */
function exponent(parameters: MultipoleParameters, from: number, to: number): number {
  const count = (length: number) => operationCount(parameters, parameters.retrieve[0]!, length).multipole!;
  return Math.log(count(to) / count(from)) / Math.log(to / from);
}

describe('operations of MultipoleAttention', () => {
  it('grow hardly faster than the length with a dyadic hierarchy, whatever is retrieved', () => {
    for (const [causal, bound] of [
      [false, 1.15],
      [true, 1.2],
    ] as const) {
      const flat = { ...defaultParameters(causal), retrieve: [16], retrieveError: 0 };
      for (const keyClusters of [4, 16]) {
        const retrieve = [4 * keyClusters];
        const grown = exponent({ ...flat, hierarchy: 'dyadic', keyClusters, retrieve }, 4096, 65536);
        assert.ok(grown < bound, `${grown} with ${keyClusters} clusters`);
      }
      assert.ok(exponent(flat, 4096, 65536) > bound);
    }
  });

  it('are those of exact attention below exact_below and for exact heads', () => {
    const parameters = { ...defaultParameters(false), exactBelow: 1000 };
    for (const [retrieve, length] of [
      [16, 999],
      [-1, 2000],
    ] as const) {
      const { exact, multipole } = operationCount(parameters, retrieve, length);
      assert.equal(multipole, exact);
      assert.equal(exact, 2 * length * length);
    }
  });
});
