import assert from 'node:assert/strict';
import { renderBenchPage } from '../../cli/bench-page.js';
import { exampleBench } from './example-bench.js';

describe('the page of a benchmark', () => {
  const page = renderBenchPage(exampleBench());

  it('asks for nothing from elsewhere and runs no script', () => {
    assert.ok(!/https?:|\bsrc=|<link|@import|url\(|<script/.test(page));
  });

  it('has plots and a table for every setting', () => {
    assert.equal(page.match(/<svg viewBox[^>]*role="img"/g)?.length, 6);
    assert.equal(page.match(/<caption>Each model at each length/g)?.length, 2);
    assert.match(page, /CPU, 1 thread</);
    assert.match(page, /CPU, 2 threads</);
  });

  it('tells the gain where both models run, the crossover, and what failed', () => {
    assert.match(page, /Time at 4096 tokens<\/dt><dd><strong>3\.27x faster/);
    assert.match(page, /Faster from<\/dt><dd><strong>2048 tokens/);
    assert.match(page, /original\.onnx, tokens 8k: out of memory/);
    assert.match(page, /failed<\/span><small>out of memory/);
  });

  it('says how cost grows', () => {
    assert.match(page, /tokens<sup>2\.0\d<\/sup><small>3 lengths, 1024 to 4096/);
    assert.match(page, /tokens<sup>1\.0\d<\/sup><small>4 lengths, 1024 to 8192/);
  });

  it('escapes names of files, and tells models of one name apart', () => {
    const hostile = renderBenchPage(exampleBench('a/<img>/rewritten.onnx'));
    assert.ok(!hostile.includes('<img'));
    assert.match(hostile, /<h1>&lt;img&gt;\/rewritten\.onnx against rewritten\.onnx<\/h1>/);
  });
});
