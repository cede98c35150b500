import type { RewriteReport } from '../../rewriter/report.js';
import type { Difference } from '../../rewriter/validation.js';

/** A name that would break pages and tables that do not escape it. */
export const HOSTILE = '</style><script>alert("1")</script>|`*';

export function measured(error: number | null, mismatches = 0): Difference {
  return { relative_squared_error: error, max_abs_error: error, cosine: error, mismatches };
}

/** A report of one site whose name is hostile, with `error` at the site and at the output. */
export function exampleReport(error: Difference, overrides: Partial<RewriteReport> = {}): RewriteReport {
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
        window: null,
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
      runtime: {
        name: 'onnxruntime-node',
        version: '1',
        execution_provider: 'CPU',
        custom_operators: null,
        without_kernel: [],
      },
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
    costs: [
      { length: 1024, sites: 1, original: 2e9, rewritten: 3e9 },
      { length: 8192, sites: 1, original: 1.28e11, rewritten: 2.4e10 },
    ],
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
