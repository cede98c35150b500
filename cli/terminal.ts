import pc from 'picocolors';

/** Colors for text on stdout; plain text when it is no terminal or NO_COLOR is set. */
export const colors = pc.createColors(process.stdout.isTTY === true && pc.isColorSupported);

// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what a terminal would act on.
const CONTROLS = /\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]/g;

/** Text as terminals show it: names in models may hold anything, control sequences too. Colors stay. */
export function printable(text: string): string {
  return text.replace(CONTROLS, '\ufffd');
}

/** Prints `text` and a line feed on stdout. */
export function print(text: string): void {
  process.stdout.write(`${printable(text)}\n`);
}

/** Prints a note for people on stderr, where it cannot disturb a JSON document. */
export function note(text: string): void {
  process.stderr.write(`${printable(text)}\n`);
}

/** Prints one JSON document on one line. Numbers that JSON lacks (NaN, infinities) become null. */
export function printJson(document: unknown): void {
  process.stdout.write(`${JSON.stringify(document)}\n`);
}

export interface Column {
  readonly title: string;
  readonly align?: 'left' | 'right';
}

/** Lines of a table with aligned columns; cells may hold color codes. */
export function table(columns: readonly Column[], rows: readonly (readonly string[])[]): string {
  const widths = columns.map((column, c) =>
    Math.max(column.title.length, ...rows.map(row => visibleLength(row[c] ?? ''))),
  );
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, c) => {
        const padding = ' '.repeat(widths[c]! - visibleLength(cell));
        return columns[c]!.align === 'right' ? padding + cell : cell + padding;
      })
      .join('  ')
      .trimEnd();
  const titles = columns.map(column => colors.bold(column.title));
  return [line(titles), line(widths.map(width => colors.dim('─'.repeat(width)))), ...rows.map(line)].join(
    '\n',
  );
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: the escape character starts every color code.
const COLOR_CODE = /\x1b\[[0-9;]*m/g;

function visibleLength(text: string): number {
  return text.replace(COLOR_CODE, '').length;
}

const BAR_WIDTH = 24;

/** Milliseconds between redraws: fast enough to look alive, too slow to cost time. */
const REDRAW = 80;

/** A progress bar on stderr: drawn only on a terminal, silent elsewhere. */
export class ProgressBar {
  private drawn: { readonly at: number; readonly label: string } | null = null;

  constructor(private readonly stream: NodeJS.WriteStream = process.stderr) {}

  /** Shows that `done` of `total` is over and that `label` is under way. */
  update(done: number, total: number, label: string): void {
    if (!this.stream.isTTY) return;
    const at = performance.now();
    if (this.drawn?.label === label && at - this.drawn.at < REDRAW) return;
    const fraction = total > 0 ? done / total : 1;
    const filled = Math.round(fraction * BAR_WIDTH);
    const bar = '█'.repeat(filled) + '░'.repeat(BAR_WIDTH - filled);
    const line = `${bar} ${Math.floor(100 * fraction)}% ${label}`;
    this.stream.write(`\r\x1b[2K${printable(line).slice(0, (this.stream.columns || 80) - 1)}`);
    this.drawn = { at, label };
  }

  /** Removes the bar, leaving the line to what is printed next. */
  clear(): void {
    if (this.drawn !== null) this.stream.write('\r\x1b[2K');
    this.drawn = null;
  }
}
