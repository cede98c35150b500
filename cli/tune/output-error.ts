import { difference } from '../validation/difference.js';
import type { Metric, Tensors } from './metric.js';

/** Mean relative squared error of the outputs against the original's: for models without a known loss. */
export function outputError(outputs: readonly string[]): Metric {
  return {
    name: 'relative squared error of the outputs',
    kind: 'error',
    outputs,
    slope: { mean: 1, error: 0 },
    measure: async (_window, actual, reference) => {
      const error = meanError(outputs, actual, reference);
      return { value: error, divergence: error };
    },
  };
}

/** Mean over the outputs; NaN where one of them has no measure. */
export function meanError(outputs: readonly string[], actual: Tensors, reference: Tensors): number {
  const errors = outputs.map(
    name => difference(reference.get(name)!, actual.get(name)!).relative_squared_error,
  );
  return errors.reduce<number>((sum, error) => sum + (error ?? Number.NaN), 0) / outputs.length;
}
