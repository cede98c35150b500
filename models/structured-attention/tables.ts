import { type LanguageModel, multiplyAdds, NAMES, ordered, type Results } from './results.js';

/** The tables of the README in Markdown, by name. */
export function tables({ language, regression, forecasting }: Results): Readonly<Record<string, string>> {
  return {
    regression: regressionTable(regression),
    language: languageTable(language),
    forecasting: forecastingTable(forecasting),
  };
}

function regressionTable(results: Results['regression']): string {
  const error = (value: number) => (value < 0.1 ? value.toFixed(4) : value.toFixed(3));
  const rows = ordered(results).map(each => ({
    ...each,
    cells: [NAMES[each.attention]!, String(each.width), String(each.layers), millions(each.parameters)],
  }));
  return table(
    ['dimensions', 'attention', 'width', 'layers', 'parameters', 'steps', 'squared error'],
    [...rows]
      .sort((a, b) => a.dimension - b.dimension)
      .map(({ dimension, cells, steps, last_error }) => [
        String(dimension),
        ...cells,
        String(steps),
        error(last_error),
      ]),
  );
}

function languageTable(results: readonly LanguageModel[]): string {
  const span = (values: readonly number[], digits: number) =>
    `${Math.min(...values).toFixed(digits)} to ${Math.max(...values).toFixed(digits)}`;
  return table(
    [
      'attention',
      'width',
      'bits per byte',
      'multiply-adds',
      'in attention',
      'largest weight',
      'effective keys',
    ],
    [...ordered(results)]
      .sort((a, b) => b.width - a.width)
      .map(model => [
        NAMES[model.attention]!,
        String(model.width),
        model.held_out_bits_per_byte.toFixed(3),
        millions(multiplyAdds(model)),
        millions(model.layers * model.attention_multiply_adds),
        span(model.largest_weight, 3),
        span(model.effective_keys, 0),
      ]),
  );
}

function forecastingTable(results: Results['forecasting']): string {
  const horizons = [...new Set(results.map(({ horizon }) => horizon))].sort((a, b) => a - b);
  const kinds = [...new Set(ordered(results).map(({ attention }) => attention))];
  return table(
    ['attention', ...horizons.flatMap(horizon => [`${horizon}: MSE`, 'MAE'])],
    kinds.map(kind => [
      NAMES[kind]!,
      ...horizons.flatMap(horizon => {
        const found = results.find(each => each.attention === kind && each.horizon === horizon)!;
        return [found.mse.toFixed(3), found.mae.toFixed(3)];
      }),
    ]),
  );
}

const millions = (count: number) => `${(count / 1e6).toFixed(count < 1e6 ? 3 : 2)} M`;

/** The first column is text, numbers stand to the right. */
function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = header.map((name, n) => Math.max(4, name.length, ...rows.map(row => row[n]!.length)));
  const isText = header.map((_, n) => rows.every(row => /[a-z]{4}/.test(row[n]!)));
  const pad = (text: string, n: number) => (isText[n] ? text.padEnd(widths[n]!) : text.padStart(widths[n]!));
  const line = (cells: readonly string[]) => `| ${cells.map(pad).join(' | ')} |`;
  const rule = widths.map((width, n) => (isText[n] ? '-'.repeat(width) : `${'-'.repeat(width - 1)}:`));
  return [line(header), line(rule), ...rows.map(line)].join('\n');
}
