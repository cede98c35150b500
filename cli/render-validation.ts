import { formatError } from '../rewriter/format.js';
import { errorText, lengthTitle } from '../rewriter/report.js';
import { type Difference, type Validation, within } from '../rewriter/validation.js';
import { describeFallbacks, describeRuntime } from './runtime/describe-runtime.js';
import { colors, table } from './terminal.js';

/** A validation for the terminal. */
export function renderValidation(validation: Validation): string {
  const { budgets } = validation;
  const sections = validation.lengths.map(length =>
    [
      `${colors.bold(lengthTitle(length))}: ${verdict(length.passed)}`,
      ...(length.sites.length === 0
        ? []
        : [
            table(
              [
                { title: 'site' },
                { title: 'isolated', align: 'right' },
                { title: 'propagated', align: 'right' },
                { title: 'note' },
              ],
              length.sites.map(({ id, details, note, rows_without_keys }) => [
                id,
                graded(details.isolated, budgets.max_error),
                errorText(details.propagated),
                [note, rows_without_keys > 0 ? `${rows_without_keys} rows without keys left out` : null]
                  .filter(part => part !== null)
                  .join('; '),
              ]),
            ),
          ]),
      table(
        [
          { title: 'output' },
          { title: 'error', align: 'right' },
          { title: 'largest difference', align: 'right' },
          { title: 'cosine', align: 'right' },
        ],
        length.outputs.map(output => [
          output.name,
          graded(output, budgets.max_output_error),
          formatError(output.max_abs_error),
          output.cosine?.toFixed(6) ?? '–',
        ]),
      ),
    ].join('\n'),
  );
  return [
    `Validated on inputs: ${validation.inputs}; ${describeRuntime(validation.runtime)}`,
    ...describeFallbacks(validation.runtime),
    `Errors are relative squared errors; budgets: site ${budgets.max_error}, output ${budgets.max_output_error}`,
    ...validation.notes.map(text => colors.yellow(`note: ${text}`)),
    '',
    sections.join('\n\n'),
    '',
    `Validation ${verdict(validation.passed)}.`,
  ].join('\n');
}

function verdict(passed: boolean): string {
  return passed ? colors.green('passed') : colors.red('failed');
}

function graded(measured: Difference | null, budget: number): string {
  const text = errorText(measured);
  if (measured === null) return text;
  return within(measured, budget) ? text : colors.red(`${text} over budget`);
}
