import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { OPERATORS } from '../../custom-ops/index.js';
import { ModelGraph } from '../../rewriter/graph/model-graph.js';
import { inspect } from '../../rewriter/inspection.js';
import { openModelFile } from '../../rewriter/onnx/model-file.js';

describe('trained byte-level models', () => {
  for (const { name, mask, causal } of [
    { name: 'encoder', mask: 'none', causal: false },
    { name: 'causal', mask: 'causal', causal: true },
  ] as const) {
    it(`${name}: six replaceable sites`, () => {
      const file = fileURLToPath(new URL(`../../../models/byte-lm/${name}.onnx`, import.meta.url));
      const opened = openModelFile(file);
      const { sites, near_misses } = inspect(new ModelGraph(opened.model), OPERATORS);
      opened.close();
      assert.deepEqual(near_misses, []);
      assert.deepEqual(
        sites.map(({ id }) => id),
        Array.from({ length: 6 }, (_, layer) => `blocks.${layer}.attn`),
      );
      for (const site of sites) {
        assert.deepEqual([site.query_heads, site.kv_heads, site.head_dim, site.scale], [4, 4, 64, 0.125]);
        assert.deepEqual([site.mask, site.causal, site.replaceable], [mask, causal, true]);
      }
    });
  }
});
