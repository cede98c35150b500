import assert from 'node:assert/strict';
import { attentionCosts } from '../../cli/attention-cost.js';
import { multipoleAttention } from '../../custom-ops/multipole-attention/operator.js';
import { findSites } from '../../rewriter/find-sites.js';
import { ModelGraph } from '../../rewriter/graph/model-graph.js';
import { MemorySource } from '../../rewriter/onnx/byte-source.js';
import { decodeModel } from '../../rewriter/onnx/decode.js';
import { decideUniformly, type Settings } from '../../rewriter/plan.js';
import { tinyTransformer } from './tiny-transformer.js';

describe('cost of attention', () => {
  const [heads, headDim] = [4, 8];
  const { sites } = findSites(
    new ModelGraph(decodeModel(new MemorySource(tinyTransformer({ layers: 3 }).model))),
  );
  const costs = (selects: (id: string) => boolean, settings = {}, minLength: number | null = null) =>
    attentionCosts(decideUniformly(sites, { operator: multipoleAttention, settings, selects }, minLength));

  it('counts both products of every head of the replaced sites', () => {
    for (const [selects, count] of [
      [() => true, 3],
      [(id: string) => id.includes('1'), 1],
    ] as const) {
      for (const { length, sites, original } of costs(selects)) {
        assert.equal(sites, count);
        assert.equal(original, count * heads * headDim * 2 * length ** 2);
      }
    }
  });

  it('is that of exact attention where it stays exact, and less at long lengths', () => {
    const all = costs(() => true, {}, 4096);
    assert.deepEqual(
      all.map(({ length, original, rewritten }) => [length, rewritten === original, rewritten < original]),
      [
        [512, true, false],
        [1024, true, false],
        [2048, true, false],
        [4096, false, true],
        [8192, false, true],
      ],
    );
    assert.ok(all.at(-1)!.original / all.at(-1)!.rewritten > 2);
  });

  it('is the most that data may ask for', () => {
    const rewritten = (settings: Settings) => costs(() => true, settings).at(-1)!.rewritten;
    assert.equal(rewritten({ retrieve: 8 }), rewritten({ retrieve: 8, retrieve_error: 0 }));
    assert.ok(rewritten({ retrieve: 8 }) < rewritten({}));
    assert.ok(rewritten({}) < rewritten({ retrieve_mass: 0.1 }));
  });

  it('is not told where nothing is replaced', () => {
    assert.deepEqual(
      costs(() => false),
      [],
    );
  });
});
