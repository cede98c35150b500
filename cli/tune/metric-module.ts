import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { basename, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { InputError } from '../../rewriter/errors.js';
import type { TensorValue } from '../data/tensor.js';
import type { Metric, Tensors } from './metric.js';
import { meanError } from './output-error.js';

/**
 * What a metric module exports as default: the loss of one window, lower is better.
 *
 *     export default function ({ inputs, outputs, extras }) { return 0.7; }
 *
 * All three are objects from names to `{ type, dims, data }`, row-major; `extras` holds the arrays of the data
 * that are no inputs of the model.
 */
export type MetricFunction = (window: {
  readonly inputs: Readonly<Record<string, TensorValue>>;
  readonly outputs: Readonly<Record<string, TensorValue>>;
  readonly extras: Readonly<Record<string, TensorValue>>;
}) => number | Promise<number>;

const REMEDY = 'It exports a default function ({ inputs, outputs, extras }) that returns a number.';

/** Of the module's own text, so that measurements are not taken for those of another version of it. */
export function metricModuleHash(file: string): string {
  try {
    return createHash('sha256').update(readFileSync(file)).digest('hex');
  } catch (error) {
    throw new InputError(
      `${file}: cannot be read (${(error as NodeJS.ErrnoException).code ?? error})`,
      { file, remedy: 'Check the path of --metric.' },
      { cause: error },
    );
  }
}

/**
 * Loads a user's metric.
 * @throws InputError when the module does not load or exports no function
 */
export async function loadMetricModule(file: string, outputs: readonly string[]): Promise<Metric> {
  let exported: { readonly default?: unknown };
  try {
    exported = await import(pathToFileURL(resolve(file)).href);
  } catch (error) {
    throw new InputError(
      `${file}: the metric module does not load: ${(error as Error).message}`,
      { file, remedy: REMEDY },
      { cause: error },
    );
  }
  if (typeof exported.default !== 'function') {
    throw new InputError(`${file}: the metric module has no default function`, { file, remedy: REMEDY });
  }
  const loss = exported.default as MetricFunction;
  return {
    name: `${basename(file)}`,
    kind: 'loss',
    outputs,
    slope: null,
    measure: async (window, actual, reference) => {
      let value: unknown;
      try {
        value = await loss({
          inputs: Object.fromEntries(window.feeds),
          outputs: asRecord(actual),
          extras: Object.fromEntries(window.extras),
        });
      } catch (error) {
        throw new InputError(
          `${file}: the metric fails on ${window.name}: ${(error as Error).message}`,
          { file, remedy: REMEDY },
          { cause: error },
        );
      }
      if (typeof value === 'number') return { value, divergence: meanError(outputs, actual, reference) };
      throw new InputError(`${file}: the metric returned ${JSON.stringify(value)}, not a number`, {
        file,
        remedy: REMEDY,
      });
    },
  };
}

function asRecord(tensors: Tensors): Record<string, TensorValue> {
  return Object.fromEntries(tensors);
}
