import { writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { type Axis, type Plot, plotImage } from '../../rewriter/report-plot.js';
import { multiplyAdds, NAMES, ordered, type Results, readResults } from './results.js';
import { tables } from './tables.js';

/**
 * Draws the plots of the README beside the results, and prints its tables:
 *
 *   node dist/models/structured-attention/render-results.js models/structured-attention/results/
 */
/** Regressions are no wider than this, but one. */
const COMMON_WIDTH = 256;
const folder = pathToFileURL(`${process.argv[2] ?? 'models/structured-attention/results'}/`);
const results = readResults(folder);
for (const [name, drawn] of Object.entries(plotsOf(results))) {
  writeFileSync(new URL(`${name}.svg`, folder), plotImage(drawn));
}
process.stdout.write(`${Object.values(tables(results)).join('\n\n')}\n`);

function plotsOf({ language, regression }: Results): Readonly<Record<string, Plot>> {
  const bits: Axis = { label: 'bits per byte', scale: 'log', ticks: [1, 1.5, 2, 3], format: String };
  const kinds = [...new Set(ordered(language).map(({ attention }) => attention))];
  const squaredError: Omit<Axis, 'ticks'> = {
    label: 'squared error / dimension',
    scale: 'log',
    format: String,
  };
  const learners = learnersOf(regression);
  const spent: Axis = {
    label: 'multiply-adds in training, forward',
    scale: 'log',
    ticks: [1e13, 1e14, 1e15],
    format: exponent,
  };
  return {
    'loss-against-compute': {
      title: 'Held-out loss against the cost of a byte',
      description: 'Bits per byte against multiply-adds of a forward pass per byte, by kind of attention',
      x: { label: 'multiply-adds per byte', scale: 'log', ticks: [2e6, 4e6, 8e6], format: millions },
      y: { ...bits, ticks: [1, 1.2, 1.5, 2] },
      series: kinds.map(kind => ({
        name: NAMES[kind]!,
        mark: 'line',
        points: language
          .filter(({ attention }) => attention === kind)
          .map(model => ({ x: multiplyAdds(model), y: model.held_out_bits_per_byte }))
          .sort((a, b) => a.x - b.x),
      })),
    },
    training: {
      title: 'Training loss against compute',
      description: 'Bits per byte in training against multiply-adds spent, by kind of attention and width',
      x: spent,
      y: bits,
      series: ordered(language)
        .filter(({ attention }) =>
          language.some(model => model.attention === attention && model.width === 128),
        )
        .map(model => ({
          name: `${NAMES[model.attention]}, width ${model.width}`,
          mark: 'line',
          points: model.curve.map(([step, loss]) => ({
            x: step * model.bytes_per_step * multiplyAdds(model),
            y: loss,
          })),
        })),
    },
    'regression-by-dimension': {
      title: 'In-context regression by dimension',
      description: 'Squared error after training by dimension and kind of attention',
      x: { label: 'dimensions', scale: 'log', ticks: [16, 32, 64, 128], format: String },
      y: { ...squaredError, ticks: [0.01, 0.03, 0.1] },
      series: learners.map(({ name, runs }, look) => ({
        name,
        look,
        mark: 'line',
        points: runs.map(({ dimension, last_error }) => ({ x: dimension, y: last_error })),
      })),
    },
    'regression-by-step': {
      title: 'In-context regression in 128 dimensions',
      description: 'Squared error by step of training, of examples with all dimensions',
      x: { label: 'step', scale: 'linear', ticks: [0, 10000, 20000], format: String },
      y: { ...squaredError, ticks: [0.1, 0.3, 1] },
      series: learners.map(({ name, runs }, look) => ({
        name,
        look,
        mark: 'line',
        points: runs
          .filter(({ dimension }) => dimension === 128)
          .flatMap(({ curve }) => curve.map(([step, error]) => ({ x: step, y: error }))),
      })),
      guides: [{ axis: 'y', at: 1, label: 'predicting zero' }],
    },
  };
}

/** Kinds of attention, with the width where it is larger than that of the others, and their runs by dimension. */
function learnersOf(regression: Results['regression']) {
  const byName = new Map<string, Results['regression'][number][]>();
  for (const run of ordered(regression)) {
    const name = `${NAMES[run.attention]}${run.width > COMMON_WIDTH ? `, width ${run.width}` : ''}`;
    byName.set(name, [...(byName.get(name) ?? []), run]);
  }
  return [...byName].map(([name, runs]) => ({
    name,
    runs: runs.sort((a, b) => a.dimension - b.dimension),
  }));
}

function exponent(value: number): string {
  return value.toExponential(0).replace('+', '');
}

function millions(value: number): string {
  return `${(value / 1e6).toPrecision(2)} M`;
}
