import assert from 'node:assert/strict';
import type { RewriteReport } from '../../rewriter/report.js';
import { renderHtml } from '../../rewriter/report-html.js';
import { renderMarkdown } from '../../rewriter/report-markdown.js';
import type { Difference } from '../../rewriter/validation.js';

const HOSTILE = '</style><script>alert("1")</script>|`*';

function measured(error: number | null, mismatches = 0): Difference {
  return { relative_squared_error: error, max_abs_error: error, cosine: error, mismatches };
}

/** A report of one site whose name is hostile, with `error` at the site and at the output. */
function report(error: Difference, overrides: Partial<RewriteReport> = {}): RewriteReport {
  const header = {
    file: 'models/encoder.onnx',
    ir_version: 8,
    opsets: { 'ai.onnx': 17 },
    producer: HOSTILE,
    nodes: 12,
    initializers_bytes: 2_500_000,
    external_data: [],
  };
  const passed = error.relative_squared_error !== null && error.relative_squared_error <= 0.02;
  return {
    tool: { name: 'onnx-rewrite', version: '1.2.3' },
    created: '2026-01-02T03:04:05.000Z',
    command: `onnx-rewrite rewrite '${HOSTILE}'`,
    environment: { node: '20', platform: 'linux x64', cpu: 'cpu', cores: 2, memory_bytes: 8e9 },
    input: header,
    output: passed ? header : null,
    operators: {
      before: { Softmax: 1, MatMul: 3 },
      after: { MatMul: 1, 'ai.onnxrewrite.MultipoleAttention': 1 },
    },
    sites: [
      {
        id: HOSTILE,
        scope: null,
        pattern: 'softmax-attention',
        computation: 'softmax',
        parameters: {},
        query_heads: 4,
        kv_heads: 2,
        head_dim: null,
        scale: 0.5,
        causal: true,
        mask: 'causal',
        kind: 'self',
        dtype: 'float32',
        alignment: 'equal',
        empty_row: 'never',
        past: false,
        replaceable: true,
        operators: ['multipole-attention'],
        decision: 'replaced',
        operator: 'multipole-attention',
        attributes: { segment: 256, retrieve: [16, 32] },
        reason: 'approximates softmax attention',
        error: error.relative_squared_error,
      },
    ],
    near_misses: [{ node: 'odd', pattern: 'softmax-attention', reason: 'its scores are used elsewhere' }],
    notices: [],
    validation: {
      original: 'a.onnx',
      rewritten: 'b.onnx',
      inputs: 'text.txt, as bytes',
      budgets: { max_error: 0.02, max_output_error: 0.05 },
      runtime: { name: 'onnxruntime-node', version: '1', execution_provider: 'CPU', custom_operators: null },
      lengths: [
        {
          length: 4096,
          outputs: [{ name: 'logits', ...error }],
          sites: [
            {
              id: HOSTILE,
              isolated: error.relative_squared_error,
              propagated: error.relative_squared_error,
              details: { isolated: error, propagated: error },
              rows_without_keys: 3,
              reach: { mass: [0.5, 0.2, 0.1, 0.1, 0.06, 0.04], effective_keys: 31.4, rows: 64 },
              note: null,
            },
          ],
          passed,
        },
      ],
      passed,
      notes: [],
    },
    timings: [
      {
        length: 8192,
        runs: 3,
        original_ms: 9000,
        rewritten_ms: 3000,
        original_peak_bytes: 2e9,
        rewritten_peak_bytes: 5e8,
      },
    ],
    metrics: [{ name: 'loss', original: 2, rewritten: 2.1 }],
    ...overrides,
  };
}

describe('the HTML report', () => {
  const page = renderHtml(report(measured(0.00123)));

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
    for (const [, closing, name] of body.matchAll(/<(\/?)([a-z][a-z0-9]*)\b[^>]*>/g)) {
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
    const failed = renderHtml(report(measured(0.5)));
    assert.ok(failed.includes('Failed: over an error budget'));
    assert.ok(failed.includes('over budget'));
    const broken = renderHtml(report(measured(null, 4)));
    assert.ok(broken.includes('4 not finite'));
    assert.ok(!/NaN|Infinity|undefined/.test(broken));
  });

  it('does without what was not measured', () => {
    const dry = renderHtml(report(measured(0), { validation: null, output: null, timings: [], metrics: [] }));
    assert.ok(dry.includes('Dry run'));
    assert.ok(!dry.includes('Accuracy'));
    assert.ok(!dry.includes('Time and memory'));
  });
});

describe('the Markdown report', () => {
  const text = renderMarkdown(report(measured(0.00123)));

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
