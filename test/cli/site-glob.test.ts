import assert from 'node:assert/strict';
import { siteGlob } from '../../cli/site-glob.js';

describe('--sites', () => {
  for (const [pattern, selected, left] of [
    ['*', ['a', 'blocks.0.attn', '/x/y#2', ''], []],
    ['blocks.?.attn', ['blocks.3.attn'], ['blocks.12.attn', 'blocksx3.attn']],
    ['blocks.[0-2].*', ['blocks.0.attn', 'blocks.2.cross'], ['blocks.3.attn']],
    ['blocks.[!0-2].*', ['blocks.3.attn'], ['blocks.0.attn']],
    ['a,*.b', ['a', 'x.b'], ['ab', 'a,x.b.c']],
    ['a+(b)|c$', ['a+(b)|c$'], ['ab', 'c']],
    ['/m/layer.0/MatMul_1', ['/m/layer.0/MatMul_1'], ['/m/layer.0/MatMul_11', '/m/layerx0/MatMul_1']],
  ] as const) {
    it(`takes ${pattern}`, () => {
      const selects = siteGlob(pattern);
      for (const id of selected) assert.ok(selects(id), id);
      for (const id of left) assert.ok(!selects(id), id);
    });
  }

  it('refuses a class that ends before it begins', () => {
    assert.throws(() => siteGlob('[9-0]'), /is not a pattern/);
  });
});
