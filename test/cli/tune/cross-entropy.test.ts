import assert from 'node:assert/strict';
import { tensorFrom } from '../../../cli/data/tensor.js';
import { crossEntropy, logitsAmong } from '../../../cli/tune/cross-entropy.js';
import type { Metric, Tensors } from '../../../cli/tune/metric.js';
import type { DataWindow } from '../../../cli/tune/tuning-data.js';
import { InputError } from '../../../rewriter/errors.js';

const [TOKENS, CLASSES] = [4, 3];
/** Logits of probabilities that are exact in bits. */
const PROBABILITIES = [
  [1 / 2, 1 / 4, 1 / 4],
  [1 / 4, 1 / 4, 1 / 2],
  [1 / 8, 1 / 8, 3 / 4],
  [1 / 4, 1 / 2, 1 / 4],
];
const OUTPUTS: Tensors = new Map([
  // A constant on a row changes no probability.
  [
    'logits',
    tensorFrom(
      'float32',
      [1, TOKENS, CLASSES],
      PROBABILITIES.flat().map(p => Math.log(p) + 50),
    ),
  ],
]);

function windowOf(
  feeds: Record<string, readonly number[]>,
  extras: Record<string, readonly number[]> = {},
): DataWindow {
  const tensors = (values: Record<string, readonly number[]>) =>
    new Map(
      Object.entries(values).map(([name, ids]) => [name, tensorFrom('int64', [1, ids.length], ids)] as const),
    );
  return { name: 'window', feeds: tensors(feeds), extras: tensors(extras) };
}

describe('cross-entropy', () => {
  const near = (actual: number, expected: number) =>
    assert.ok(Math.abs(actual - expected) < 1e-5, `${actual} is not ${expected}`);

  const bits = async (metric: Metric, window: DataWindow, outputs = OUTPUTS) =>
    (await metric.measure(window, outputs, outputs)).value;

  it('scores every token by the logits before it', async () => {
    const metric = crossEntropy('logits', { kind: 'next-token', ids: 'ids' });
    near(await bits(metric, windowOf({ ids: [2, 0, 2, 1] })), (1 + 1 + 3) / 3);
  });

  it('leaves out tokens that the attention mask hides, and what follows from them', async () => {
    const metric = crossEntropy('logits', { kind: 'next-token', ids: 'ids' });
    const window = windowOf({ ids: [2, 0, 2, 1], attention_mask: [1, 1, 0, 1] });
    near(await bits(metric, window), 1);
  });

  it('scores labels at their own place, or shifted as transformers shifts them', async () => {
    const window = windowOf({ ids: [0, 0, 0, 0] }, { labels: [-100, 2, -100, 0] });
    near(await bits(crossEntropy('logits', { kind: 'labels' }), window), (1 + 2) / 2);
    const shifted = crossEntropy('logits', { kind: 'shifted-labels' });
    near(await bits(shifted, window), (2 + 3) / 2);
  });

  it('never scores the first token of one row by the last of another', async () => {
    const doubled = (values: readonly number[]) => [...values, ...values];
    const outputs: Tensors = new Map([
      [
        'logits',
        tensorFrom('float32', [2, TOKENS, CLASSES], doubled(PROBABILITIES.flat().map(p => Math.log(p)))),
      ],
    ]);
    const ids = tensorFrom('int64', [2, TOKENS], doubled([2, 0, 2, 1]));
    const window: DataWindow = { name: 'window', feeds: new Map([['ids', ids]]), extras: new Map() };
    const metric = crossEntropy('logits', { kind: 'next-token', ids: 'ids' });
    near(await bits(metric, window, outputs), 5 / 3);
  });

  it('diverges from the reference by what is lost when the reference is right', async () => {
    const uniform: Tensors = new Map([
      ['logits', tensorFrom('float32', [1, TOKENS, CLASSES], new Array(TOKENS * CLASSES).fill(7))],
    ]);
    const metric = crossEntropy('logits', { kind: 'labels' });
    const window = windowOf({ ids: [0, 0, 0, 0] }, { labels: [0, -100, 1, -100] });
    const entropy = (row: readonly number[]) => -row.reduce((sum, p) => sum + p * Math.log2(p), 0);
    const { value, divergence } = await metric.measure(window, uniform, OUTPUTS);
    near(value, Math.log2(3));
    near(divergence, Math.log2(3) - (entropy(PROBABILITIES[0]!) + entropy(PROBABILITIES[2]!)) / 2);
    assert.equal((await metric.measure(window, OUTPUTS, OUTPUTS)).divergence, 0);
  });

  it('takes classes that are ruled out for what they are', async () => {
    const metric = crossEntropy('logits', { kind: 'labels' });
    const window = windowOf({ ids: [0] }, { labels: [0] });
    const logits = (...row: number[]): Tensors =>
      new Map([['logits', tensorFrom('float32', [1, 1, 3], row)]]);
    const half = logits(2, 2, Number.NEGATIVE_INFINITY);
    near((await metric.measure(window, logits(2, 2, 2), half)).divergence, Math.log2(3) - 1);
    assert.equal((await metric.measure(window, half, logits(2, 2, 2))).divergence, Number.POSITIVE_INFINITY);
  });

  it('refuses labels that are no class, and windows without any label', async () => {
    const metric = crossEntropy('logits', { kind: 'labels' });
    const measure = (labels: readonly number[]) =>
      metric.measure(windowOf({ ids: [0, 0, 0, 0] }, { labels }), OUTPUTS, OUTPUTS);
    const refused = (pattern: RegExp) => (error: unknown) =>
      error instanceof InputError && pattern.test(error.message);
    await assert.rejects(measure([0, 3, 0, 0]), refused(/label 3 is none of the model's 3 classes/));
    await assert.rejects(measure([-100, -100, -100, -100]), refused(/no label counts/));
  });

  it('finds the logits among the outputs', () => {
    const targets = { type: 'int64', dims: [1, TOKENS] } as const;
    const logits = { type: 'float32', dims: [1, TOKENS, CLASSES] } as const;
    const pooled = { type: 'float32', dims: [1, CLASSES] } as const;
    const find = (...outputs: [string, typeof logits | typeof pooled][]) =>
      logitsAmong(new Map(outputs), targets);
    assert.equal(find(['pooled', pooled], ['scores', logits]), 'scores');
    assert.equal(find(['hidden', logits], ['logits', logits]), 'logits');
    assert.equal(find(['hidden', logits], ['scores', logits]), null);
    assert.equal(find(['pooled', pooled]), null);
  });
});
