import { difference } from '../validation/difference.js';
import type { Metric } from './metric.js';

/** Mean relative squared error of the outputs against the original's: for models without a known loss. */
export function outputError(outputs: readonly string[]): Metric {
  return {
    name: 'relative squared error of the outputs',
    kind: 'error',
    outputs,
    measure: async (_window, actual, reference) => {
      const errors = outputs.map(
        name => difference(reference.get(name)!, actual.get(name)!).relative_squared_error,
      );
      return errors.reduce<number>((sum, error) => sum + (error ?? Number.NaN), 0) / outputs.length;
    },
  };
}
