import assert from 'node:assert/strict';
import { operationCount } from '../../../custom-ops/multi-level-attention/operation-count.js';
import { blockLength, plainParameters } from '../../../custom-ops/multi-level-attention/parameters.js';

describe('operations of MultiLevelAttention', () => {
  it('number T^2 sum r_l / 2^(l-1) per head for scores, where the blocks of level 2 are halves', () => {
    for (const ranks of [[64], [48, 16], [40, 16, 4, 4], [32, 8, 6, 4, 4, 4, 4, 2], Array(8).fill(8)]) {
      const block = 16;
      const length = block * 2 ** (ranks.length - 1);
      const { scores, values, standard } = operationCount(plainParameters(ranks, block), length, 64);
      const perPair = ranks.reduce((sum: number, rank: number, l: number) => sum + rank / 2 ** l, 0);
      assert.equal(scores, length * length * perPair);
      assert.equal(values, length * length * 64);
      assert.equal(standard, length * length * 128);
    }
  });

  it('are those of the pairs that share each level, whatever the length', () => {
    const parameters = plainParameters([5, 3, 2], 7);
    for (const length of [0, 1, 6, 7, 13, 14, 15, 40, 100]) {
      let expected = 0;
      parameters.ranks.forEach((rank, level) => {
        const block = blockLength(parameters, level);
        for (let i = 0; i < length; i++) {
          for (let j = 0; j < length; j++)
            if (Math.floor(i / block) === Math.floor(j / block)) expected += rank;
        }
      });
      assert.equal(operationCount(parameters, length, 4).scores, expected);
    }
  });

  it('are a quarter of standard attention’s for eight equal levels', () => {
    const { scores, values, standard } = operationCount(plainParameters(Array(8).fill(8), 64), 8192, 64);
    assert.ok(Math.abs(scores / (standard - values) - 0.249) < 1e-4);
  });
});
