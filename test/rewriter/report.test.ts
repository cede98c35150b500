import assert from 'node:assert/strict';
import { renderHtml } from '../../rewriter/report-html.js';
import { renderMarkdown } from '../../rewriter/report-markdown.js';
import { exampleReport, HOSTILE, measured } from './example-report.js';

describe('the HTML report', () => {
  const page = renderHtml(exampleReport(measured(0.00123)));

  it('asks for nothing from elsewhere and runs no script', () => {
    assert.ok(!/https?:|\bsrc=|<link|@import|url\(/.test(page));
    assert.ok(!page.includes('<script'));
  });

  it('escapes what comes from the model and the command line', () => {
    assert.ok(!page.includes(HOSTILE));
    assert.equal(page.split('&lt;/style&gt;&lt;script&gt;').length - 1, 7);
  });

  it('closes every element that it opens', () => {
    const open: string[] = [];
    const body = page.replace(/<style>.*?<\/style>/s, '');
    for (const [, closing, name] of body.matchAll(/<(\/?)([a-z][a-z0-9]*)\b[^>]*(?<!\/)>/g)) {
      if (['meta'].includes(name!)) continue;
      if (closing === '') open.push(name!);
      else assert.equal(open.pop(), name);
    }
    assert.deepEqual(open, []);
  });

  it('shows the verdict, the error, the time and every section', () => {
    for (const text of [
      'Passed',
      '0.00123',
      '3.00x faster',
      '4096 tokens',
      'Near misses',
      'Softmax',
      '+5.00%',
    ]) {
      assert.ok(page.includes(text), text);
    }
    assert.ok(page.includes('3 rows without keys left out'));
    assert.ok(page.includes('4 / 2'), 'grouped heads');
  });

  it('draws bars on a logarithmic axis, with the budget on it', () => {
    const widths = [...page.matchAll(/class="bar isolated" style="width:([\d.]+)%"/g)].map(match =>
      Number(match[1]),
    );
    assert.deepEqual(widths, [51.5]);
    assert.match(page, /class="limit" style="left:71\.7%"/);
  });

  it('gives every table a caption and headers with scopes', () => {
    const tables = page.match(/<table/g)!.length;
    assert.ok(tables >= 7);
    assert.equal(page.match(/<caption>/g)!.length, tables);
    assert.ok(!/<th(?![^>]*scope=)[ >]/.test(page));
  });

  it('says plainly when the rewrite failed', () => {
    const failed = renderHtml(exampleReport(measured(0.5)));
    assert.ok(failed.includes('Failed: over an error budget'));
    assert.ok(failed.includes('over budget'));
    const broken = renderHtml(exampleReport(measured(null, 4)));
    assert.ok(broken.includes('4 not finite'));
    assert.ok(!/NaN|Infinity|undefined/.test(broken));
  });

  it('does without what was not measured', () => {
    const dry = renderHtml(
      exampleReport(measured(0), { validation: null, output: null, timings: [], metrics: [] }),
    );
    assert.ok(dry.includes('Dry run'));
    assert.ok(!dry.includes('Accuracy'));
    assert.ok(!dry.includes('Time and memory'));
  });
});

describe('the Markdown report', () => {
  const text = renderMarkdown(exampleReport(measured(0.00123)));

  it('has rows of as many cells as their headers', () => {
    const lines = text.split('\n').filter(line => line.startsWith('|'));
    assert.ok(lines.length > 10);
    let columns = 0;
    for (const [i, line] of lines.entries()) {
      const cells = line.replaceAll('\\|', '').split('|').length;
      if (lines[i + 1]?.startsWith('| ---')) columns = cells;
      assert.equal(cells, columns, line);
    }
  });

  it('shows the same facts', () => {
    for (const fact of [
      'Passed',
      '**1 of 1**',
      '0.00123',
      '3.00x faster',
      'multipole-attention',
      '4096 tokens',
    ]) {
      assert.ok(text.includes(fact), fact);
    }
    // Names of the model are escaped; code, which needs no escapes, is indented or in backquotes.
    const prose = text.replace(/^ {4}.*$/gm, '').replace(/`[a-z_]+=[^`]*`/g, '');
    assert.ok(!/(?<!\\)[<`]/.test(prose));
  });
});
