import assert from 'node:assert/strict';
import { multiLevelTuningSpace } from '../../../custom-ops/multi-level-attention/tuning-space.js';
import { multipoleTuningSpace } from '../../../custom-ops/multipole-attention/tuning-space.js';
import type { AttentionSite } from '../../../rewriter/site.js';
import { tunableSite } from '../../cli/tune/tunable-site.js';

const { operator, candidates, neighbors, operations } = multiLevelTuningSpace;

function siteOf(headDim: number, causal = false): AttentionSite {
  return { ...tunableSite('one', 4, causal).site, headDim };
}

describe('tuning space of multi-level attention', () => {
  for (const headDim of [8, 20, 64, 128]) {
    it(`has settings for heads of ${headDim} that the operator takes, and goes on from each of them`, () => {
      const site = siteOf(headDim);
      const settings = candidates(site);
      assert.ok(settings.length >= 4);
      for (const one of settings) {
        operator.resolve(site, one);
        const next = neighbors(site, one);
        assert.ok(next.length >= 2);
        for (const step of next) {
          operator.resolve(site, step);
          assert.notDeepEqual(step, one);
        }
      }
    });
  }

  it('counts exact attention as the other operators do, and less of it the fewer dimensions are global', () => {
    for (const causal of [false, true]) {
      const site = siteOf(64, causal);
      const count = (leading: number) =>
        operations(operator.resolve(site, { ranks: [leading, 64 - leading], block: 512 }), 4, 8192);
      const { operator: other, exact: settings } = multipoleTuningSpace;
      const { exact } = multipoleTuningSpace.operations(other.resolve(site, settings!), 4, 8192);
      assert.equal(count(32).exact, exact);
      assert.ok(count(8).chosen! < count(16).chosen! && count(16).chosen! < count(48).chosen!);
      assert.ok(count(48).chosen! < exact);
      assert.ok(count(8).chosen! > exact / 2, 'products with values are all there');
    }
  });
});
