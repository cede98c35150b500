import { InputError } from '../../rewriter/errors.js';
import { crossEntropy, logitsAmong, type TensorShape } from './cross-entropy.js';
import type { Metric } from './metric.js';
import { loadMetricModule } from './metric-module.js';
import { outputError } from './output-error.js';
import { type DataWindow, LABELS } from './tuning-data.js';

export interface MetricRequest {
  /** A user's own metric. */
  readonly module: string | null;
  /** What the budget limits. */
  readonly kind: Metric['kind'];
  /** Whether the model's attention is causal. */
  readonly causal: boolean;
  /** The input of ids; null where there is none, or more than one. */
  readonly ids: string | null;
}

/**
 * The model's own metric: the user's module; else, for a budget of loss, the cross-entropy of the labels that
 * the data has or, for a causal model of ids, of the next token; for a budget of error, the error of the outputs.
 * @param outputs types and shapes of what the original makes of `window`
 * @throws InputError when a loss is asked for and none is known
 */
export async function chooseMetric(
  { module, kind, causal, ids }: MetricRequest,
  window: DataWindow,
  outputs: ReadonlyMap<string, TensorShape>,
): Promise<Metric> {
  if (module !== null) return checked(await loadMetricModule(module, [...outputs.keys()]));
  if (kind === 'error') return checked(outputError([...outputs.keys()]));
  const labels = window.extras.get(LABELS);
  if (labels !== undefined) {
    const logits = logitsAmong(outputs, labels);
    if (logits === null) {
      throw new InputError(
        `the data has labels [${labels.dims.join(', ')}], and no single output has logits for them`,
        { remedy: 'Bring a metric of your own with --metric, or limit the output error with --max-error.' },
      );
    }
    return checked(
      crossEntropy(logits, { kind: causal && labels.dims.length > 1 ? 'shifted-labels' : 'labels' }),
    );
  }
  const logits = ids === null ? null : logitsAmong(outputs, window.feeds.get(ids)!);
  if (causal && ids !== null && logits !== null) {
    return checked(crossEntropy(logits, { kind: 'next-token', ids }));
  }
  throw new InputError('no loss is known for this model: it is not causal, or has no logits for its ids', {
    remedy:
      `Give data with "${LABELS}", hide tokens with --mask-id, bring a metric with --metric, ` +
      'or limit the output error with --max-error.',
  });
}

/** The same metric, refusing values that nothing can be compared with. */
function checked(metric: Metric): Metric {
  return {
    ...metric,
    measure: async (window, outputs, reference) => {
      const score = await metric.measure(window, outputs, reference);
      if (!Number.isFinite(score.value)) {
        throw new InputError(`${window.name}: the metric (${metric.name}) is ${score.value}`, {
          remedy: 'Check the data, and that the model itself gives finite outputs for it.',
        });
      }
      // Nothing is further off than outputs that are not comparable.
      return Number.isFinite(score.divergence) ? score : { ...score, divergence: Number.MAX_VALUE };
    },
  };
}
